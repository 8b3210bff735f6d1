//! The name of this program in its requests.

/// The value of the header `User-Agent`.
pub(crate) const USER_AGENT: &str =
    concat!("cloudflare-images-webhook/", env!("CARGO_PKG_VERSION"));
