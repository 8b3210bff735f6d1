//! The details of problems and the errors of the configuration are one or two short sentences.

use crate::pages::read;

/// The sources with such texts, and the words before each text.
const SOURCES: [(&str, &str); 13] = [
    ("src/receiver/response.rs", ".detail("),
    ("src/receiver/gate.rs", ".detail("),
    ("src/receiver/body.rs", ".detail("),
    ("src/receiver/payload/error.rs", "#[error("),
    ("src/api/body.rs", ".detail("),
    ("src/api/guard.rs", ".detail("),
    ("src/api/problem.rs", ".detail("),
    ("src/api/upload_url.rs", ".detail("),
    ("src/api/token.rs", "format!("),
    ("src/api/mod.rs", "rule = "),
    ("src/config/error.rs", "#[error("),
    ("src/config/mod.rs", "rule: "),
    ("src/store/url/error.rs", "#[error("),
];

/// The longest sentence, in words.
const MAX_WORDS: usize = 25;

/// The start of the only longer sentence: it lists every known shape of a body.
const LONG_SENTENCE: &str = "Use a test message (only";

/// Returns the string that follows each occurrence of the marker.
fn texts(code: &str, marker: &str) -> Vec<String> {
    let after = code.split(marker).skip(1);
    after
        .filter_map(|text| {
            let text = text.trim_start();
            literal(text.strip_prefix("format!(").unwrap_or(text).trim_start())
        })
        .collect()
}

/// Returns the value of the string literal at the start of the text, if there is one.
fn literal(text: &str) -> Option<String> {
    let mut characters = text.strip_prefix('"')?.chars();
    let mut value = String::new();
    loop {
        match characters.next()? {
            '"' => return Some(value),
            // A line break after a backslash joins the lines. Other escapes are one character.
            '\\' => match characters.next()? {
                '\n' => characters = characters.as_str().trim_start().chars(),
                escaped => value.push(escaped),
            },
            character => value.push(character),
        }
    }
}

/// Returns the problems of a text: too many sentences, or a long one.
fn problems(text: &str) -> Vec<String> {
    let sentences: Vec<&str> = text.split(". ").collect();
    let is_long = |sentence: &&&str| {
        sentence.split_whitespace().count() > MAX_WORDS && !sentence.starts_with(LONG_SENTENCE)
    };
    let long = sentences.iter().filter(is_long);
    let mut problems: Vec<String> = long.map(|sentence| format!("long: {sentence}")).collect();
    if sentences.len() > 2 {
        problems.push(format!("{} sentences: {text}", sentences.len()));
    }
    problems
}

#[test]
fn messages_are_one_or_two_short_sentences() {
    let mut found = Vec::new();
    for (path, marker) in SOURCES {
        let texts = texts(&read(path), marker);
        assert!(!texts.is_empty(), "{path} has no text after {marker}");
        for text in texts {
            found.extend(
                problems(&text)
                    .into_iter()
                    .map(|problem| format!("{path}: {problem}")),
            );
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn finds_long_messages() {
    let code = r#"
        problem.detail(error.to_string())
        problem.detail("One \"a\". \
             Two.")
        problem.detail(format!("One. Two. Three {}.", 3))
    "#;

    let texts = texts(code, ".detail(");

    assert_eq!(texts, ["One \"a\". Two.", "One. Two. Three {}."]);
    assert_eq!(problems(&texts[0]), [""; 0]);
    assert_eq!(problems(&texts[1]), ["3 sentences: One. Two. Three {}."]);
    let long = "word ".repeat(26);
    assert_eq!(problems(&long), [format!("long: {long}")]);
}
