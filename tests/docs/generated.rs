//! Reference pages with a generated part. A test compares that part with the code, or rewrites it.

use std::fs;

use crate::pages::{read, repository};
use crate::support::variable;

/// The line that separates the handwritten part of a page from the generated part.
const MARKER: &str =
    "<!-- Generated below this line. To update: UPDATE_DOCS=1 cargo test --test docs -->\n";

/// Fails if a page's generated part differs from this text. With `UPDATE_DOCS=1`, rewrites the page
/// instead.
pub(crate) fn check(page: &str, generated: &str) {
    let text = read(page);
    let (by_hand, current) = text
        .split_once(MARKER)
        .unwrap_or_else(|| panic!("{page} has no line: {MARKER}"));
    let expected = format!("\n{}\n", generated.trim());
    if current == expected {
        return;
    }
    assert!(
        variable("UPDATE_DOCS").is_some(),
        "{page} is out of date at: {}\nTo update it: UPDATE_DOCS=1 cargo test --test docs",
        first_difference(current, &expected)
    );
    fs::write(
        repository().join(page),
        format!("{by_hand}{MARKER}{expected}"),
    )
    .expect("the page can be written");
}

fn first_difference(current: &str, expected: &str) -> String {
    let mut lines = current.lines();
    let mut different = expected
        .lines()
        .skip_while(|line| lines.next() == Some(*line));
    different.next().unwrap_or("(the end)").to_owned()
}

/// Writes a row of a table. `|` would end a cell.
pub(crate) fn row(cells: &[&str]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    format!("| {} |\n", cells.join(" | "))
}

/// Writes a table with these headings.
pub(crate) fn table(headings: &[&str], rows: &[String]) -> String {
    let rule: Vec<&str> = headings.iter().map(|_| "---").collect();
    format!("{}{}{}", row(headings), row(&rule), rows.concat())
}

/// Returns the cells of each row of the table that has these headings.
pub(crate) fn rows_of_table(text: &str, headings: &[&str]) -> Vec<Vec<String>> {
    let heading = row(headings);
    let mut lines = text.lines().skip_while(|line| *line != heading.trim_end());
    assert!(lines.next().is_some(), "there is no table {heading}");
    let rows = lines
        .skip(1)
        .map_while(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    rows.map(|row| {
        let row = row.replace("\\|", "\u{0}");
        let cells = row.split(" | ").map(|cell| cell.replace('\u{0}', "|"));
        cells.collect()
    })
    .collect()
}

/// Escapes text, so that Markdown shows it unchanged.
pub(crate) fn plain(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        if matches!(character, '<' | '*' | '\\') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

/// Returns the text as code.
pub(crate) fn code(text: &str) -> String {
    if text.contains('`') {
        format!("`` {text} ``")
    } else {
        format!("`{text}`")
    }
}

#[test]
fn table_rows_are_read_as_written() {
    let rows = [row(&["`a|b`", "one"]), row(&["c", "two"])];
    let text = format!("# Page\n\n{}\nMore.\n", table(&["name", "meaning"], &rows));

    let read = rows_of_table(&text, &["name", "meaning"]);

    assert_eq!(read, [["`a|b`", "one"], ["c", "two"]]);
}
