//! `reference/problems-and-logs.md`: the causes and remedies of problem types, exit codes, warnings
//! and errors.

mod log_calls;

use std::collections::BTreeSet;

use axum::http::StatusCode;
use cloudflare_images_webhook::domain::outcome::RejectionReason;

use crate::command_line;
use crate::generated::rows_of_table;
use crate::pages::read;

const PAGE: &str = "docs/src/reference/problems-and-logs.md";

/// Returns the rows of the table that begins with these two headings. No cell may be empty.
fn rows(first_heading: &str, second_heading: &str) -> Vec<Vec<String>> {
    let rows = rows_of_table(
        &read(PAGE),
        &[first_heading, second_heading, "cause", "remedy"],
    );
    for row in &rows {
        assert!(
            row.len() == 4 && row.iter().all(|cell| !cell.is_empty()),
            "{row:?}"
        );
    }
    rows
}

/// Returns the first two cells of each row.
fn pairs(rows: &[Vec<String>]) -> BTreeSet<(String, String)> {
    let cell = |text: &str| {
        let is_code = text.starts_with('`');
        let text = if is_code {
            text.trim_matches('`').trim()
        } else {
            text
        };
        text.to_owned()
    };
    let pairs: Vec<_> = rows
        .iter()
        .map(|row| (cell(&row[0]), cell(&row[1])))
        .collect();
    let set: BTreeSet<_> = pairs.iter().cloned().collect();
    assert_eq!(set.len(), pairs.len(), "{PAGE} has a row twice: {pairs:?}");
    set
}

/// Returns the problem types of `src/web/problem.rs`, with their statuses. That file has one match
/// for the names and one for the statuses.
fn problem_types(source: &str) -> BTreeSet<(String, String)> {
    let arms: Vec<(&str, &str)> = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Self::")?.strip_suffix(','))
        .filter_map(|arm| arm.split_once(" => "))
        .collect();
    let status_of = |variant: &str| {
        let constant = arms.iter().find_map(|(other, value)| {
            value
                .strip_prefix("StatusCode::")
                .filter(|_| *other == variant)
        });
        status(constant.unwrap_or_else(|| panic!("{variant} has no status")))
    };
    let is_name = |value: &str| {
        value
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || b"-\"".contains(&byte))
    };
    arms.iter()
        .filter(|(_, value)| value.starts_with('"') && is_name(value))
        .map(|(variant, value)| {
            (
                value.trim_matches('"').to_owned(),
                status_of(variant).to_string(),
            )
        })
        .collect()
}

/// Returns the number of a status such as `NOT_FOUND`.
fn status(constant: &str) -> u16 {
    let is_meant = |code: &u16| {
        let reason = StatusCode::from_u16(*code)
            .ok()
            .and_then(|status| status.canonical_reason());
        reason.is_some_and(|reason| reason.to_uppercase().replace(' ', "_") == constant)
    };
    (400..600)
        .find(is_meant)
        .unwrap_or_else(|| panic!("unknown status {constant}"))
}

#[test]
fn page_lists_every_problem_type() {
    let mut expected = problem_types(&read("src/web/problem.rs"));
    assert!(expected.len() >= 7, "the types were found: {expected:?}");
    let rejections = RejectionReason::ALL.iter();
    expected.extend(
        rejections.map(|reason| (reason.name().to_owned(), reason.http_status().to_string())),
    );

    assert_eq!(pairs(&rows("problem type", "status")), expected);
}

#[test]
fn page_lists_every_exit_code() {
    let codes = rows_of_table(&read(command_line::PAGE), &["exit code", "meaning"]);
    let codes: BTreeSet<_> = codes
        .into_iter()
        .map(|row| (row[0].clone(), row[1].clone()))
        .collect();

    assert_eq!(pairs(&rows("exit code", "meaning")), codes);
}

#[test]
fn page_lists_every_warning_and_error() {
    let expected: BTreeSet<_> = log_calls::of_sources()
        .into_iter()
        .map(|call| (call.message, call.level.to_owned()))
        .collect();
    assert!(expected.len() > 20, "the messages were found");

    let listed = pairs(&rows("message", "level"));

    let missing: Vec<_> = expected.difference(&listed).collect();
    let outdated: Vec<_> = listed.difference(&expected).collect();
    assert!(
        missing.is_empty() && outdated.is_empty(),
        "{PAGE}\nlacks: {missing:#?}\nhas, and the code does not log: {outdated:#?}"
    );
}
