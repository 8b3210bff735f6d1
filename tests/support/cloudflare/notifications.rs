//! Webhook destinations, notification policies, and the webhooks that Cloudflare sends.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use super::super::app::client;
use super::{Answer, ApiRequest, Cloudflare, CloudflareState, Inner, ListChange};

const DESTINATIONS: &str = "/alerting/v3/destinations/webhooks";
const POLICIES: &str = "/alerting/v3/policies";

/// The message that Cloudflare sends before it saves a destination.
const TEST_MESSAGE: &str = "Hello World! This is a test message sent from https://cloudflare.com. If you can see this, your webhook is configured properly.";

/// The fields of a policy that a request may have.
const POLICY_FIELDS: [&str; 9] = [
    "id",
    "name",
    "description",
    "enabled",
    "alert_type",
    "mechanisms",
    "filters",
    "created",
    "modified",
];

impl Cloudflare {
    /// Returns the webhook destinations.
    pub(crate) fn destinations(&self) -> Vec<Value> {
        self.inner.state().destinations.clone()
    }

    /// Returns the secret of a destination.
    pub(crate) fn secret_of(&self, destination: &str) -> Option<String> {
        self.inner.state().secrets.get(destination).cloned()
    }

    /// Returns the notification policies.
    pub(crate) fn policies(&self) -> Vec<Value> {
        self.inner.state().policies.clone()
    }

    /// Adds a destination as somebody else made it, and returns its id.
    pub(crate) fn add_destination(&self, name: &str, url: &str) -> String {
        let mut state = self.inner.state();
        let id = state.new_id();
        state.destinations.push(destination(&id, name, url));
        id
    }

    /// Sets the times of the last success and failure of a destination.
    pub(crate) fn set_results(&self, id: &str, success: Option<&str>, failure: Option<&str>) {
        let mut state = self.inner.state();
        let mut destinations = state.destinations.iter_mut();
        let found = destinations.find(|found| found["id"] == id);
        let found = found.expect("the destination exists");
        found["last_success"] = success.into();
        found["last_failure"] = failure.into();
    }

    /// Deletes all destinations.
    pub(crate) fn clear_destinations(&self) {
        self.inner.state().destinations.clear();
    }

    /// Changes the destinations after their next page was read.
    pub(crate) fn change_after_page(&self, change: ListChange) {
        self.inner.state().change_after_page = Some(change);
    }

    /// Adds a policy as somebody else made it, and returns its id.
    pub(crate) fn add_policy(&self, mut policy: Value) -> String {
        let mut state = self.inner.state();
        let id = state.new_id();
        policy["id"] = id.as_str().into();
        state.policies.push(policy);
        id
    }

    /// Ends the upload of an image, and sends the webhooks of every enabled policy. Returns their statuses.
    pub(crate) async fn upload(&self, id: &str, filename: &str) -> Vec<u16> {
        let targets = {
            let mut state = self.inner.state();
            let image = state.images.get_mut(id).expect("the image exists");
            image.is_draft = false;
            image.filename = Some(filename.to_owned());
            state.targets()
        };
        let mut statuses = Vec::new();
        for (url, secret) in targets {
            let body = json!({
                "name": "Images", "text": "An image was uploaded", "ts": 1_767_323_046,
                "account_id": super::ACCOUNT, "alert_type": "image_notification",
                "data": {"image": {"id": id, "status": "success"}},
            });
            statuses.push(post(&url, secret.as_deref(), &body).await.unwrap_or(0));
        }
        statuses
    }
}

fn destination(id: &str, name: &str, url: &str) -> Value {
    json!({
        "id": id, "name": name, "url": url, "type": "generic",
        "created_at": created_at(id), "last_success": null, "last_failure": null,
    })
}

/// Returns the time of creation. Each object is made a second after the one before.
fn created_at(id: &str) -> String {
    let number = u128::MAX - u128::from_str_radix(id, 16).expect("an id");
    format!(
        "2020-10-26T18:{:02}:{:02}.532316Z",
        number / 60,
        number % 60
    )
}

/// Sends a webhook. Returns `None` if there was no answer.
async fn post(url: &str, secret: Option<&str>, body: &Value) -> Option<u16> {
    let mut request = client()
        .post(url)
        .header("content-type", "application/json");
    if let Some(secret) = secret {
        request = request.header("cf-webhook-auth", secret);
    }
    let response = request.body(body.to_string()).send().await.ok()?;
    Some(response.status().as_u16())
}

impl CloudflareState {
    fn new_id(&mut self) -> String {
        self.next_id += 1;
        // Ids say nothing about the order of creation. Here they even decrease.
        format!("{:032x}", u128::MAX - u128::from(self.next_id))
    }

    /// Returns the URLs and secrets that notifications about images go to.
    fn targets(&self) -> Vec<(String, Option<String>)> {
        let is_active = |policy: &&Value| {
            policy["enabled"] == true && policy["alert_type"] == "image_notification"
        };
        let webhooks = self.policies.iter().filter(is_active).flat_map(webhook_ids);
        webhooks
            .filter_map(|id| {
                let found = self.destinations.iter().find(|found| found["id"] == *id);
                let url = found?["url"].as_str().expect("a URL");
                Some((url.to_owned(), self.secrets.get(&id).cloned()))
            })
            .collect()
    }

