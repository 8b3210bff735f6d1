//! The output that a page shows, compared with the output of its commands.

/// Stands for any text within a line, or alone for any number of lines.
const ELLIPSIS: char = '…';

/// Values that differ from run to run: `d` is a digit, `x` a hexadecimal digit. If two
/// begin with the same characters, the longer one comes first.
const CHANGING: [(&str, &str); 5] = [
    ("dddd-dd-ddTdd:dd:dd.ddddddZ", "TIME"),
    ("dddd-dd-ddTdd:dd:ddZ", "TIME"),
    ("dddd-dd-dd dd:dd:dd.dddddd+dd", "TIME"),
    ("xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx", "UUID"),
    ("evt_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "EVENT"),
];

/// Returns the commands of a `console` block, each with the output that is shown below it.
pub(super) fn commands(text: &str) -> Vec<(String, String)> {
    let mut commands: Vec<(String, String)> = Vec::new();
    let mut continues = false;
    for line in text.lines() {
        let command = line.strip_prefix("$ ");
        match (command, commands.last_mut()) {
            (Some(command), _) => commands.push((command.to_owned(), String::new())),
            (None, Some((command, _))) if continues => {
                command.push('\n');
                command.push_str(line);
            }
            (None, Some((_, output))) => {
                output.push_str(line);
                output.push('\n');
            }
            (None, None) => panic!("a console block begins with $: {line}"),
        }
        continues = (command.is_some() || continues) && line.ends_with('\\');
    }
    commands
}

/// Returns whether an output is what the page shows, apart from times, ids and the width of
/// columns.
pub(super) fn is_alike(shown: &str, found: &str) -> bool {
    lines_match(&normalized(shown), &normalized(found))
}

fn lines_match(shown: &[String], found: &[String]) -> bool {
    match shown.split_first() {
        None => found.is_empty(),
        Some((line, rest)) if line.trim() == "…" => {
            (0..=found.len()).any(|skipped| lines_match(rest, &found[skipped..]))
        }
        Some((line, rest)) => found
            .split_first()
            .is_some_and(|(first, others)| line_matches(line, first) && lines_match(rest, others)),
    }
}

fn line_matches(shown: &str, found: &str) -> bool {
    let Some((start, rest)) = shown.split_once(ELLIPSIS) else {
        return shown == found;
    };
    let Some(found) = found.strip_prefix(start) else {
        return false;
    };
    let starts = found.char_indices().map(|(at, _)| at);
    starts
        .chain([found.len()])
        .any(|at| line_matches(rest, &found[at..]))
}

/// Returns the lines without what may differ, and without empty ones at the end.
fn normalized(text: &str) -> Vec<String> {
    let lines = text.trim_end().lines().map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        without_changing_values(&words.join(" "))
    });
    lines.collect()
}

fn without_changing_values(line: &str) -> String {
    let mut result = String::new();
    let mut rest = line;
    while let Some(next) = rest.chars().next() {
        let value = CHANGING
            .iter()
            .find(|(pattern, _)| begins_with(rest, pattern));
        if let Some((pattern, name)) = value {
            result.push_str(name);
            rest = &rest[pattern.len()..];
        } else {
            result.push(next);
            rest = &rest[next.len_utf8()..];
        }
    }
    result
}

fn begins_with(text: &str, pattern: &str) -> bool {
    let mut bytes = text.bytes();
    pattern.bytes().all(|expected| {
        let byte = bytes.next();
        byte.is_some_and(|byte| match expected {
            b'd' => byte.is_ascii_digit(),
            b'x' => byte.is_ascii_hexdigit(),
            _ => byte == expected,
        })
    })
}

#[test]
fn splits_commands_from_output() {
    let text = "$ echo one \\\n  two\none two\n$ true\n$ echo x\nx\n\ny\n";

    let found = commands(text);

    let expected = [
        ("echo one \\\n  two", "one two\n"),
        ("true", ""),
        ("echo x", "x\n\ny\n"),
    ];
    let expected = expected.map(|(command, output)| (command.to_owned(), output.to_owned()));
    assert_eq!(found, expected);
}

#[test]
fn ignores_times_ids_and_widths() {
    let shown = " a   2026-01-15T10:30:45.123456Z  evt_01a202c3b92f75f085d637e86c2966af\n";
    let found = " a 2030-12-31T00:00:00.000000Z  evt_01b202c3b92f75f085d637e86c2966af  \n\n";

    assert!(is_alike(shown, found));
    assert!(!is_alike(shown, "a\n"));
    assert!(!is_alike(
        "{\"outcome\":\"applied\"}\n",
        "{\"outcome\":\"stale\"}\n"
    ));
}

#[test]
fn ellipsis_stands_for_any_text() {
    assert!(is_alike("a … d\n", "a b c d\n"));
    assert!(is_alike("first\n…\nlast\n", "first\n2\n3\nlast\n"));
    assert!(is_alike("first\n…\n", "first\n"));
    assert!(!is_alike("a … d\n", "a b c\n"));
}
