//! Every setting, variable, metric and command in the documentation exists.

use std::collections::BTreeSet;

use clap::CommandFactory;
use cloudflare_images_webhook::cli::Cli;
use cloudflare_images_webhook::config_types::is_secret;

use crate::configuration::{self, settings};
use crate::generated::rows_of_table;
use crate::metrics;
use crate::pages::{BOOK, blocks, pages_below, read};

const PROGRAM: &str = "cloudflare-images-webhook";

/// The fields of the response of `/readyz`. In the documentation, they look like settings.
const READINESS_FIELDS: [&str; 4] = [
    "database.ok",
    "database.problem",
    "migrations.ok",
    "migrations.problem",
];

/// The start of every metric's name.
const METRIC_PREFIX: &str = "cloudflare_images_webhook";

/// The table of applied migrations. Its name looks like a metric.
const MIGRATIONS_TABLE: &str = "cloudflare_images_webhook_migrations";

/// The table of adoptions, whose name begins like a metric.
const ADOPTIONS_TABLE: &str = "cloudflare_images_webhook_adoptions";

/// Returns the pages that describe the current release.
fn pages() -> Vec<String> {
    let mut pages = pages_below(BOOK);
    pages.extend(["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"].map(str::to_owned));
    pages
}

/// Returns the words of all pages, each with its page. A word has only these characters.
fn words(is_in_word: impl Fn(char) -> bool) -> Vec<(String, String)> {
    let mut words = Vec::new();
    for page in pages() {
        let text = read(&page);
        let parts = text.split(|character| !is_in_word(character));
        words.extend(parts.map(|word| (page.clone(), word.to_owned())));
    }
    words
}

/// Returns every setting, with the old names, the sections and the files of secrets.
fn known_settings() -> BTreeSet<String> {
    let page = read(configuration::PAGE);
    let renamed = rows_of_table(&page, &["old name", "new name"]).into_iter();
    let renamed = renamed.map(|row| row[0].trim_matches('`').to_owned());
    let keys: Vec<String> = settings(&read("config/default.toml"))
        .iter()
        .map(configuration::Setting::key)
        .chain(renamed)
        .collect();
    let sections = keys.iter().filter_map(|key| key.rsplit_once('.'));
    let sections = sections.map(|(section, _)| section.to_owned());
    let files = keys.iter().filter(|key| is_secret(key));
    let files = files.map(|key| format!("{key}_file"));
    let derived: Vec<String> = sections.chain(files).collect();
    keys.into_iter().chain(derived).collect()
}

#[test]
fn settings_exist() {
    let known = known_settings();
    let sections: BTreeSet<&str> = known
        .iter()
        .filter_map(|key| key.split('.').next())
        .collect();
    let mut unknown = Vec::new();
    for page in pages() {
        let text = read(&page);
        // Code between backticks.
        for code in text.split('`').skip(1).step_by(2) {
            let is_key = code
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || b"._".contains(&byte));
            let section = code.split_once('.').map(|(section, _)| section);
            let is_setting = is_key && section.is_some_and(|section| sections.contains(section));
            if is_setting && !known.contains(code) && !READINESS_FIELDS.contains(&code) {
                unknown.push(format!("{page}: {code}"));
            }
        }
    }

    assert!(unknown.is_empty(), "unknown settings: {unknown:#?}");
}

#[test]
fn environment_variables_exist() {
    let known: BTreeSet<String> = known_settings()
        .iter()
        .map(|key| format!("APP__{}", key.to_uppercase().replace('.', "__")))
        .collect();
    let words = words(|character| character.is_ascii_alphanumeric() || character == '_');
    let unknown: Vec<_> = words
        .iter()
        .filter(|(_, word)| word.starts_with("APP__") && *word != "APP__")
        .filter(|(_, word)| !known.contains(word) && word != "APP__SECTION__KEY")
        .collect();

    assert!(unknown.is_empty(), "unknown variables: {unknown:#?}");
}

/// Returns whether a word is the name of a metric, or its end as in `…_inbox_failed_total`.
fn is_metric(word: &str) -> bool {
    let name = word.trim_start_matches(METRIC_PREFIX);
    let is_short = ["_inbox_", "_relay_", "_parked_", "_tokio_"]
        .iter()
        .any(|start| name.starts_with(start));
    is_short || (word.starts_with(METRIC_PREFIX) && name.len() > 1)
}

#[test]
fn metrics_exist() {
    let page = read(metrics::PAGE);
    let rows = rows_of_table(&page, &["metric", "type", "labels", "meaning"]);
    let mut known: BTreeSet<&str> = rows.iter().map(|row| row[0].trim_matches('`')).collect();
    known.insert(MIGRATIONS_TABLE);
    known.insert(ADOPTIONS_TABLE);
    let words = words(|character| character.is_ascii_alphanumeric() || character == '_');
    let unknown: Vec<_> = words
        .iter()
        .filter(|(_, word)| is_metric(word))
        .filter(|(_, word)| !known.iter().any(|name| name.ends_with(word.as_str())))
        .collect();

    assert!(unknown.is_empty(), "unknown metrics: {unknown:#?}");
}

/// Returns the arguments of the program in a line of a shell, if the line runs it.
fn arguments(line: &str) -> Option<Vec<String>> {
    let line = line.trim().trim_start_matches("$ ");
    let mut words = shell_words(line).into_iter().peekable();
    while words.next_if(|word| word.contains('=')).is_some() {}
    let program = words.next()?;
    let is_program = program == PROGRAM || program.ends_with(&format!("/{PROGRAM}"));
    is_program.then(|| words.collect())
}

/// Splits the first command of a line into words. Quotes are removed, and a variable stays as it
/// is.
fn shell_words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for character in line.chars() {
        match (quote, character) {
            (None, '\'' | '"') => quote = Some(character),
            (Some(open), _) if open == character => quote = None,
            (None, '|' | '>' | '<' | '#' | ';' | '&') => break,
            (None, ' ') => words.push(std::mem::take(&mut word)),
            _ => word.push(character),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn commands_exist() {
    let (mut count, mut wrong) = (0, Vec::new());
    for block in pages().iter().flat_map(|page| blocks(page)) {
        if !["sh", "console", "text"].contains(&block.language.as_str()) || block.has("usage") {
            continue;
        }
        let text = block.text.replace("\\\n", " ");
        let is_output = |line: &str| block.language == "console" && !line.starts_with("$ ");
        let commands = text.lines().filter(|line| !is_output(line));
        for arguments in commands.filter_map(arguments) {
            let command = [PROGRAM.to_owned()].into_iter().chain(arguments);
            let parsed = Cli::command().try_get_matches_from(command);
            // `--help` and `--version` are not errors to the user.
            if let Err(error) = parsed.map(drop)
                && error.use_stderr()
            {
                wrong.push(format!("{}: {error}", block.place));
            }
            count += 1;
        }
    }

    assert!(count > 20, "the commands were found");
    assert!(wrong.is_empty(), "wrong commands:\n{}", wrong.join("\n"));
}

#[test]
fn finds_arguments_of_the_program() {
    let found = |line| arguments(line).map(|words| words.join("|"));

    assert_eq!(
        found("$ A=1 target/release/cloudflare-images-webhook verify --header \"a: b\" >x"),
        Some("verify|--header|a: b".to_owned())
    );
    assert_eq!(
        found("cloudflare-images-webhook    # serves"),
        Some(String::new())
    );
    assert_eq!(found("docker run cloudflare-images-webhook serve"), None);
}
