//! The common base of connections to other servers: the trusted certificate authorities, and reading responses under a limit.

mod authorities;
mod response;
mod settings;

pub(crate) use authorities::{Authorities, HTTP_PROTOCOL, config_without_authorities};
pub(crate) use response::read_capped;
pub use settings::Settings;

/// The value of the header `User-Agent`.
pub(crate) const USER_AGENT: &str =
    concat!("cloudflare-images-webhook/", env!("CARGO_PKG_VERSION"));
