//! The messages that the sources log at warn and error, read from the text.

use std::fs;
use std::path::Path;

use crate::pages::repository;

/// The macros that log, with their levels. The access log has a macro of its own.
const MACROS: [(&str, &str); 4] = [
    ("tracing::warn!(", "warn"),
    ("tracing::error!(", "error"),
    ("write_line!(warn,", "warn"),
    ("write_line!(error,", "error"),
];

/// A logged message. Each value in it is replaced by `…`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LogCall {
    pub(super) level: &'static str,
    pub(super) message: String,
}

/// Returns the calls in the sources of the library.
pub(super) fn of_sources() -> Vec<LogCall> {
    let mut calls = Vec::new();
    collect(&repository().join("src"), &mut calls);
    calls
}

fn collect(folder: &Path, calls: &mut Vec<LogCall>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, calls);
        } else if path.extension().is_some_and(|kind| kind == "rs") && !path.ends_with("tests.rs") {
            calls.extend(of_text(&fs::read_to_string(&path).expect("text")));
        }
    }
}

fn of_text(text: &str) -> Vec<LogCall> {
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let code = lines.collect::<Vec<_>>().join("\n");
    for name in ["warn!(", "error!("] {
        let qualified = format!("tracing::{name}");
        assert_eq!(
            code.matches(name).count(),
            code.matches(&qualified).count(),
            "a call without tracing:: is not found: {code}"
        );
    }
    let mut calls = Vec::new();
    for (name, level) in MACROS {
        for (at, _) in code.match_indices(name) {
            let message = message(&code[at + name.len()..]);
            calls.push(LogCall { level, message });
        }
    }
    calls
}

/// Returns the message of a macro call: the first argument that is only a string.
fn message(arguments: &str) -> String {
    let arguments = split(arguments);
    let message = arguments
        .iter()
        .find_map(|argument| argument.trim().strip_prefix('"')?.strip_suffix('"'));
    let message = message.unwrap_or_else(|| panic!("a call without a message: {arguments:?}"));
    without_values(&message.replace("\\\"", "\""))
}

/// Splits the arguments of a macro at the commas, up to the closing parenthesis.
fn split(text: &str) -> Vec<&str> {
    let (mut arguments, mut from, mut depth) = (Vec::new(), 0, 0);
    let (mut is_string, mut is_escaped) = (false, false);
    for (at, character) in text.char_indices() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' if is_string => is_escaped = true,
            '"' => is_string = !is_string,
            _ if is_string => {}
            '(' | '[' | '{' => depth += 1,
            ')' if depth == 0 => {
                arguments.push(&text[from..at]);
                break;
            }
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                arguments.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    arguments
}

/// Replaces each value in braces.
fn without_values(message: &str) -> String {
    let mut parts = message.split('{');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        let rest = part.split_once('}').map_or(part, |(_, rest)| rest);
        format!("{text}…{rest}")
    })
}

#[test]
fn finds_calls_of_every_form() {
    let code = r#"
        // tracing::warn!("a comment");
        tracing::info!("not this");
        tracing::warn!(%error, name = f(a, "b"), "one, {error} \"two\"");
        Err(error) => tracing::error!(
            error = chain(&error),
            "three {}", four
        ),
        write_line!(error, self, result, "five with {status}");
    "#;

    let calls = of_text(code);

    let found: Vec<(&str, &str)> = calls
        .iter()
        .map(|call| (call.level, call.message.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            ("warn", "one, … \"two\""),
            ("error", "three …"),
            ("error", "five with …")
        ]
    );
}
