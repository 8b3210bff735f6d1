//! The common base of connections to other servers: the trusted certificate authorities, reading responses under a limit,
//! and finding out what answers at a URL.

mod authorities;
mod loopback;
mod probe;
mod response;
mod settings;
mod user_agent;

pub(crate) use authorities::{Authorities, HTTP_PROTOCOL, config_without_authorities};
pub(crate) use loopback::is_loopback;
pub(crate) use probe::{ProbeAnswer, ProbeError, Prober};
pub(crate) use response::read_capped;
pub use settings::Settings;
pub(crate) use user_agent::USER_AGENT;
