//! A subscriber, made ready from its settings.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use reqwest::Client;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use secrecy::ExposeSecret;
use url::{Host, Url};

use super::guard::Guard;
use super::message::Form;
use super::oauth2::{Credentials, Tokens};
use super::settings::{AuthSettings, EndpointSettings};
use crate::domain::delivery::RetryPolicy;
use crate::setting::Switch;
use crate::signing::Signer;

/// Headers that are ours to set, or that the connection needs.
const RESERVED: [&str; 12] = [
    "connection",
    "content-length",
    "host",
    "te",
    "transfer-encoding",
    "upgrade",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
    "x-webhook-event-id",
    "x-webhook-signature",
    "x-webhook-timestamp",
];

/// What we call ourselves.
const USER_AGENT: &str = concat!("cloudflare-images-webhook/", env!("CARGO_PKG_VERSION"));

pub(super) struct Endpoint {
    pub(super) name: String,
    pub(super) url: Url,
    /// What goes with every message, our own content type included.
    pub(super) headers: HeaderMap,
    /// What is made of an event before it is sent.
    pub(super) form: Form,
    pub(super) signer: Signer,
    pub(super) client: Client,
    /// Where the token comes from that is sent with every message.
    pub(super) tokens: Option<Tokens>,
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
        let signer = Signer::new(&settings.schemes()?, settings.secrets().into_iter())
            .map_err(|error| error.to_string())?;
        let max_in_flight = settings.max_in_flight.count();
        let client = client(guard, max_in_flight)?;
        Ok(Self {
            name: settings.name.clone(),
            url: url(settings.url.expose_secret(), guard)?,
            headers: headers(settings)?,
            form: settings.form()?,
            signer,
            tokens: tokens(settings, guard, &client)?,
            client,
            timeout: settings.timeout(),
            retry: settings.retry()?,
            max_in_flight,
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

/// The messages of these never repeat the URL: it is as good as a secret.
fn url(text: &str, guard: &Guard) -> Result<Url, String> {
    let url = Url::parse(text.trim())
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or("must have a url such as https://app.example/webhooks/")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "must have a url without a user and a password: send them in headers".to_owned(),
        );
    }
    // A name is looked up with every new connection, and looked at then.
    let ip = match url.host() {
        Some(Host::Ipv4(ip)) => Some(ip.into()),
        Some(Host::Ipv6(ip)) => Some(ip.into()),
        Some(Host::Domain(_)) | None => None,
    };
    if ip.is_some_and(|ip| guard.refuses(ip)) {
        return Err("has a url to an address that nothing is sent to".to_owned());
    }
    Ok(url)
}

fn tokens(
    settings: &EndpointSettings,
    guard: &Guard,
    client: &Client,
) -> Result<Option<Tokens>, String> {
    let Some(auth) = &settings.auth else {
        return Ok(None);
    };
    let sets_header = |name: &String| name.eq_ignore_ascii_case("authorization");
    if settings.headers.keys().any(sets_header) {
        return Err("has auth and sets the header authorization: keep one of them".to_owned());
    }
    let AuthSettings::OAuth2 {
        client_id,
        client_secret,
        token_url,
        scope,
        client_authentication,
    } = auth.clone();
    let token_url = url(token_url.expose_secret(), guard)
        .map_err(|problem| problem.replace("a url", "an auth.token_url"))?;
    let credentials = Credentials {
        token_url,
        client_id,
        client_secret,
        scope,
        authentication: client_authentication,
    };
    Ok(Some(Tokens::new(credentials, client.clone())))
}

fn headers(settings: &EndpointSettings) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in &settings.headers {
        let name = HeaderName::try_from(name).map_err(|_| "has a header without a name")?;
        if RESERVED.contains(&name.as_str()) {
            return Err(format!("sets the header {name}, which is not its to set"));
        }
        let mut value = HeaderValue::try_from(value.expose_secret())
            .map_err(|_| format!("has a value for the header {name} that no header can carry"))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

/// One for each endpoint: its connections are its own, so that one endpoint takes none from another.
fn client(guard: &Guard, max_in_flight: usize) -> Result<Client, String> {
    // An error means that a provider is there already, which is all that is wanted.
    let _already_there = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .user_agent(USER_AGENT)
        .redirect(Policy::none())
        // A proxy would connect to what we have not looked at.
        .no_proxy()
        .dns_resolver(guard.clone())
        .pool_max_idle_per_host(max_in_flight)
        .build()
        .map_err(|error| format!("cannot be called: {error}"))
}

fn rate(per_second: usize) -> Option<DefaultDirectRateLimiter> {
    let per_second = NonZeroU32::new(u32::try_from(per_second).unwrap_or(u32::MAX))?;
    // One at a time: an endpoint that asks for so many a second asks for no bursts.
    let quota = Quota::per_second(per_second).allow_burst(NonZeroU32::MIN);
    Some(RateLimiter::direct(quota))
}
