//! The fields of a JSON object, with a rule for each.

use serde_json::{Map, Value};
use url::Url;

use super::error::PayloadError;
use super::json::canonical;
use crate::domain::detail::ReportedDetails;
use crate::domain::id::CloudflareId;
use crate::domain::json::Json;
use crate::domain::timestamp::Timestamp;

pub(super) const DETAIL_FIELDS: [&str; 6] = [
    "variants",
    "metadata",
    "meta",
    "requireSignedURLs",
    "filename",
    "creator",
];

/// The fields of an object in the body.
pub(super) struct Fields<'a> {
    object: &'a Map<String, Value>,
    /// The prefix of a field's name in an error, such as `image.`.
    prefix: &'static str,
}

impl<'a> Fields<'a> {
    pub(super) fn new(object: &'a Map<String, Value>) -> Self {
        Self { object, prefix: "" }
    }

    /// Returns the fields of the object with this name. Fails if there is no such object.
    pub(super) fn object(&self, name: &str, prefix: &'static str) -> Result<Self, PayloadError> {
        match self.get(name) {
            Some(Value::Object(object)) => Ok(Self { object, prefix }),
            Some(_) | None => Err(self.invalid(name, "must be an object")),
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Returns the value of a field, or `None` if the field is absent or null.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    /// Parses a field. Returns `None` if the field is absent or null. Fails with the rule if `parse` returns `None`.
    fn parse<T>(
        &self,
        name: &str,
        rule: &str,
        parse: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, PayloadError> {
        let parsed = self
            .get(name)
            .map(|value| parse(value).ok_or_else(|| self.invalid(name, rule)));
        parsed.transpose()
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>, PayloadError> {
        self.parse(name, "must be a string", Value::as_str)
    }

    pub(super) fn boolean(&self, name: &str) -> Result<Option<bool>, PayloadError> {
        self.parse(name, "must be true or false", Value::as_bool)
    }

    pub(super) fn time(&self, name: &str) -> Result<Option<Timestamp>, PayloadError> {
        let time = |value: &Value| {
            let text = value.as_str().unwrap_or_default();
            Timestamp::parse_rfc3339(text).map_err(|error| self.invalid(name, error.to_string()))
        };
        self.get(name).map(time).transpose()
    }

    pub(super) fn unix_seconds(&self, name: &str) -> Result<Option<Timestamp>, PayloadError> {
        self.parse(name, "must be a Unix timestamp in whole seconds", |value| {
            let seconds = value.as_i64().filter(|seconds| *seconds >= 0)?;
            Timestamp::from_unix_seconds(seconds).ok()
        })
    }

    /// Parses the id of an image. Fails if the field is absent.
    pub(super) fn cloudflare_id(&self, name: &str) -> Result<CloudflareId, PayloadError> {
        parse_id(self.get(name)).map_err(|rule| self.invalid(name, rule))
    }

    pub(super) fn has_details(&self) -> bool {
        DETAIL_FIELDS.into_iter().any(|name| self.has(name))
    }

    pub(super) fn details(&self) -> Result<ReportedDetails, PayloadError> {
        Ok(ReportedDetails {
            filename: self.text("filename")?.map(str::to_owned),
            creator: self.text("creator")?.map(str::to_owned),
            require_signed_urls: self.boolean("requireSignedURLs")?,
            variants: self.variants("variants")?,
            cloudflare_metadata: match self.metadata("metadata")? {
                Some(metadata) => Some(metadata),
                // Cloudflare's API names it `meta`.
                None => self.metadata("meta")?,
            },
        })
    }

    fn variants(&self, name: &str) -> Result<Option<Json>, PayloadError> {
        self.parse(name, "must be an array of http or https URLs", |value| {
            let are_urls = value.as_array()?.iter().all(is_http_url);
            are_urls.then(|| canonical(value))
        })
    }

    fn metadata(&self, name: &str) -> Result<Option<Json>, PayloadError> {
        self.parse(name, "must be an object", |value| {
            value.is_object().then(|| canonical(value))
        })
    }

    /// Returns the error of a field that breaks a rule.
    pub(super) fn invalid(&self, name: &str, rule: impl Into<String>) -> PayloadError {
        PayloadError::Field {
            field: format!("{}{name}", self.prefix),
            rule: rule.into(),
        }
    }
}

/// Parses the id of an image. Fails with the rule that it breaks.
pub(super) fn parse_id(value: Option<&Value>) -> Result<CloudflareId, String> {
    let text = value.and_then(Value::as_str).unwrap_or_default();
    CloudflareId::parse(text).map_err(|error| error.to_string())
}

fn is_http_url(value: &Value) -> bool {
    let Some(text) = value.as_str() else {
        return false;
    };
    let has_no_spaces = !text
        .chars()
        .any(|character| character.is_control() || character.is_whitespace());
    has_no_spaces && Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https"))
}
