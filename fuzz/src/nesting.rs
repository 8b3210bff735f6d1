//! Invariants of deeply nested JSON.
//!
//! An input has the number of levels in two bytes, the number of brackets that are missing at the end in one byte, and a pattern.
//! Each byte of the pattern is an array or an object. The pattern repeats until the levels are reached.

use std::sync::LazyLock;

use cloudflare_images_webhook::config::{Environment, load};
use cloudflare_images_webhook::domain::event::Model;
use cloudflare_images_webhook::domain::json::{MAX_ACCEPTED_LEVELS, is_deeper_than};
use cloudflare_images_webhook::receiver::payload::{self, Pointers};
use cloudflare_images_webhook::relay::payload::FieldFilters;
use cloudflare_images_webhook::relay::{MAX_DEPTH, UnreadableJson};

/// More levels than either database stores.
const MAX_LEVELS: usize = 10_000;

/// Parses a payload with this nesting, filters an event with it, and checks the invariants:
///
/// - A complete payload is accepted exactly up to its limit, and refused with this reason above it.
/// - A complete event is filtered exactly up to its limit, and refused with this reason above it.
/// - A cut text is refused.
///
/// Returns whether the payload is accepted.
pub fn check(input: &[u8]) -> bool {
    let (levels, missing, pattern) = match input {
        [low, high, missing, pattern @ ..] => (
            usize::from(u16::from_le_bytes([*low, *high])) % MAX_LEVELS,
            usize::from(*missing),
            pattern,
        ),
        _ => (0, 0, input),
    };
    let nested = nested(levels, pattern);

    let payload = cut(
        format!(r#"{{"id":"image","uploaded":"2024-01-01T12:00:00Z","other":{nested}}}"#),
        missing,
    );
    let parsed = payload::parse(payload.as_bytes(), &POINTERS);
    let refusal = parsed.as_ref().err().map(ToString::to_string);
    let is_too_deep = is_deeper_than(payload.as_bytes(), MAX_ACCEPTED_LEVELS);
    assert_eq!(is_too_deep, levels >= MAX_ACCEPTED_LEVELS);
    assert_eq!(parsed.is_ok(), missing == 0 && !is_too_deep, "{refusal:?}");
    let says_too_deep = refusal.is_some_and(|text| text.contains("nested too deeply"));
    assert_eq!(says_too_deep, is_too_deep);

    let event = cut(
        format!(r#"{{"object":{{"filename":"cat.jpg","metadata":{nested}}}}}"#),
        missing,
    );
    let filtered = FILTERS.filter(&event, Model::Image);
    if levels + 2 > MAX_DEPTH {
        assert_eq!(filtered, Err(UnreadableJson::TooDeep));
    } else if missing > 0 {
        assert_eq!(filtered, Err(UnreadableJson::NotJson));
    } else {
        let filtered = filtered
            .expect("the event is JSON")
            .expect("a filtered event");
        assert!(!filtered.contains("filename"), "{filtered}");
    }
    parsed.is_ok()
}

/// Returns a value in this number of arrays and objects.
fn nested(levels: usize, pattern: &[u8]) -> String {
    let (mut text, mut ends) = (String::new(), Vec::new());
    let kinds = pattern.iter().copied().cycle().chain(std::iter::repeat(0));
    for kind in kinds.take(levels) {
        let (open, close) = match kind % 4 {
            0 => ("[", "]"),
            1 => (r#"{"a":"#, "}"),
            2 => (r#"["[[[","#, "]"),
            _ => (r#"{"\"[{":"]}","b":"#, "}"),
        };
        text.push_str(open);
        ends.push(close);
    }
    text.push('1');
    text.extend(ends.into_iter().rev());
    text
}

fn cut(mut text: String, missing: usize) -> String {
    let end = text.len().saturating_sub(missing.min(2));
    text.truncate(end);
    text
}

static POINTERS: LazyLock<Pointers> = LazyLock::new(|| {
    let loaded = load(&Environment::default(), None).expect("the defaults are valid");
    loaded.settings.webhook.envelope.pointers()
});

static FILTERS: LazyLock<FieldFilters> = LazyLock::new(|| {
    let exclude = [(Model::Image.label().to_owned(), vec!["filename".to_owned()])].into();
    FieldFilters::new(&[].into(), &exclude, &[].into()).expect("the filters are valid")
});
