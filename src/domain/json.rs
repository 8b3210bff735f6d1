//! JSON as text that the service passes on without interpreting it.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

/// The limit of nested arrays and objects in JSON that the service accepts. The service nests it a few levels deeper in the audit
/// log and in events, and many programs read at most 128 levels.
pub const MAX_ACCEPTED_LEVELS: usize = 100;

/// A JSON text.
///
/// JSON from a notification is in canonical form: no white space, keys sorted, no duplicate key, no negative zero.
/// Two canonical texts are equal if they mean the same. JSON from a database is in the database's form. The store converts it to
/// the canonical form before it compares it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Json(Box<str>);

impl Json {
    /// Wraps a text that is in canonical form.
    #[must_use]
    pub fn from_canonical(text: String) -> Self {
        Self(text.into_boxed_str())
    }

    /// Wraps a text in the form that a database returned.
    #[must_use]
    pub fn as_stored(text: String) -> Self {
        Self(text.into_boxed_str())
    }

    /// Returns the empty object.
    #[must_use]
    pub fn empty_object() -> Self {
        Self("{}".into())
    }

    /// Returns the empty array.
    #[must_use]
    pub fn empty_array() -> Self {
        Self("[]".into())
    }

    /// Returns the text with U+FFFD instead of each U+0000, because Postgres's `jsonb` cannot store U+0000.
    #[must_use]
    pub fn without_nul(&self) -> Cow<'_, str> {
        const NUL: &str = "\\u0000";
        let mut rest = self.as_str();
        // An escaped backslash before `u0000` matches too. The loop below tells them apart.
        if !rest.contains(NUL) {
            return Cow::Borrowed(rest);
        }
        let mut text = String::with_capacity(rest.len());
        while let Some(escape) = rest.find('\\') {
            text.push_str(&rest[..escape]);
            rest = &rest[escape..];
            if let Some(after) = rest.strip_prefix(NUL) {
                text.push('\u{fffd}');
                rest = after;
            } else {
                // The backslash and the character after it, which is ASCII in any escape.
                let (kept, after) = rest.split_at_checked(2).unwrap_or((rest, ""));
                text.push_str(kept);
                rest = after;
            }
        }
        text.push_str(rest);
        Cow::Owned(text)
    }

    /// Returns the JSON text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PartialOrd for Json {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Json {
    /// Compares by length first, because a longer text has more content.
    fn cmp(&self, other: &Self) -> Ordering {
        self.0
            .len()
            .cmp(&other.0.len())
            .then_with(|| self.0.cmp(&other.0))
    }
}

impl fmt::Debug for Json {
    /// Writes only the size, because a body must not get into a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Json({} bytes)", self.0.len())
    }
}

/// Returns whether a JSON text has more than this number of nested arrays and objects.
///
/// For a text that is not JSON, a parser cannot get deeper than the result says before it finds the error.
#[must_use]
pub fn is_deeper_than(text: &[u8], levels: usize) -> bool {
    let (mut depth, mut bytes) = (0_usize, text.iter());
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' => {
                depth += 1;
                if depth > levels {
                    return true;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => skip_string(&mut bytes),
            _ => {}
        }
    }
    false
}

/// Advances the bytes to the end of the string.
fn skip_string(bytes: &mut std::slice::Iter<'_, u8>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_only_nul() {
        for (text, expected) in [
            (r#"{"a":"b"}"#, r#"{"a":"b"}"#),
            (
                r#"{"a\u0000":"\u0000\u0000"}"#,
                "{\"a\u{fffd}\":\"\u{fffd}\u{fffd}\"}",
            ),
            (
                r#"["\\u0000","\\\u0000"]"#,
                "[\"\\\\u0000\",\"\\\\\u{fffd}\"]",
            ),
            (r#"["\"\u0000\n"]"#, "[\"\\\"\u{fffd}\\n\"]"),
        ] {
            let json = Json::from_canonical(text.to_owned());
            assert_eq!(json.without_nul(), expected, "{text}");
        }
    }

    #[test]
    fn depth_ignores_strings() {
        for (text, depth) in [
            ("1", 0),
            ("{}", 1),
            (r#"{"a":[{}],"b":[[]]}"#, 3),
            (r#"["[[[\"[[","\\",[1]]"#, 2),
            ("[[1],[2],[3]]", 2),
        ] {
            assert!(!is_deeper_than(text.as_bytes(), depth), "{text}");
            assert!(
                depth == 0 || is_deeper_than(text.as_bytes(), depth - 1),
                "{text}"
            );
        }
    }
}
