//! Prints the steps at Cloudflare.

use super::super::output::{escape_control, print_line};
use crate::application::cloudflare::{Change, Step, Subject};

/// Prints a step: what was done, or in a dry run what would be done.
pub(super) fn print_step(step: &Step, is_dry_run: bool) {
    let (done, would_do) = match step.change {
        Change::Create => ("created", "would create"),
        Change::Update => ("updated", "would update"),
        Change::Enable => ("enabled", "would enable"),
        Change::Keep => ("kept", "would keep"),
        Change::Delete => ("deleted", "would delete"),
    };
    let verb = if is_dry_run { would_do } else { done };
    let subject = match step.subject {
        Subject::Destination => "webhook destination",
        Subject::Policy => "notification policy",
    };
    let id = step.id.as_ref().map(|id| format!(" ({id})"));
    let line = format!(
        "{verb} the {subject} {:?}{}",
        step.name,
        id.unwrap_or_default()
    );
    print_line(&escape_control(&line));
}