    /// Returns a page of a list.
    fn page(&self, all: &[Value], query: &str) -> Answer {
        let number = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            let value = pairs.find(|(found, _)| *found == name);
            value.map(|(_, value)| value.parse::<usize>().expect("a number"))
        };
        if self.page_size == 0 {
            return Answer::ok(&all.into());
        }
        let size = number("per_page").unwrap_or(25).min(self.page_size);
        let page = number("page").unwrap_or(1);
        assert!(page >= 1, "pages are numbered from 1");
        let objects: Vec<_> = all
            .iter()
            .skip((page - 1) * size)
            .take(size)
            .cloned()
            .collect();
        let count = objects.len();
        let Answer(status, mut body) = Answer::ok(&objects.into());
        body["result_info"] =
            json!({"page": page, "per_page": size, "count": count, "total_count": all.len()});
        Answer(status, body)
    }

    fn change_destinations(&mut self) {
        match self.change_after_page.take() {
            None => {}
            Some(ListChange::Remove(removed)) => {
                self.destinations.retain(|found| found["name"] != removed);
            }
            Some(ListChange::Add(url)) => {
                let id = self.new_id();
                let added = destination(&id, "new", &url);
                self.destinations.insert(0, added);
            }
        }
    }

    fn save_policy(&mut self, id: Option<&str>, policy: &Value) -> Answer {
        let fields = policy.as_object().expect("a policy is an object");
        let unknown = fields
            .keys()
            .find(|name| !POLICY_FIELDS.contains(&name.as_str()));
        assert_eq!(unknown, None, "a field that Cloudflare does not know");
        let is_complete = policy["name"].is_string()
            && policy["alert_type"].is_string()
            && policy["enabled"].is_boolean()
            && policy["mechanisms"].is_object();
        if !is_complete {
            return Answer::error(400, 17000, "a required field is missing");
        }
        for webhook in webhook_ids(policy) {
            if !self
                .destinations
                .iter()
                .any(|found| found["id"] == *webhook)
            {
                return Answer::error(400, 17003, "the webhook destination does not exist");
            }
        }
        let id = match id {
            Some(id) => id.to_owned(),
            None => self.new_id(),
        };
        let mut saved = policy.clone();
        saved["id"] = id.as_str().into();
        saved["created"] = created_at(&id).into();
        self.policies.retain(|found| found["id"] != *id);
        self.policies.push(saved);
        Answer::ok(&json!({"id": id}))
    }
}

/// Returns the webhook destinations of a policy, in the only form that is documented for requests.
fn webhook_ids(policy: &Value) -> Vec<String> {
    let webhooks = policy["mechanisms"]["webhooks"].as_array();
    let webhooks = webhooks.map(Vec::as_slice).unwrap_or_default();
    let id = |webhook: &Value| {
        webhook["id"]
            .as_str()
            .expect("an object with an id")
            .to_owned()
    };
    webhooks.iter().map(id).collect()
}

impl Inner {
    pub(super) async fn act_on_notifications(&self, request: &ApiRequest) -> Answer {
        let body = || -> Value {
            assert_eq!(request.content_type, "application/json");
            serde_json::from_slice(&request.body).expect("JSON")
        };
        let (list, id) = split(&request.path);
        match (list, id, &request.method) {
            (DESTINATIONS, None, &Method::GET) => {
                let mut state = self.state();
                let page = state.page(&state.destinations, &request.query);
                state.change_destinations();
                page
            }
            (DESTINATIONS, id, &Method::POST | &Method::PUT) => {
                self.save_destination(id, &body()).await
            }
            (DESTINATIONS, Some(id), &Method::DELETE) => {
                let mut state = self.state();
                state.destinations.retain(|found| found["id"] != *id);
                state.secrets.remove(id);
                let body = json!({"success": true, "errors": [], "messages": []});
                Answer(StatusCode::OK, body)
            }
            (POLICIES, None, &Method::GET) => {
                let state = self.state();
                state.page(&state.policies, &request.query)
            }
            (POLICIES, id, &Method::POST | &Method::PUT) => self.state().save_policy(id, &body()),
            (POLICIES, Some(id), &Method::DELETE) => {
                self.state().policies.retain(|found| found["id"] != *id);
                Answer::ok(&json!({"id": id}))
            }
            _ => Answer::error(405, 10405, "Method not allowed"),
        }
    }

    /// Sends the test message, and saves the destination if it was accepted.
    async fn save_destination(&self, id: Option<&str>, request: &Value) -> Answer {
        let field = |name: &str| request[name].as_str().map(str::to_owned);
        let (Some(name), Some(url)) = (field("name"), field("url")) else {
            return Answer::error(400, 17000, "name and url are required");
        };
        let secret = field("secret").filter(|secret| !secret.is_empty());
        let status = post(&url, secret.as_deref(), &json!({"text": TEST_MESSAGE})).await;
        if !status.is_some_and(|status| (200..300).contains(&status)) {
            return Answer::error(400, 17006, "the webhook did not accept the test message");
        }
        let mut state = self.state();
        let id = match id {
            Some(id) => id.to_owned(),
            None => state.new_id(),
        };
        state.destinations.retain(|found| found["id"] != *id);
        state.destinations.push(destination(&id, &name, &url));
        state.secrets.remove(&id);
        if let Some(secret) = secret {
            state.secrets.insert(id.clone(), secret);
        }
        Answer::ok(&json!({"id": id}))
    }
}

/// Splits a path into its list and the id after it.
fn split(path: &str) -> (&str, Option<&str>) {
    for list in [DESTINATIONS, POLICIES] {
        if path == list {
            return (list, None);
        }
        let id = path.strip_prefix(list).and_then(|id| id.strip_prefix('/'));
        if let Some(id) = id {
            return (list, Some(id));
        }
    }
    (path, None)
}
