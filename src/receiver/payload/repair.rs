//! The repair of a body that a strict parser refuses because of a single value.
//!
//! Some senders write a half of a surrogate pair, bytes that are not UTF-8, or a number that no double can hold. Such a value may
//! be in a detail, and an invalid detail must not prevent the status from being applied. The repair marks the values with U+0000,
//! which no id, no status and no detail may contain. So a marked id or status is refused, and a marked detail is left out.
//!
//! The repair changes nothing else. A syntax error stays a syntax error, and the nesting stays the same.

use serde_json::Value;

/// The mark for bytes that are not UTF-8, and for half of a surrogate pair.
const UNICODE_MARK: &[u8] = br"\u0000";

/// The beginning of a text that stands for a number out of range. The digits follow.
const NUMBER_MARK: &str = "\0number ";

/// Returns the repaired body, or `None` if there is nothing to repair. The repaired body is at most six times as long.
pub(super) fn repair(body: &[u8]) -> Option<Vec<u8>> {
    let mut repaired = Repaired {
        bytes: Vec::with_capacity(body.len()),
        is_changed: false,
    };
    let mut rest = body;
    while let Some((first, after)) = rest.split_first() {
        rest = match first {
            b'"' => {
                repaired.bytes.push(b'"');
                repaired.add_string(after)
            }
            b'-' | b'0'..=b'9' => repaired.add_number(rest),
            other => {
                repaired.bytes.push(*other);
                after
            }
        };
    }
    repaired.is_changed.then_some(repaired.bytes)
}

/// Returns whether this value is a text with U+0000: a marked one, or one that was sent like that.
pub(super) fn is_marked(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.contains('\0'))
}

/// Returns whether this value stands for a number out of range.
pub(super) fn is_marked_number(value: &Value) -> bool {
    value
        .as_str()
        .is_some_and(|text| text.starts_with(NUMBER_MARK))
}

struct Repaired {
    bytes: Vec<u8>,
    is_changed: bool,
}

impl Repaired {
    /// Adds a string whose opening quote was added. Returns the bytes after it.
    fn add_string<'a>(&mut self, mut rest: &'a [u8]) -> &'a [u8] {
        loop {
            let is_end = |byte: &u8| matches!(byte, b'"' | b'\\');
            let end = rest.iter().position(is_end).unwrap_or(rest.len());
            let (text, after) = rest.split_at(end);
            self.add_text(text);
            rest = match after {
                [] => return after,
                [b'"', after @ ..] => {
                    self.bytes.push(b'"');
                    return after;
                }
                escape => self.add_escape(escape),
            };
        }
    }

    /// Adds text without escapes.
    fn add_text(&mut self, text: &[u8]) {
        for chunk in text.utf8_chunks() {
            self.bytes.extend_from_slice(chunk.valid().as_bytes());
            if !chunk.invalid().is_empty() {
                self.add_unicode_mark();
            }
        }
    }

    /// Adds an escape, which begins with a backslash. Returns the bytes after it.
    ///
    /// RFC 8259, section 7: two escapes form a surrogate pair, the high one first.
    fn add_escape<'a>(&mut self, escape: &'a [u8]) -> &'a [u8] {
        let length = match code_unit(escape) {
            Some(0xd800..=0xdbff) => match code_unit(&escape[6..]) {
                Some(0xdc00..=0xdfff) => 12,
                Some(_) | None => 0,
            },
            Some(0xdc00..=0xdfff) => 0,
            // The backslash and the next byte. It can be another backslash or a quote.
            Some(_) | None => escape.len().min(2),
        };
        if length == 0 {
            self.add_unicode_mark();
            return &escape[6..];
        }
        self.bytes.extend_from_slice(&escape[..length]);
        &escape[length..]
    }

    fn add_unicode_mark(&mut self) {
        self.bytes.extend_from_slice(UNICODE_MARK);
        self.is_changed = true;
    }

    /// Adds a number. Returns the bytes after it.
    fn add_number<'a>(&mut self, rest: &'a [u8]) -> &'a [u8] {
        let is_end = |byte: &u8| !matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        let end = rest.iter().position(is_end).unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        // A number before a colon is a syntax error, which stays one.
        let next = after.iter().find(|byte| !byte.is_ascii_whitespace());
        let is_value = next != Some(&b':');
        if is_value && is_number(number) && serde_json::from_slice::<Value>(number).is_err() {
            self.bytes.extend_from_slice(br#""\u0000number "#);
            self.bytes.extend_from_slice(number);
            self.bytes.push(b'"');
            self.is_changed = true;
        } else {
            self.bytes.extend_from_slice(number);
        }
        after
    }
}

