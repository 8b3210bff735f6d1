//! One call: its deadline, its limits and its retries.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Method, Request, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout_at};

use super::budget::{CallBudget, NoCall, ProcessBudget, Quota};
use super::envelope::{self, Answer, RawAnswer};
use super::error::{ApiError, ErrorKind};
use super::server_clock::ServerClock;
use super::settings::{BaseUrl, Settings};
use crate::domain::timestamp::Timestamp;
use crate::outbound::{
    Authorities, HTTP_PROTOCOL, USER_AGENT, config_without_authorities, read_capped,
};
use crate::random::fraction;
use crate::telemetry::chain;

/// The limit on a response's body. A page of a list is the largest one.
const MAX_RESPONSE_BYTES: usize = 4 * 1024 * 1024;

/// The most attempts of one call.
const MAX_ATTEMPTS: u32 = 3;

/// The wait before the second attempt. It doubles before the third, and is spread by up to half.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);

/// The client. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Client {
    connection: Arc<Connection>,
    budget: Arc<dyn CallBudget>,
    quota: Quota,
}

/// What all clones of a client share.
struct Connection {
    http: reqwest::Client,
    base: BaseUrl,
    account_id: String,
    token: SecretString,
    authorization: HeaderValue,
    deadline: Duration,
    server_clock: ServerClock,
}

/// A call without its host and its account.
pub(super) struct Call {
    /// What the call does, such as "creating an upload URL".
    pub(super) action: &'static str,
    pub(super) method: Method,
    /// The path after the account, percent-encoded. It begins with a slash.
    pub(super) path: String,
    /// The content type and the body.
    pub(super) content: Option<(String, String)>,
}

impl Call {
    pub(super) fn get(action: &'static str, path: impl Into<String>) -> Self {
        Self {
            action,
            method: Method::GET,
            path: path.into(),
            content: None,
        }
    }

    /// Returns whether the call has the same effect if it is made twice.
    fn is_idempotent(&self) -> bool {
        self.method != Method::POST
    }
}

impl Client {
    /// Creates a client. Returns `None` if the settings have no account and no token. The error is a clause.
    pub(crate) fn new(
        settings: &Settings,
        authorities: &Authorities,
    ) -> Result<Option<Self>, String> {
        let Some(credentials) = settings.credentials() else {
            return Ok(None);
        };
        let token = credentials.api_token.clone();
        let mut authorization = HeaderValue::try_from(format!("Bearer {}", token.expose_secret()))
            .map_err(|_| "cloudflare.api_token must have only visible ASCII characters")?;
        authorization.set_sensitive(true);
        let mut tls = if settings.base_url.is_https() {
            authorities.client_config(None)?
        } else {
            config_without_authorities()
        };
        tls.alpn_protocols = vec![HTTP_PROTOCOL.to_vec()];
        let http = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            // A redirect could lead the token elsewhere.
            .redirect(Policy::none())
            .no_proxy()
            .tls_backend_preconfigured(tls)
            .build()
            .map_err(|error| format!("the HTTP client cannot be created: {}", chain(&error)))?;
        Ok(Some(Self {
            connection: Arc::new(Connection {
                http,
                base: settings.base_url.clone(),
                account_id: credentials.account_id.to_owned(),
                token,
                authorization,
                deadline: settings.timeout_secs.seconds(),
                server_clock: ServerClock::default(),
            }),
            budget: Arc::new(ProcessBudget::new()),
            quota: settings.quota(),
        }))
    }

    /// Returns a client whose calls count together with others.
    pub(crate) fn with_budget(self, budget: Arc<dyn CallBudget>) -> Self {
        Self { budget, ..self }
    }

    /// Returns a client for work in the background. It leaves calls to those who wait for an answer.
    pub(crate) fn in_background(self) -> Self {
        let quota = self.quota.with_reserve();
        Self { quota, ..self }
    }

    /// Returns the longest time of one call and its retries.
    pub(crate) fn deadline(&self) -> Duration {
        self.connection.deadline
    }

    /// Returns the present time by Cloudflare's clock. `None`: no answer had a date.
    pub(crate) fn server_time(&self) -> Option<Timestamp> {
        self.connection.server_clock.now()
    }

