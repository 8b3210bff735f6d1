//! A path of a route.

use serde::Deserialize;

/// The path of a route. It begins with a slash. A slash at its end makes no difference.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct UrlPath(String);

impl TryFrom<String> for UrlPath {
    type Error = &'static str;

    fn try_from(path: String) -> Result<Self, Self::Error> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
        if path.starts_with('/') && !path.contains("//") && path.bytes().all(is_plain) {
            Ok(Self(path.trim_end_matches('/').to_owned()))
        } else {
            Err(
                "must be a path that begins with a slash, has no double slash, and contains only letters, digits and - . _ ~ /",
            )
        }
    }
}

impl UrlPath {
    /// Returns the path with a slash at its end, as the documentation writes it.
    #[must_use]
    pub fn canonical(&self) -> String {
        format!("{}/", self.0)
    }

    /// Returns the accepted forms of the path: with and without the slash at its end.
    pub(crate) fn routes(&self) -> Vec<String> {
        let routes = [self.canonical(), self.0.clone()];
        routes.into_iter().filter(|path| !path.is_empty()).collect()
    }
}