/// Returns the code unit of an escape such as `\ud83d`.
fn code_unit(escape: &[u8]) -> Option<u16> {
    let digits = escape.get(..6)?.strip_prefix(br"\u")?;
    let is_hexadecimal = digits.iter().all(u8::is_ascii_hexdigit);
    let digits = std::str::from_utf8(digits)
        .ok()
        .filter(|_| is_hexadecimal)?;
    u16::from_str_radix(digits, 16).ok()
}

/// Returns whether the text is a number (RFC 8259, section 6).
fn is_number(text: &[u8]) -> bool {
    let unsigned = text.strip_prefix(b"-").unwrap_or(text);
    let (integer, rest) = split_digits(unsigned);
    let (fraction, rest) = match rest.strip_prefix(b".") {
        Some(rest) => split_digits(rest),
        None => (&b"0"[..], rest),
    };
    let (exponent, rest) = match rest {
        [b'e' | b'E', b'+' | b'-', rest @ ..] | [b'e' | b'E', rest @ ..] => split_digits(rest),
        rest => (&b"0"[..], rest),
    };
    let has_digits = [integer, fraction, exponent]
        .iter()
        .all(|digits| !digits.is_empty());
    has_digits && rest.is_empty() && (integer == b"0" || !integer.starts_with(b"0"))
}

fn split_digits(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_digit());
    text.split_at(end.unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repaired(body: &[u8]) -> Option<String> {
        repair(body).map(|body| String::from_utf8(body).expect("text"))
    }

    #[test]
    fn marks_halves_of_surrogate_pairs() {
        for (text, expected) in [
            (r#"["\ud800"]"#, r#"["\u0000"]"#),
            (r#"["\uDC00x"]"#, r#"["\u0000x"]"#),
            (r#"["\ud800\ud800\udc00"]"#, r#"["\u0000\ud800\udc00"]"#),
            (r#"["\udc00\ud800"]"#, r#"["\u0000\u0000"]"#),
            (r#"["\ud800\n\ud800"]"#, r#"["\u0000\n\u0000"]"#),
            (r#"["\ud800A"]"#, r#"["\u0000A"]"#),
            (r#"["\\\ud800"]"#, r#"["\\\u0000"]"#),
            (r#"["\"\udfff\""]"#, r#"["\"\u0000\""]"#),
            (r#"{"a\ud800":1}"#, r#"{"a\u0000":1}"#),
        ] {
            assert_eq!(
                repaired(text.as_bytes()).as_deref(),
                Some(expected),
                "{text}"
            );
        }
    }

    #[test]
    fn leaves_valid_values_and_syntax_errors() {
        for text in [
            r#"["\ud83d\ude00", "\uD83D\uDE00", "😀"]"#,
            r#"["\\ud800", "\\\\udc00", "\u0041", "\u0000"]"#,
            r#"["1e400", "a\"1e400"]"#,
            "[1, -0, 1.5e308, 1e-400, 18446744073709551616, 0.1]",
            "[01e400, 1.e400, 1e, 1e+, -, --1e400, 1e400.5]",
            r#"["\ud80", "\u", "\"#,
            r#"["\ud8"#,
            "",
        ] {
            assert_eq!(repaired(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn marks_bytes_that_are_not_utf_8() {
        for (body, expected) in [
            (&b"[\"a\xffb\"]"[..], r#"["a\u0000b"]"#),
            (b"[\"\xc3\x28\"]", r#"["\u0000("]"#),
            (b"[\"\xe2\x82\"]", r#"["\u0000"]"#),
            (b"[\"\xed\xa0\x80\"]", r#"["\u0000\u0000\u0000"]"#),
            (b"[\"\xe2\\n\"]", r#"["\u0000\n"]"#),
            (b"{\"\xff\":\"\\ud800\"}", r#"{"\u0000":"\u0000"}"#),
        ] {
            assert_eq!(repaired(body).as_deref(), Some(expected));
        }
        assert_eq!(repair(b"[\xff]"), None, "it is outside of strings");
    }

    #[test]
    fn marks_numbers_out_of_range() {
        for number in ["1e400", "-1E+400", "1.5e309", "1e99999999999999999999"] {
            let body = format!(r#"{{"a":{number},"b":[{number}]}}"#);
            let expected =
                format!(r#"{{"a":"\u0000number {number}","b":["\u0000number {number}"]}}"#);

            assert_eq!(repaired(body.as_bytes()), Some(expected), "{number}");
        }
        let long = "9".repeat(400);
        assert!(repair(long.as_bytes()).is_some());
    }

    #[test]
    fn recognizes_marked_numbers() {
        let repaired = repair(b"1e400").expect("it is out of range");
        let value: Value = serde_json::from_slice(&repaired).expect("JSON");

        assert!(is_marked_number(&value));
        assert!(!is_marked_number(&Value::from("number 1e400")));
    }
}
