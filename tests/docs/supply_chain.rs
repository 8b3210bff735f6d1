//! The files that build and check the program agree: targets, pinned versions, and no skipped check.

use std::collections::BTreeMap;

use crate::pages::read;

/// The files with commands.
const FILES: [&str; 5] = [
    "Makefile",
    "Dockerfile",
    ".ci/run",
    ".github/workflows/ci.yml",
    ".github/workflows/audit.yml",
];

/// Returns the recipes of the Makefile by target. The first line of a recipe has the target's prerequisites.
fn recipes() -> BTreeMap<String, String> {
    let makefile = read("Makefile").replace("\\\n", " ");
    let (mut recipes, mut targets) = (BTreeMap::<String, String>::new(), Vec::new());
    for line in makefile.lines() {
        if line.starts_with('\t') {
            for target in &targets {
                let recipe = recipes.entry(String::clone(target)).or_default();
                recipe.push('\n');
                recipe.push_str(line);
            }
        } else if let Some((names, prerequisites)) = line.split_once(':')
            && !line.starts_with(['#', '.', ' '])
            && !names.contains('=')
        {
            targets = names.split_whitespace().map(str::to_owned).collect();
            for target in &targets {
                let recipe = recipes.entry(target.clone()).or_default();
                *recipe += prerequisites;
            }
        } else {
            targets.clear();
        }
    }
    recipes
}

/// Returns the commands of a file that begin with these words.
fn commands(file: &str, words: &str) -> Vec<String> {
    let text = read(file).replace("$(CARGO)", "cargo");
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    lines
        .filter_map(|line| line.split_once(words))
        .map(|(_, arguments)| {
            let end = arguments
                .find([';', '&', '|', '\\'])
                .unwrap_or(arguments.len());
            arguments[..end].trim().to_owned()
        })
        .collect()
}

/// Returns the targets that a file's `make` commands build.
fn make_targets(file: &str) -> Vec<String> {
    let text = read(file);
    let lines = text.lines().map(str::trim);
    lines
        .filter_map(|line| {
            line.strip_prefix("- run: ")
                .unwrap_or(line)
                .strip_prefix("make ")
        })
        .flat_map(str::split_whitespace)
        .map(str::to_owned)
        .collect()
}

/// Returns the value of a variable of the Makefile.
fn variable(name: &str) -> String {
    let makefile = read("Makefile");
    let value = makefile
        .lines()
        .find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix("= "));
    value
        .unwrap_or_else(|| panic!("{name} is not set"))
        .to_owned()
}

fn is_version(text: &str) -> bool {
    let parts: Vec<&str> = text.split('.').collect();
    parts.len() == 3 && parts.iter().all(|part| part.parse::<u32>().is_ok())
}

#[test]
fn installed_tools_have_pinned_versions() {
    let mut tools = Vec::new();
    for file in FILES {
        for arguments in commands(file, "cargo install ") {
            assert!(arguments.contains("--locked"), "{file}: {arguments}");
            let (tool, version) = arguments
                .split_whitespace()
                .find_map(|argument| argument.split_once('@'))
                .unwrap_or_else(|| panic!("{file}: no version in {arguments}"));
            let version = match version.strip_prefix("$(") {
                Some(name) => variable(name.trim_end_matches(')')),
                None => version.to_owned(),
            };
            assert!(is_version(&version), "{file}: {tool} {version}");
            tools.push(tool.to_owned());
        }
    }

    tools.sort();
    assert_eq!(tools, ["cargo-auditable", "cargo-deny", "mdbook"]);
}

#[test]
fn make_commands_name_existing_targets() {
    let recipes = recipes();
    for file in FILES {
        for target in make_targets(file) {
            assert!(recipes.contains_key(&target), "{file}: make {target}");
        }
    }
}

#[test]
fn check_never_skips_dependencies() {
    let recipes = recipes();

    assert!(recipes["ci"].contains("check"), "{}", recipes["ci"]);
    let check = &recipes["check"];
    assert!(check.starts_with(" require-cargo-deny\n"), "{check}");
    let deny = "$(CARGO) deny --locked check bans licenses sources";
    assert!(check.lines().any(|line| line.trim() == deny), "{check}");
    let required = &recipes["require-cargo-deny"];
    assert!(
        required.contains("\"cargo-deny $(CARGO_DENY)\"") && required.contains("exit 1"),
        "{required}"
    );
    assert!(recipes["tools"].contains("cargo-deny"));
    assert_eq!(make_targets(".ci/run"), ["tools", "ci"]);
    assert!(read(".ci/run").contains("\nset -e"));
    assert!(read(".github/workflows/ci.yml").contains("bash .ci/run"));
}

#[test]
fn workflow_audits_every_day() {
    let workflow = read(".github/workflows/audit.yml");

    assert!(workflow.contains("schedule:"), "{workflow}");
    let cron = workflow.split("cron: \"").nth(1).expect("a schedule");
    let days: Vec<&str> = cron.split(['\"', ' ']).skip(2).take(3).collect();
    assert_eq!(days, ["*"; 3]);
    assert_eq!(
        make_targets(".github/workflows/audit.yml"),
        ["cargo-deny", "audit"]
    );
    let audit = &recipes()["audit"];
    assert!(audit.starts_with(" require-cargo-deny\n"), "{audit}");
    assert!(
        audit.contains("cannot be fetched") && audit.contains("exit 1"),
        "{audit}"
    );
    assert!(audit.contains("check advisories"), "{audit}");
}

#[test]
fn image_has_bill_of_materials() {
    let dockerfile = read("Dockerfile");
    let builds = commands("Dockerfile", "cargo auditable build ");

    assert_eq!(builds, ["--release --locked"; 2]);
    assert!(
        !dockerfile.contains("cargo build"),
        "a build without a bill of materials"
    );
}

#[test]
fn image_has_toolchain_of_repository() {
    let toolchain = read("rust-toolchain.toml");
    let version = toolchain.split("channel = \"").nth(1).expect("a channel");
    let minor = version.split_once('\"').expect("an end").0;
    let minor = minor.rsplit_once('.').expect("three numbers").0;

    assert!(read("Dockerfile").contains(&format!("FROM rust:{minor}-")));
    assert!(read("Cargo.toml").contains(&format!("rust-version = \"{minor}\"")));
}
