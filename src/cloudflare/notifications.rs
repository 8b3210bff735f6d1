//! The destinations and policies of notifications (<https://developers.cloudflare.com/api/resources/alerting/>).

use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::client::{Call, Client};
use super::error::{ApiError, ErrorKind};
use crate::domain::timestamp::Timestamp;

/// The type of alerts about images.
pub(crate) const ALERT_TYPE: &str = "image_notification";

/// The description of the policies that this service makes. It tells them from the policies of people.
const MARK: &str = "Made by cloudflare-images-webhook.";

const DESTINATIONS: &str = "/alerting/v3/destinations/webhooks";
const POLICIES: &str = "/alerting/v3/policies";

/// The number of objects on one page of a list.
const PER_PAGE: usize = 50;

/// The most pages of a list that are read. An account has far fewer destinations.
const MAX_PAGES: u64 = 100;

/// A webhook destination.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Destination {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) url: String,
    #[serde(default)]
    created_at: Option<String>,
    #[serde(default)]
    pub(crate) last_success: Option<String>,
    #[serde(default)]
    pub(crate) last_failure: Option<String>,
}

impl Destination {
    /// Returns what sorts destinations by their creation. The id decides between equal times.
    pub(crate) fn age_key(&self) -> (Option<Timestamp>, &str) {
        (parse_time(self.created_at.as_deref()), &self.id)
    }
}

fn parse_time(text: Option<&str>) -> Option<Timestamp> {
    text.and_then(|text| Timestamp::parse_rfc3339(text).ok())
}

/// A destination to create or to change.
#[derive(Debug)]
pub(crate) struct DestinationRequest<'a> {
    pub(crate) name: &'a str,
    pub(crate) url: &'a str,
    /// Cloudflare never returns it, so each change must have it.
    pub(crate) secret: &'a SecretString,
}

/// A notification policy. Unknown fields are kept, so a repair does not remove them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Policy {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) alert_type: String,
    #[serde(default)]
    pub(crate) enabled: bool,
    /// The destinations by kind: `{"webhooks":[{"id":"…"}]}`.
    #[serde(default)]
    pub(crate) mechanisms: Value,
    #[serde(flatten)]
    pub(crate) others: serde_json::Map<String, Value>,
}

impl Policy {
    /// Returns a new policy for notifications about images.
    pub(crate) fn new(name: &str, destination_id: &str) -> Self {
        Self {
            id: String::new(),
            name: name.to_owned(),
            alert_type: ALERT_TYPE.to_owned(),
            enabled: true,
            mechanisms: json!({"webhooks": [{"id": destination_id}]}),
            others: serde_json::Map::from_iter([("description".to_owned(), MARK.into())]),
        }
    }

    /// Returns what sorts policies by their creation. The id decides between equal times.
    pub(crate) fn age_key(&self) -> (Option<Timestamp>, &str) {
        let created = self.others.get("created").and_then(Value::as_str);
        (parse_time(created), &self.id)
    }

    /// Returns whether [`Policy::new`] made it.
    pub(crate) fn is_made_by_setup(&self) -> bool {
        let description = self.others.get("description");
        description.and_then(Value::as_str) == Some(MARK)
    }

    /// Returns whether the policy sends notifications about images.
    pub(crate) fn is_about_images(&self) -> bool {
        self.alert_type == ALERT_TYPE
    }

    /// Returns the ids of its webhook destinations. Some answers have them as plain text.
    pub(crate) fn webhooks(&self) -> Vec<&str> {
        let webhooks = self.mechanisms["webhooks"].as_array();
        let webhooks = webhooks.map(Vec::as_slice).unwrap_or_default();
        webhooks
            .iter()
            .filter_map(|webhook| webhook.as_str().or_else(|| webhook["id"].as_str()))
            .collect()
    }
}

/// The id in the answer to a change. Some answers have no result.
#[derive(Debug, Default, Deserialize)]
struct Changed {
    #[serde(default)]
    id: Option<String>,
}

impl Client {
    /// Returns all webhook destinations of the account.
    pub(crate) async fn destinations(&self) -> Result<Vec<Destination>, ApiError> {
        self.all(
            "listing the webhook destinations",
            DESTINATIONS,
            |destination: &Destination| &destination.id,
        )
        .await
    }

