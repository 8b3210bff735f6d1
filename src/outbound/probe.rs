//! One request to a URL, to find out what answers there. It is never repeated, and follows no redirect.

use std::error::Error;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderName};
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder};

use super::authorities::{Authorities, HTTP_PROTOCOL, config_without_authorities};
use super::response::read_capped;
use super::user_agent::USER_AGENT;

/// The limit on an answer's body. The service's own answers are far shorter.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;

/// The client of such requests.
pub(crate) struct Prober {
    http: Client,
}

/// What answered.
#[derive(Debug)]
pub(crate) struct ProbeAnswer {
    pub(crate) status: u16,
    /// The body, or nothing if it is too long.
    pub(crate) body: Vec<u8>,
}

/// The reason why nothing answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    /// The server's certificate is not trusted.
    #[error("{0}")]
    Certificate(String),
    #[error("no answer within {} seconds", .0.as_secs())]
    TimedOut(Duration),
    #[error("no connection")]
    NoConnection(#[source] reqwest::Error),
    /// The server accepted the connection.
    #[error("no complete answer")]
    Broken(#[source] reqwest::Error),
}

impl Prober {
    /// Creates a client. Without authorities it cannot use HTTPS. The error is a clause.
    pub(crate) fn new(authorities: Option<&Authorities>) -> Result<Self, String> {
        let mut tls = match authorities {
            Some(authorities) => authorities.client_config(None)?,
            None => config_without_authorities(),
        };
        tls.alpn_protocols = vec![HTTP_PROTOCOL.to_vec()];
        let http = Client::builder()
            .user_agent(USER_AGENT)
            .redirect(Policy::none())
            .no_proxy()
            // Images without /etc/hosts do not know the name. The port comes from the URL.
            .resolve_to_addrs(
                "localhost",
                &[
                    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0),
                    SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 0),
                ],
            )
            .tls_backend_preconfigured(tls)
            .build()
            .map_err(|error| format!("the HTTP client cannot be created: {error}"))?;
        Ok(Self { http })
    }

    /// Reads a URL within this time.
    pub(crate) async fn get(&self, url: &str, limit: Duration) -> Result<ProbeAnswer, ProbeError> {
        answer(self.http.get(url), limit).await
    }

    /// Posts JSON to a URL within this time.
    pub(crate) async fn post(
        &self,
        url: &str,
        headers: Vec<(HeaderName, String)>,
        body: String,
        limit: Duration,
    ) -> Result<ProbeAnswer, ProbeError> {
        let mut request = self.http.post(url);
        request = request.header(CONTENT_TYPE, "application/json").body(body);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        answer(request, limit).await
    }
}

async fn answer(request: RequestBuilder, limit: Duration) -> Result<ProbeAnswer, ProbeError> {
    let failed = |error: reqwest::Error| {
        let error = error.without_url();
        if let Some(problem) = certificate_problem(&error) {
            ProbeError::Certificate(problem)
        } else if error.is_timeout() {
            ProbeError::TimedOut(limit)
        } else if error.is_connect() {
            ProbeError::NoConnection(error)
        } else {
            ProbeError::Broken(error)
        }
    };
    let response = request.timeout(limit).send().await.map_err(failed)?;
    let status = response.status().as_u16();
    let body = read_capped(response, MAX_RESPONSE_BYTES).await;
    let body = body.map_err(failed)?.unwrap_or_default();
    Ok(ProbeAnswer { status, body })
}

/// Returns why the server's certificate is not trusted, if that is the error.
fn certificate_problem(error: &reqwest::Error) -> Option<String> {
    let first: &(dyn Error + 'static) = error;
    let mut causes = std::iter::successors(Some(first), |&cause| cause.source());
    causes.find_map(|cause| match tls_error(cause)? {
        problem @ rustls::Error::InvalidCertificate(_) => Some(problem.to_string()),
        _ => None,
    })
}

/// Returns the error of TLS that this error is or has inside. An error of input and output does not return the error inside as its
/// source, and may be inside of another one.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let io = error.downcast_ref::<io::Error>();
    match io.and_then(io::Error::get_ref) {
        Some(inside) => tls_error(inside),
        None => error.downcast_ref::<rustls::Error>(),
    }
}
