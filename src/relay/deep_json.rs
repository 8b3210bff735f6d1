//! Reads JSON that apps may have nested deeper than the 128 levels at which `serde_json` stops by default.

use serde::Deserialize;
use serde_json::{Deserializer, Value};

use crate::domain::json::is_deeper_than;

/// The limit of nesting. SQLite's JSON functions read a column of up to 1,000 levels, and an event has it two levels deeper
/// (`object.metadata`). Postgres stores up to about 6,500 levels.
pub const MAX_DEPTH: usize = 1024;

/// The reason why a text cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableJson {
    /// The text is not JSON.
    #[error("the event is not JSON")]
    NotJson,
    /// The text has more than [`MAX_DEPTH`] levels.
    #[error("the event is nested too deeply: it has more than {MAX_DEPTH} levels")]
    TooDeep,
}

/// Fails if the text has too many levels. Functions that call themselves for each level are then safe.
pub(super) fn check_depth(text: &str) -> Result<(), UnreadableJson> {
    if is_deeper_than(text.as_bytes(), MAX_DEPTH) {
        return Err(UnreadableJson::TooDeep);
    }
    Ok(())
}

/// Parses a text of up to [`MAX_DEPTH`] levels. The relay's threads have enough stack for it.
pub(super) fn parse(text: &str) -> Result<Value, UnreadableJson> {
    check_depth(text)?;
    let mut deserializer = Deserializer::from_str(text);
    deserializer.disable_recursion_limit();
    let value = Value::deserialize(&mut deserializer).map_err(|_| UnreadableJson::NotJson)?;
    deserializer.end().map_err(|_| UnreadableJson::NotJson)?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(levels: usize, open: &str, close: &str) -> String {
        format!("{}1{}", open.repeat(levels), close.repeat(levels))
    }

    #[test]
    fn reads_up_to_the_limit() {
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
            for levels in [1, 128, MAX_DEPTH] {
                let text = nested(levels, open, close);
                let value = parse(&text).expect("a value");
                assert_eq!(serde_json::to_string(&value).ok(), Some(text));
            }
            let over = nested(MAX_DEPTH + 1, open, close);
            assert_eq!(parse(&over), Err(UnreadableJson::TooDeep));
        }
    }

    #[test]
    fn refuses_text_that_is_not_json() {
        for text in ["", "{", "1 2", "nan"] {
            assert_eq!(parse(text), Err(UnreadableJson::NotJson), "{text}");
        }
    }
}
