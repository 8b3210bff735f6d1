//! The id that Cloudflare gives an image.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

/// The maximum length of an image id in characters. Cloudflare documents the limit for direct creator uploads.
pub const MAX_ID_CHARACTERS: usize = 1024;

/// The maximum length in bytes of an id that the service inserts. A Postgres B-tree entry has at most 2,704 bytes, so the unique
/// index on `cloudflare_id` cannot hold every longer id.
const MAX_INDEXED_ID_BYTES: usize = 2600;

/// The id of an image at Cloudflare: opaque text. It may contain `/`, and it need not be a UUID.
///
/// Clones are cheap because they share the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CloudflareId(Arc<str>);

/// The error for a text that is not a valid image id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be text of 1 to {MAX_ID_CHARACTERS} characters, not blank and without control characters"
)]
pub struct InvalidId;

impl CloudflareId {
    /// Parses an id. A valid id has 1 to [`MAX_ID_CHARACTERS`] characters, no control characters, and is not blank.
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

    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether the unique index of every database can hold this id.
    ///
    /// Some longer ids may fit too, but the service does not insert them. Their images are unknown unless an app inserted the row.
    #[must_use]
    pub fn fits_index(&self) -> bool {
        self.0.len() <= MAX_INDEXED_ID_BYTES
    }
}

impl CloudflareId {
    /// Returns whether Cloudflare accepts the id for a new image: it is no UUID, and has no slash at its beginning or end.
    ///
    /// Source: <https://developers.cloudflare.com/api/resources/images/subresources/v2/subresources/direct_uploads/>.
    #[must_use]
    pub fn is_custom(&self) -> bool {
        let has_outer_slash = self.0.starts_with('/') || self.0.ends_with('/');
        !has_outer_slash && Uuid::parse_str(&self.0).is_err()
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
    fn custom_id_is_no_uuid_or_outer_slash() {
        for (text, is_custom) in [
            ("users/7/cat.jpg", true),
            ("2cdc28f0-017a-49c4-9ed7-87056c83901", true),
            ("image-2cdc28f0017a49c49ed787056c839011", true),
            ("2cdc28f0-017a-49c4-9ed7-87056c839011", false),
            ("2CDC28F0017A49C49ED787056C839011", false),
            ("/cat", false),
            ("cat/", false),
        ] {
            let id = CloudflareId::parse(text).expect("an id");
            assert_eq!(id.is_custom(), is_custom, "{text}");
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
