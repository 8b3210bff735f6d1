//! The channel on which Postgres says which images changed.

use serde::Deserialize;

/// The name of a channel, or none.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Channel(String);

/// The longest name that Postgres keeps whole (`NAMEDATALEN`, less its end).
const MAX_NAME: usize = 63;

impl TryFrom<String> for Channel {
    type Error = String;

    /// Takes only what `LISTEN` takes without quotes: it would make small letters of capitals, and hear nothing.
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let is_plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let is_name = text.len() <= MAX_NAME
            && text.bytes().all(is_plain)
            && !text.starts_with(|first: char| first.is_ascii_digit());
        is_name.then_some(Self(text)).ok_or_else(|| {
            format!(
                "must be a name of up to {MAX_NAME} small letters, digits and _ that begins with no digit, or empty"
            )
        })
    }
}

impl Channel {
    /// The name.
    pub(super) fn get(&self) -> Option<&str> {
        (!self.0.is_empty()).then_some(&self.0)
    }
}