    /// Makes a call. A call without a second effect is repeated after a temporary error, within the deadline.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        call: &Call,
    ) -> Result<Answer<T>, ApiError> {
        let path = format!("/accounts/{}{}", self.connection.account_id, call.path);
        self.call_at(call, &path).await
    }

    /// Makes a call whose path does not begin with the account.
    pub(super) async fn call_outside_account<T: DeserializeOwned>(
        &self,
        call: &Call,
    ) -> Result<Answer<T>, ApiError> {
        self.call_at(call, &call.path).await
    }

    async fn call_at<T: DeserializeOwned>(
        &self,
        call: &Call,
        path: &str,
    ) -> Result<Answer<T>, ApiError> {
        let Some(url) = self.connection.base.join(path) else {
            return Err(ApiError::unexpected(
                call.action,
                "the id cannot be part of a URL",
            ));
        };
        let deadline = Instant::now() + self.connection.deadline;
        let mut attempt = 1;
        loop {
            let error = match self.attempt(call, url.clone(), deadline).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let may_repeat = call.is_idempotent() || error.was_not_sent;
            let wait = backoff(attempt, &error.error);
            let is_too_late = Instant::now() + wait >= deadline;
            if !error.error.is_temporary() || !may_repeat || attempt >= MAX_ATTEMPTS || is_too_late
            {
                return Err(error.error);
            }
            sleep(wait).await;
            attempt += 1;
        }
    }

    async fn attempt<T: DeserializeOwned>(
        &self,
        call: &Call,
        url: Url,
        deadline: Instant,
    ) -> Result<Answer<T>, Failure> {
        let action = call.action;
        self.wait_for_budget(action, deadline).await?;
        let sending = self.send(self.request(call, url));
        let answer = match timeout_at(deadline, sending).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(unsent)) => return Err(unsent.failure(action)),
            Err(_) => return Err(ApiError::timed_out(action, self.connection.deadline).into()),
        };
        let read = envelope::read(action, &answer, self.connection.token.expose_secret());
        if let Err(ApiError {
            kind: ErrorKind::RateLimited { retry_after },
            ..
        }) = &read
        {
            self.budget.pause(self.quota, *retry_after).await;
        }
        Ok(read?)
    }

    async fn wait_for_budget(
        &self,
        action: &'static str,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let remaining = deadline.saturating_duration_since(Instant::now());
        match self.budget.take(self.quota, remaining).await {
            Ok(wait) => {
                sleep(wait).await;
                Ok(())
            }
            Err(NoCall::Exhausted(wait)) => Err(ApiError::rate_limited(action, wait).into()),
            Err(NoCall::Unknown(cause)) => Err(ApiError::no_limit(action, cause).into()),
        }
    }

    fn request(&self, call: &Call, url: Url) -> Request {
        let mut request = Request::new(call.method.clone(), url);
        let headers: &mut HeaderMap = request.headers_mut();
        headers.insert(AUTHORIZATION, self.connection.authorization.clone());
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some((content_type, body)) = &call.content {
            if let Ok(content_type) = HeaderValue::try_from(content_type) {
                headers.insert(CONTENT_TYPE, content_type);
            }
            *request.body_mut() = Some(body.clone().into());
        }
        request
    }

    async fn send(&self, request: Request) -> Result<RawAnswer, SendError> {
        let response = self.connection.http.execute(request).await?;
        self.connection.server_clock.read(response.headers());
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER);
        let retry_after = retry_after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let retry_after = retry_after.map(Duration::from_secs);
        let body = read_capped(response, MAX_RESPONSE_BYTES).await?;
        Ok(RawAnswer {
            status,
            retry_after,
            body: body.ok_or(SendError::TooLarge)?,
        })
    }
}

/// A failed attempt.
struct Failure {
    error: ApiError,
    /// Whether Cloudflare cannot have the request.
    was_not_sent: bool,
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        // Cloudflare refuses further calls before it acts on them.
        let was_not_sent = matches!(error.kind, ErrorKind::RateLimited { .. });
        Self {
            error,
            was_not_sent,
        }
    }
}

enum SendError {
    Http(reqwest::Error),
    TooLarge,
}

impl From<reqwest::Error> for SendError {
    fn from(error: reqwest::Error) -> Self {
        Self::Http(error.without_url())
    }
}

impl SendError {
    fn failure(self, action: &'static str) -> Failure {
        match self {
            Self::TooLarge => {
                let problem = format!("it has more than {MAX_RESPONSE_BYTES} bytes");
                ApiError::unexpected(action, problem).into()
            }
            Self::Http(error) => Failure {
                was_not_sent: error.is_connect(),
                error: ApiError::unavailable(action, chain(&error)),
            },
        }
    }
}

/// Returns the wait after a failed attempt.
fn backoff(attempt: u32, error: &ApiError) -> Duration {
    if let ErrorKind::RateLimited { retry_after } = error.kind {
        return retry_after;
    }
    let doubled = FIRST_BACKOFF * 2_u32.saturating_pow(attempt - 1);
    doubled.mul_f64(1.0 + fraction() / 2.0)
}
