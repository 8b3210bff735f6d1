//! A subscriber, made ready from its settings.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use super::guard::Guard;
use super::message::Form;
use super::settings::EndpointSettings;
use super::sink::{self, Sink};
use crate::domain::delivery::RetryPolicy;
use crate::setting::Switch;

pub(super) struct Endpoint {
    pub(super) name: String,
    /// What is made of an event before it is sent.
    pub(super) form: Form,
    /// How it is sent.
    pub(super) sink: Arc<dyn Sink>,
    /// How long one call may take in all.
    pub(super) timeout: Duration,
    pub(super) retry: RetryPolicy,
    pub(super) max_in_flight: usize,
    pub(super) ordered: bool,
    pub(super) paused: Switch,
    rate: Option<DefaultDirectRateLimiter>,
}

impl Endpoint {
    /// Fails with what is wrong, as the end of a sentence about the endpoint.
    pub(super) fn new(settings: &EndpointSettings, guard: &Guard) -> Result<Self, String> {
        settings.check_name()?;
        Ok(Self {
            name: settings.name.clone(),
            form: settings.form()?,
            sink: sink::of(settings, guard)?,
            timeout: settings.timeout(),
            retry: settings.retry()?,
            max_in_flight: settings.max_in_flight.count(),
            ordered: settings.ordered == Switch::On,
            paused: settings.paused,
            rate: rate(settings.rate_limit_per_second.count()),
        })
    }

    /// Waits until another call may begin.
    pub(super) async fn rate_allows(&self) {
        if let Some(rate) = &self.rate {
            rate.until_ready().await;
        }
    }
}

fn rate(per_second: usize) -> Option<DefaultDirectRateLimiter> {
    let per_second = NonZeroU32::new(u32::try_from(per_second).unwrap_or(u32::MAX))?;
    // One at a time: an endpoint that asks for so many a second asks for no bursts.
    let quota = Quota::per_second(per_second).allow_burst(NonZeroU32::MIN);
    Some(RateLimiter::direct(quota))
}
