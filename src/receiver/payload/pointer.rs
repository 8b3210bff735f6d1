//! JSON pointers (RFC 6901), parsed once and evaluated for many bodies.

use serde_json::Value;

/// A JSON pointer.
#[derive(Debug, Clone)]
pub struct Pointer {
    text: String,
    tokens: Vec<String>,
}

impl Pointer {
    /// Parses a pointer that is not empty. Returns `None` for an invalid pointer.
    ///
    /// RFC 6901, section 3: each token follows a slash, and `~` occurs only in `~0` and `~1`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let has_valid_escapes = text
            .split('~')
            .skip(1)
            .all(|after| after.starts_with(['0', '1']));
        let path = text.strip_prefix('/').filter(|_| has_valid_escapes)?;
        let tokens = path
            .split('/')
            .map(|token| token.replace("~1", "/").replace("~0", "~"));
        Some(Self {
            text: text.to_owned(),
            tokens: tokens.collect(),
        })
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    pub(super) fn find<'v>(&self, document: &'v Value) -> Option<&'v Value> {
        self.tokens
            .iter()
            .try_fold(document, |value, token| match value {
                Value::Object(fields) => fields.get(token),
                Value::Array(values) => values.get(array_index(token)?),
                _ => None,
            })
    }
}

/// Parses an array index. RFC 6901, section 4: digits without a leading zero. The Rust parser would also accept a leading plus.
fn array_index(token: &str) -> Option<usize> {
    let has_valid_start = token == "0" || !token.starts_with(['0', '+']);
    token.parse().ok().filter(|_| has_valid_start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolves_rfc_6901_examples() {
        let document = serde_json::json!({"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, " ": 7, "m~n": 8, "01": 9});

        for (text, expected) in [
            ("/foo", Some(serde_json::json!(["bar", "baz"]))),
            ("/foo/0", Some("bar".into())),
            ("/foo/1", Some("baz".into())),
            ("/", Some(0.into())),
            ("/a~1b", Some(1.into())),
            ("/c%d", Some(2.into())),
            ("/ ", Some(7.into())),
            ("/m~0n", Some(8.into())),
            ("/01", Some(9.into())),
            ("/foo/01", None),
            ("/foo/+1", None),
            ("/foo/-", None),
            ("/foo/2", None),
            ("/foo/0/x", None),
            ("/nothing", None),
        ] {
            let pointer = Pointer::parse(text).expect("a pointer");

            assert_eq!(pointer.find(&document), expected.as_ref(), "{text}");
            assert_eq!(
                document.pointer(text),
                expected.as_ref(),
                "{text}, as serde_json finds it"
            );
        }
    }

    #[test]
    fn rejects_invalid_pointers() {
        for text in ["", "data", "/a~b", "/a~", "/~2"] {
            assert!(Pointer::parse(text).is_none(), "{text}");
        }
    }
}
