//! Cloudflare's API and its notifications. It keeps state, and accepts only requests as Cloudflare documents them.

mod faults;
mod images;
mod notifications;
mod token;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Method, Request, Response, StatusCode};
use axum::routing::post;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::subscriber::serve;
pub(crate) use faults::ApiFault;
use images::Image;
use token::{TokenState, set_date, verified_owner};

/// The account of the tests.
pub(crate) const ACCOUNT: &str = "0123456789abcdef0123456789abcdef";

/// A token that may do everything.
pub(crate) const TOKEN: &str = "token-of-the-tests-with-all-permissions";

/// The path of the API.
const BASE: &str = "/client/v4";

/// A running Cloudflare.
pub(crate) struct Cloudflare {
    address: SocketAddr,
    inner: Arc<Inner>,
    serving: JoinHandle<()>,
}

struct Inner {
    state: Mutex<CloudflareState>,
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, CloudflareState> {
        self.state.lock().expect("no panic")
    }
}

/// A change of the destinations while they are listed.
#[derive(Debug, Clone)]
pub(crate) enum ListChange {
    /// One with this URL comes before all others.
    Add(String),
    /// The one with this name goes.
    Remove(&'static str),
}

/// What Cloudflare knows.
#[derive(Default)]
struct CloudflareState {
    images: BTreeMap<String, Image>,
    destinations: Vec<Value>,
    /// The secrets of the destinations by id. No answer has them.
    secrets: BTreeMap<String, String>,
    policies: Vec<Value>,
    /// The objects on one page of a list, at most. 0: lists are not paginated.
    page_size: usize,
    /// The change of the destinations after the next page of them.
    change_after_page: Option<ListChange>,
    /// The methods and paths of all calls.
    calls: Vec<String>,
    /// The faults of the next calls, and the method of the call, unless any call fails.
    faults: VecDeque<(Option<Method>, ApiFault)>,
    /// The fault of all calls after those.
    lasting_fault: Option<ApiFault>,
    /// What the token may not do: the beginning of paths after the account.
    forbidden: Vec<&'static str>,
    next_id: u64,
    /// The start of upload URLs.
    upload_base: String,
    token: TokenState,
    /// How many seconds its clock is ahead.
    clock_offset: i64,
}

/// A request whose body was read.
struct ApiRequest {
    method: Method,
    /// The path after the account, percent-encoded as it was sent.
    path: String,
    query: String,
    content_type: String,
    body: Vec<u8>,
}

/// An answer: the status, and the result or the error.
struct Answer(StatusCode, Value);

impl Answer {
    fn ok(result: &Value) -> Self {
        let body = json!({"success": true, "errors": [], "messages": [], "result": result});
        Self(StatusCode::OK, body)
    }

    fn error(status: u16, code: i64, message: &str) -> Self {
        let errors = json!([{"code": code, "message": message}]);
        let body = json!({"success": false, "errors": errors, "messages": [], "result": null});
        Self(StatusCode::from_u16(status).expect("a status"), body)
    }

    fn not_found() -> Self {
        Self::error(404, 5404, "Image not found")
    }

    fn into_response(self) -> Response<Body> {
        Response::builder()
            .status(self.0)
            .header("content-type", "application/json")
            .body(self.1.to_string().into())
            .expect("a response")
    }
}

impl Cloudflare {
    pub(crate) async fn start() -> Self {
        let inner = Arc::new(Inner {
            state: Mutex::default(),
        });
        let router = Router::new()
            .route("/upload/{*id}", post(images::upload))
            .fallback(answer)
            .with_state(Arc::clone(&inner));
        let (address, serving) = serve(router).await;
        inner.state().upload_base = format!("http://{address}/upload");
        Self {
            address,
            inner,
            serving,
        }
    }

    /// Returns the value of `cloudflare.base_url`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}{BASE}", self.address)
    }

