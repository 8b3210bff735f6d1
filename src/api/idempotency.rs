//! The header `Idempotency-Key`: a client can repeat a request without a second effect.
//!
//! Source: <https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>.

use axum::http::HeaderMap;
use axum::http::header::HeaderName;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::problem::invalid_field;
use super::token::TokenName;
use crate::application::uploads::RequestKey;
use crate::web::Problem;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The maximum length of a key. The database stores it in an index.
const MAX_KEY_CHARACTERS: usize = 255;

/// Returns the key in the header, if there is one.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let is_valid = (1..=MAX_KEY_CHARACTERS).contains(&value.len())
        && value.as_bytes().iter().all(u8::is_ascii_graphic)
        && values.next().is_none();
    let key = value.to_str().ok().filter(|_| is_valid);
    let key = key.ok_or_else(|| {
        let rule =
            format!("must occur once, and have 1 to {MAX_KEY_CHARACTERS} visible ASCII characters");
        invalid_field("Idempotency-Key", &rule)
    })?;
    Ok(Some(key.to_owned()))
}

/// Returns the key of a client's request. The keys of two clients never collide, because a name has no slash.
pub(super) fn request_key(client: &TokenName, key: &str, body: &Map<String, Value>) -> RequestKey {
    // The fields are sorted, so their order in the request makes no difference.
    let body = serde_json::to_vec(body).expect("parsed JSON can be written");
    RequestKey {
        id: format!("{}/{key}", client.as_str()),
        request_digest: hex::encode(Sha256::digest(body)),
    }
}