    /// Creates a destination, and returns its id. Cloudflare sends a test message to its URL first.
    pub(crate) async fn create_destination(
        &self,
        destination: &DestinationRequest<'_>,
    ) -> Result<String, ApiError> {
        self.create(
            "creating the webhook destination",
            DESTINATIONS,
            &body(destination),
        )
        .await
    }

    /// Changes a destination. Cloudflare sends a test message to its URL first.
    pub(crate) async fn update_destination(
        &self,
        id: &str,
        destination: &DestinationRequest<'_>,
    ) -> Result<(), ApiError> {
        self.change(
            "updating the webhook destination",
            Method::PUT,
            format!("{DESTINATIONS}/{id}"),
            Some(&body(destination)),
        )
        .await
    }

    /// Deletes a destination.
    pub(crate) async fn delete_destination(&self, id: &str) -> Result<(), ApiError> {
        let path = format!("{DESTINATIONS}/{id}");
        self.delete("deleting the webhook destination", path).await
    }

    /// Returns all notification policies of the account.
    pub(crate) async fn policies(&self) -> Result<Vec<Policy>, ApiError> {
        self.all(
            "listing the notification policies",
            POLICIES,
            |policy: &Policy| &policy.id,
        )
        .await
    }

    /// Creates a policy, and returns its id.
    pub(crate) async fn create_policy(&self, policy: &Policy) -> Result<String, ApiError> {
        self.create("creating the notification policy", POLICIES, &json!(policy))
            .await
    }

    /// Changes a policy.
    pub(crate) async fn update_policy(&self, policy: &Policy) -> Result<(), ApiError> {
        self.change(
            "updating the notification policy",
            Method::PUT,
            format!("{POLICIES}/{}", policy.id),
            Some(&json!(policy)),
        )
        .await
    }

    /// Deletes a policy.
    pub(crate) async fn delete_policy(&self, id: &str) -> Result<(), ApiError> {
        let path = format!("{POLICIES}/{id}");
        self.delete("deleting the notification policy", path).await
    }

    async fn create(
        &self,
        action: &'static str,
        path: &str,
        content: &Value,
    ) -> Result<String, ApiError> {
        let call = Call {
            action,
            method: Method::POST,
            path: path.to_owned(),
            content: Some(json_content(content)),
        };
        let created: Option<Changed> = self.call(&call).await?.result;
        let id = created.unwrap_or_default().id;
        id.ok_or_else(|| ApiError::unexpected(action, "the result has no id"))
    }

    /// Deletes an object. One that does not exist counts as deleted, because the answer to an earlier attempt may have been lost.
    async fn delete(&self, action: &'static str, path: String) -> Result<(), ApiError> {
        match self.change(action, Method::DELETE, path, None).await {
            Err(ApiError {
                kind: ErrorKind::NotFound,
                ..
            }) => Ok(()),
            deleted => deleted,
        }
    }

    async fn change(
        &self,
        action: &'static str,
        method: Method,
        path: String,
        content: Option<&Value>,
    ) -> Result<(), ApiError> {
        let call = Call {
            action,
            method,
            path,
            content: content.map(json_content),
        };
        self.call::<Value>(&call).await.map(drop)
    }

    /// Reads a list to its end. A list that is not paginated has one page. Objects that move to another page meanwhile are returned
    /// once.
    async fn all<T: DeserializeOwned>(
        &self,
        action: &'static str,
        path: &str,
        id: impl Fn(&T) -> &String,
    ) -> Result<Vec<T>, ApiError> {
        let mut all: Vec<T> = Vec::new();
        for page in 1..=MAX_PAGES {
            let call = Call::get(action, format!("{path}?page={page}&per_page={PER_PAGE}"));
            let answer = self.call::<Option<Vec<T>>>(&call).await?;
            let objects = answer.result.unwrap_or_default();
            let is_empty = objects.is_empty();
            for object in objects {
                if !all.iter().any(|known| id(known) == id(&object)) {
                    all.push(object);
                }
            }
            if is_empty || answer.pages.is_none_or(|pages| page >= pages) {
                break;
            }
        }
        Ok(all)
    }
}

fn body(destination: &DestinationRequest<'_>) -> Value {
    json!({
        "name": destination.name,
        "url": destination.url,
        "secret": destination.secret.expose_secret(),
    })
}

fn json_content(content: &Value) -> (String, String) {
    ("application/json".to_owned(), content.to_string())
}
