//! The name of the Postgres channel on which changed images are announced.

use serde::Deserialize;

/// The name of a channel. Empty if the channel is not used.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Channel(String);

/// The length of the longest name that Postgres does not truncate: `NAMEDATALEN` without the final zero byte.
const MAX_NAME_LENGTH: usize = 63;

impl TryFrom<String> for Channel {
    type Error = String;

    /// Accepts only names that `LISTEN` accepts without quotes. Postgres folds unquoted capitals to
    /// lower case, so a listener would wait on another channel.
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let is_plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let is_name = text.len() <= MAX_NAME_LENGTH
            && text.bytes().all(is_plain)
            && !text.starts_with(|first: char| first.is_ascii_digit());
        is_name.then_some(Self(text)).ok_or_else(|| {
            format!(
                "must be a name of up to {MAX_NAME_LENGTH} lowercase letters, digits and _ that does not begin with a digit, or empty"
            )
        })
    }
}

impl Channel {
    pub(super) fn name(&self) -> Option<&str> {
        (!self.0.is_empty()).then_some(&self.0)
    }
}
