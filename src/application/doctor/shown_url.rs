//! A URL for people.

use url::Url;

/// Returns a URL without its user, its password and its query, which may be secret.
pub(super) fn shown_url(text: &str) -> String {
    let Ok(mut url) = Url::parse(text) else {
        return "the URL".to_owned();
    };
    // A URL without a host has no user either.
    let _no_host = url.set_username("").and_then(|()| url.set_password(None));
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}
