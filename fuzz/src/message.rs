//! Invariants of any event on its way through field filters and jq programs.
//!
//! An input is the JSON of an event. The programs run in this process, so they are harmless ones.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use cloudflare_images_webhook::domain::event::Model;
use cloudflare_images_webhook::domain::json::is_deeper_than;
use cloudflare_images_webhook::relay::payload::FieldFilters;
use cloudflare_images_webhook::relay::payload::jq::{ProgramKey, Programs, Verdict};
use cloudflare_images_webhook::relay::{MAX_DEPTH, UnreadableJson};
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

/// The fields that the filters remove.
const DENIED: [&str; 2] = ["filename", "creator"];

/// The field that the filters redact, and its replacement in JSON.
const REDACTED: (&str, &str) = ("error", "\"***\"");

/// `when` and `transform`.
const PROGRAMS: [(&str, &str); 8] = [
    ("", "."),
    (".object.status == \"uploaded\"", ""),
    (".changes | length > 0", "{id, object}"),
    ("", "[paths] | length"),
    ("", "tojson | fromjson"),
    ("", "walk(.)"),
    ("", "[.. | numbers, strings]"),
    ("", ".object |= with_entries(.value |= tostring)"),
];

/// Filters the event, runs the programs on the result and checks the invariants:
///
/// - A filtered event is JSON.
/// - It has no denied field, and a redacted field has only its replacement or null.
/// - An event over the limit of nesting is refused with this reason.
/// - The output of a program is JSON, and has no denied field either.
///
/// Returns whether the event could be filtered.
pub fn check(input: &[u8]) -> bool {
    let Ok(event) = std::str::from_utf8(input) else {
        return false;
    };
    let is_too_deep = is_deeper_than(input, MAX_DEPTH);
    let filtered = match FILTERS.filter(event, Model::Image) {
        Ok(filtered) => filtered.expect("the filters change something"),
        Err(error) => {
            let expected = if is_too_deep {
                UnreadableJson::TooDeep
            } else {
                UnreadableJson::NotJson
            };
            assert_eq!(error, expected);
            return false;
        }
    };
    assert!(!is_too_deep, "an event over the limit was read");
    assert!(is_json(&filtered), "{filtered}");
    check_fields(&filtered);
    for programs in PROGRAM_SETS.iter() {
        if let Ok(Verdict::Replaced(output)) = programs.run(&filtered) {
            assert!(is_json(&output), "{output}");
            check_fields(&output);
        }
    }
    true
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// Checks the fields of `object` and `changes`. A program can make other JSON of them.
fn check_fields(message: &str) {
    for part in ["object", "changes"] {
        let Some(fields) = fields(message).and_then(|message| fields(message.get(part)?.get()))
        else {
            continue;
        };
        for denied in DENIED {
            assert!(
                !fields.contains_key(denied),
                "{part} has {denied}: {message}"
            );
        }
        if let Some(redacted) = fields.get(REDACTED.0).filter(|_| part == "object") {
            assert!(
                [REDACTED.1, "null", "\"null\""].contains(&redacted.get()),
                "{message}"
            );
        }
        let metadata = fields
            .get("metadata")
            .and_then(|value| self::fields(value.get()));
        let is_secret_gone =
            part == "changes" || metadata.is_none_or(|metadata| !metadata.contains_key("secret"));
        assert!(is_secret_gone, "{message}");
    }
}

/// Returns the fields of an object. Their values are not parsed, so their depth does not matter.
fn fields(object: &str) -> Option<HashMap<String, &RawValue>> {
    serde_json::from_str(object).ok()
}

static FILTERS: LazyLock<FieldFilters> = LazyLock::new(|| {
    let label = Model::Image.label().to_owned();
    let mut denied: Vec<String> = DENIED.map(str::to_owned).to_vec();
    denied.push("metadata.secret".to_owned());
    let exclude = BTreeMap::from([(label.clone(), denied)]);
    let redacted = BTreeMap::from([(REDACTED.0.to_owned(), "***".to_owned())]);
    let redact = BTreeMap::from([(label, redacted)]);
    FieldFilters::new(&BTreeMap::new(), &exclude, &redact).expect("the filters are valid")
});

static PROGRAM_SETS: LazyLock<Vec<Programs>> = LazyLock::new(|| {
    let compile = |(when, transform)| {
        let mut programs = Programs::default();
        for (key, code) in [(ProgramKey::When, when), (ProgramKey::Transform, transform)] {
            programs.add(key, code).expect("the program is valid");
        }
        programs
    };
    PROGRAMS.into_iter().map(compile).collect()
});
