//! Cloudflare's test message.

use serde_json::{Map, Value};

use super::repair::is_marked_number;

/// What every wording of Cloudflare's test message contains, in lower case.
const TEST_MESSAGE: &str = "test message";

/// Returns whether this is the message of Cloudflare's "Save and Test". Its wording varies, but `text` is always its only key, and
/// always says that it is a test message.
pub(super) fn is_test_message(object: &Map<String, Value>) -> bool {
    let text = object
        .get("text")
        .and_then(Value::as_str)
        .unwrap_or_default();
    is_text_alone(object) && text.to_ascii_lowercase().contains(TEST_MESSAGE)
}

/// Returns whether `text` is the only field, and a string.
pub(super) fn is_text_alone(object: &Map<String, Value>) -> bool {
    let is_text = |value: &Value| value.is_string() && !is_marked_number(value);
    object.len() == 1 && object.get("text").is_some_and(is_text)
}