    /// Returns the variables of a service that uses it.
    pub(crate) fn variables(&self) -> [(&'static str, String); 3] {
        [
            ("CLOUDFLARE_ACCOUNT_ID", ACCOUNT.to_owned()),
            ("CLOUDFLARE_API_TOKEN", TOKEN.to_owned()),
            ("APP__CLOUDFLARE__BASE_URL", self.url()),
        ]
    }

    /// Makes the next call fail.
    pub(crate) fn fail_next(&self, fault: ApiFault) {
        self.inner.state().faults.push_back((None, fault));
    }

    /// Makes the next call with this method fail.
    pub(crate) fn fail_next_with(&self, method: Method, fault: ApiFault) {
        self.inner.state().faults.push_back((Some(method), fault));
    }

    /// Makes all calls fail after those of [`fail_next`](Self::fail_next), or none.
    pub(crate) fn fail_always(&self, fault: Option<ApiFault>) {
        self.inner.state().lasting_fault = fault;
    }

    /// Takes the permission for paths that begin like this from the token.
    pub(crate) fn forbid(&self, path: &'static str) {
        self.inner.state().forbidden.push(path);
    }

    /// Makes lists have pages with this number of objects.
    pub(crate) fn paginate(&self, page_size: usize) {
        self.inner.state().page_size = page_size;
    }

    /// Returns the methods and paths of all calls, such as `GET /images/v1/abc`.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.inner.state().calls.clone()
    }
}

impl Drop for Cloudflare {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(state: State<Arc<Inner>>, request: Request<Body>) -> Response<Body> {
    let inner = Arc::clone(&state.0);
    let mut response = answer_call(state, request).await;
    set_date(&mut response, inner.state().clock_offset);
    response
}

async fn answer_call(State(inner): State<Arc<Inner>>, request: Request<Body>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.expect("a body");
    let header = |name: &str| {
        let value = parts.headers.get(name);
        value.map(|value| value.to_str().expect("text").to_owned())
    };
    let full_path = parts.uri.path();
    let account_path = format!("{BASE}/accounts/{ACCOUNT}");
    let path = full_path.strip_prefix(&account_path).map(str::to_owned);
    let fault = {
        let mut state = inner.state();
        let called = path.as_deref().unwrap_or(full_path);
        state.calls.push(format!("{} {called}", parts.method));
        let fails = |(method, _): &(Option<Method>, ApiFault)| {
            method.as_ref().is_none_or(|method| *method == parts.method)
        };
        let next = state.faults.iter().position(fails);
        let next = next.and_then(|position| state.faults.remove(position));
        let next = next.map(|(_, fault)| fault);
        next.or_else(|| state.lasting_fault.clone())
    };
    let is_authorized = header("authorization").as_deref() == Some(&*format!("Bearer {TOKEN}"));
    let is_forbidden = path.as_deref().is_some_and(|path| {
        let state = inner.state();
        state.forbidden.iter().any(|start| path.starts_with(start))
    });
    let verified_owner = verified_owner(full_path, path.as_deref());
    let is_active = inner.state().token.is_active();
    let request = match (path, verified_owner) {
        _ if !is_authorized => Err(Answer::error(401, 10000, "Authentication error")),
        (_, Some(owner)) => Err(inner.state().token.verify(owner)),
        _ if !is_active => Err(Answer::error(401, 10000, "Authentication error")),
        (None, None) => {
            let message = "Could not route to the path, perhaps your object identifier is invalid?";
            Err(Answer::error(404, 7003, message))
        }
        (Some(_), None) if is_forbidden => Err(Answer::error(403, 10000, "Authentication error")),
        (Some(path), None) => Ok(ApiRequest {
            method: parts.method.clone(),
            path,
            query: parts.uri.query().unwrap_or_default().to_owned(),
            content_type: header("content-type").unwrap_or_default(),
            body: body.to_vec(),
        }),
    };
    if let Some(fault) = fault {
        return inner.fail(request, fault).await;
    }
    match request {
        Ok(request) => inner.act(request).await.into_response(),
        Err(answer) => answer.into_response(),
    }
}

impl Inner {
    /// Answers a call that has a fault.
    async fn fail(&self, request: Result<ApiRequest, Answer>, fault: ApiFault) -> Response<Body> {
        let answer = match request {
            Ok(request) if fault.acts_before() => self.act(request).await,
            Ok(_) => Answer::not_found(),
            Err(answer) => answer,
        };
        let ApiFault::HeldAnswer(permits) = fault else {
            return fault.response().await;
        };
        permits.acquire().await.expect("it is open").forget();
        answer.into_response()
    }

    async fn act(&self, request: ApiRequest) -> Answer {
        if request.path.starts_with("/images/") {
            self.state().act_on_images(&request)
        } else if request.path.starts_with("/alerting/v3/") {
            self.act_on_notifications(&request).await
        } else {
            Answer::error(404, 7000, "No route for that URI")
        }
    }
}
