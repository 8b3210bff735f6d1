//! The name that Cloudflare gives an image.

use std::fmt;
use std::sync::Arc;

/// The most characters an image's id can have ("up to 1024 characters", Cloudflare's direct creator upload).
pub const MAX_ID_CHARACTERS: usize = 1024;

/// The most bytes an id can have to be inserted by us. An entry of a Postgres B-tree holds at most 2,704 bytes, so a longer id
/// has no place under the unique index on `cloudflare_id`.
const MAX_INDEXED_ID_BYTES: usize = 2600;

/// Cloudflare's id of an image: opaque text, which may contain `/` and need not be a UUID.
///
/// Cheap to clone: the text is shared.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CloudflareId(Arc<str>);

/// Why a text is no [`CloudflareId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be text of 1 to {MAX_ID_CHARACTERS} characters, not blank and without control characters"
)]
pub struct InvalidId;

impl CloudflareId {
    /// Checks a text: 1 to [`MAX_ID_CHARACTERS`] characters, not all of them white space, none of them a control character.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let is_short_enough =
            text.len() <= MAX_ID_CHARACTERS || text.chars().count() <= MAX_ID_CHARACTERS;
        let is_blank = text.chars().all(char::is_whitespace);

        if is_short_enough && !is_blank && !text.chars().any(char::is_control) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidId)
        }
    }

    /// The id's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether every database is sure to hold a row with this id under its unique index. Some longer ones would fit, but we
    /// insert none that might not: a notification for it names an unknown image, unless an app has inserted it.
    #[must_use]
    pub fn fits_index(&self) -> bool {
        self.0.len() <= MAX_INDEXED_ID_BYTES
    }
}

impl fmt::Display for CloudflareId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CloudflareId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_text_up_to_1024_characters() {
        for text in [
            "a",
            "2cdc28f0-017a-49c4-9ed7-87056c83901",
            "users/42/avatar.png",
            "it's \"quoted\"",
            "'; DROP TABLE cloudflare_images; --",
            "🦀🦀",
            &"x".repeat(1024),
            &"🦀".repeat(1024),
        ] {
            assert_eq!(
                CloudflareId::parse(text).map(|id| id.to_string()),
                Ok(text.to_owned())
            );
        }
    }

    #[test]
    fn rejects_blank_long_and_control_characters() {
        for text in [
            "",
            " ",
            "\u{a0}\u{2003}",
            &"x".repeat(1025),
            &"🦀".repeat(1025),
            "a\0b",
            "a\nb",
            "\u{7f}",
        ] {
            assert_eq!(CloudflareId::parse(text), Err(InvalidId), "{text:?}");
        }
    }
}
