//! What the checks need to know about the installation.

use std::sync::Arc;

use crate::clock::Clock;
use crate::cloudflare::Client;
use crate::domain::event::Subscriptions;
use crate::outbound::Authorities;
use crate::{receiver, store};

/// What the checks need to know about the installation.
pub(crate) struct Installation<'a> {
    /// The warnings about the configuration.
    pub(crate) warnings: Vec<String>,
    pub(crate) strictness: Strictness,
    pub(crate) webhook: &'a receiver::Settings,
    pub(crate) database: &'a store::Settings,
    pub(crate) subscriptions: &'a Subscriptions,
    /// The public URL of the webhook. `None`: that of the destination at Cloudflare.
    pub(crate) url: Option<String>,
    /// The client of Cloudflare's API. `None`: no account is set.
    pub(crate) cloudflare: Option<Client>,
    pub(crate) authorities: &'a Authorities,
    pub(crate) clock: Arc<dyn Clock>,
    /// The webhook on this machine. `None`: its port is not known.
    pub(crate) local_webhook: Option<LocalUrl>,
    /// The readiness probe on this machine. `None`: its port is not known.
    pub(crate) local_readiness: Option<LocalUrl>,
}

/// How serious a weak secret is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strictness {
    /// The service warns.
    Development,
    /// The service does not start.
    Production,
}

/// The address of a listener, as clients on this machine reach it.
#[derive(Debug, Clone)]
pub(crate) struct LocalUrl {
    /// The address and the port.
    pub(crate) address: String,
    /// The URL to read.
    pub(crate) url: String,
}
