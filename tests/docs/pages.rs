//! The pages of the documentation, and their fenced blocks.

use std::fs;
use std::path::Path;

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// The folder of the book's pages.
pub(crate) const BOOK: &str = "docs/src";

/// The folder of the repository.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the text of a file, named by its path from the repository.
pub(crate) fn read(path: &str) -> String {
    let text = fs::read_to_string(repository().join(path));
    text.unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns the paths of the pages below a folder, sorted.
pub(crate) fn pages_below(folder: &str) -> Vec<String> {
    let mut pages = Vec::new();
    for entry in fs::read_dir(repository().join(folder)).expect("a folder") {
        let entry = entry.expect("an entry");
        let path = format!("{folder}/{}", entry.file_name().display());
        if entry.path().is_dir() {
            pages.extend(pages_below(&path));
        } else if entry.path().extension().is_some_and(|kind| kind == "md") {
            pages.push(path);
        }
    }
    pages.sort();
    pages
}

/// A fenced block. Its info string has the language, then flags after commas: `sh,not-run`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    /// The page, and the line of the opening fence.
    pub(crate) place: String,
    pub(crate) language: String,
    pub(crate) text: String,
    flags: Vec<String>,
}

impl Block {
    /// Returns whether the info string has this flag.
    pub(crate) fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|one| one == flag)
    }

    /// Returns the value of a flag such as `file=my.toml`.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        let mut flags = self.flags.iter().filter_map(|flag| flag.split_once('='));
        flags
            .find(|(flag, _)| *flag == name)
            .map(|(_, value)| value)
    }
}

/// Returns the fenced blocks of a page, in order.
pub(crate) fn blocks(page: &str) -> Vec<Block> {
    blocks_of(page, &read(page))
}

fn blocks_of(page: &str, text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut current: Option<Block> = None;
    let parser = Parser::new_ext(text, Options::ENABLE_TABLES);
    for (event, range) in parser.into_offset_iter() {
        match event {
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info))) => {
                let line = text[..range.start].matches('\n').count() + 1;
                let mut words = info.split([',', ' ']).map(str::to_owned);
                current = Some(Block {
                    place: format!("{page}:{line}"),
                    language: words.next().unwrap_or_default(),
                    text: String::new(),
                    flags: words.collect(),
                });
            }
            Event::Text(text) => {
                if let Some(block) = &mut current {
                    block.text.push_str(&text);
                }
            }
            Event::End(TagEnd::CodeBlock) => blocks.extend(current.take()),
            _ => {}
        }
    }
    blocks
}

#[test]
fn reads_blocks_in_lists() {
    let text = "# Page\n\n1. Write a file:\n\n   ```toml,file=my.toml,part\n   [log]\n     format = 1\n   ```\n\n```sh\ntrue\n```\n";

    let blocks = blocks_of("page.md", text);

    assert_eq!(blocks.len(), 2);
    assert_eq!(blocks[0].place, "page.md:5");
    assert_eq!(blocks[0].language, "toml");
    assert_eq!(blocks[0].value("file"), Some("my.toml"));
    assert!(blocks[0].has("part"));
    assert_eq!(blocks[0].text, "[log]\n  format = 1\n");
    assert_eq!(blocks[1].place, "page.md:10");
}
