//! Every `toml` block of the documentation is a configuration file that the program accepts. A
//! block with only a part of a file has the flag `part`.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::pages::{BOOK, Block, blocks, pages_below};
use crate::support::program::{run, stderr};

/// A value that is valid for every secret.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Returns the names in `${NAME}`.
fn variables(text: &str) -> Vec<&str> {
    let parts = text.split("${").skip(1);
    parts
        .filter_map(|part| part.split_once('}'))
        .map(|(name, _)| name)
        .collect()
}

/// Replaces each file name in a setting by the name of an existing file.
fn with_files(text: &str, folder: &Path) -> String {
    let lines = text.lines().map(|line| {
        let Some((key, _)) = line.split_once("_file = ") else {
            return line.to_owned();
        };
        let content = match key.trim() {
            "url" => "sqlite://data/images.db",
            "cloudflare_addresses" => "192.0.2.0/24",
            _ => SECRET,
        };
        let file = folder.join(key.trim());
        fs::write(&file, content).expect("a file");
        format!("{key}_file = {:?}", file.display().to_string())
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Fails if the program does not accept the block.
fn check(block: &Block) {
    let folder = TempDir::with_prefix("images-webhook-docs-").expect("a temporary folder");
    let text = with_files(&block.text, folder.path());
    fs::write(folder.path().join("my.toml"), &text).expect("a file");
    let variables: Vec<(&str, &str)> = variables(&text)
        .into_iter()
        .map(|name| (name, SECRET))
        .collect();

    let output = run(
        folder.path(),
        &["--config", "my.toml", "check-config"],
        &variables,
    );

    assert!(
        output.status.success(),
        "{}: {}",
        block.place,
        stderr(&output)
    );
}

#[test]
fn every_configuration_is_accepted() {
    let mut pages = pages_below(BOOK);
    pages.extend(["README.md", "ARCHITECTURE.md"].map(str::to_owned));
    let blocks: Vec<Block> = pages.iter().flat_map(|page| blocks(page)).collect();
    let is_configuration = |block: &&Block| block.language == "toml" && !block.has("part");

    let checked = blocks.iter().filter(is_configuration).map(check);

    assert!(checked.count() > 0, "the configurations were found");
}
