//! The fields of a JSON object, with a rule for each.

use serde_json::{Map, Value};

use super::error::PayloadError;
use super::ignored::IgnoredFields;
use super::json::{canonical, contains_nul};
use crate::domain::detail::ReportedDetails;
use crate::domain::id::CloudflareId;
use crate::domain::json::Json;
use crate::domain::timestamp::{InvalidTimestamp, Timestamp};

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

    /// Parses a field that must follow its rule. Returns `None` if the field is absent or null.
    pub(super) fn require<T>(
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

    /// Parses a field that is ignored if it breaks its rule. Returns `None` if the field is ignored, absent or null.
    fn accept<T>(
        &self,
        name: &str,
        rule: &str,
        ignored: &mut IgnoredFields,
        parse: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Option<T> {
        let parsed = parse(self.get(name)?);
        if parsed.is_none() {
            ignored.add(&self.path(name), rule);
        }
        parsed
    }

    /// Parses a text.
    pub(super) fn text(&self, name: &str, ignored: &mut IgnoredFields) -> Option<&'a str> {
        self.accept(
            name,
            "must be a string of valid Unicode without U+0000",
            ignored,
            |value| value.as_str().filter(|text| !text.contains('\0')),
        )
    }

    /// Parses a time in RFC 3339.
    pub(super) fn time(&self, name: &str, ignored: &mut IgnoredFields) -> Option<Timestamp> {
        let rule = InvalidTimestamp.to_string();
        self.accept(name, &rule, ignored, |value| {
            Timestamp::parse_rfc3339(value.as_str()?).ok()
        })
    }

    /// Parses a time in Unix seconds. The number may have a fraction or an exponent.
    pub(super) fn unix_seconds(
        &self,
        name: &str,
        ignored: &mut IgnoredFields,
    ) -> Option<Timestamp> {
        let rule = "must be a Unix timestamp in seconds";
        self.accept(name, rule, ignored, |value| match value {
            Value::Number(number) if number.is_f64() => {
                // This text has no exponent, and the fewest digits that identify the number.
                Timestamp::parse_unix_seconds(&number.as_f64()?.to_string()).ok()
            }
            Value::Number(number) => Timestamp::parse_unix_seconds(&number.to_string()).ok(),
            _ => None,
        })
    }

    /// Parses the id of an image. Fails if the field is absent.
    pub(super) fn cloudflare_id(&self, name: &str) -> Result<CloudflareId, PayloadError> {
        parse_id(self.get(name)).map_err(|rule| self.invalid(name, rule))
    }

    pub(super) fn has_details(&self) -> bool {
        DETAIL_FIELDS.into_iter().any(|name| self.has(name))
    }

    /// Parses the details. A detail that breaks its rule is left out, because it must not cost the status beside it.
    pub(super) fn details(&self, ignored: &mut IgnoredFields) -> ReportedDetails {
        ReportedDetails {
            filename: self.text("filename", ignored).map(str::to_owned),
            creator: self.text("creator", ignored).map(str::to_owned),
            require_signed_urls: self.accept(
                "requireSignedURLs",
                "must be true or false",
                ignored,
                Value::as_bool,
            ),
            variants: self.variants("variants", ignored),
            // Cloudflare's API names it `meta`.
            cloudflare_metadata: self
                .metadata("metadata", ignored)
                .or_else(|| self.metadata("meta", ignored)),
        }
    }

    fn variants(&self, name: &str, ignored: &mut IgnoredFields) -> Option<Json> {
        let rule = "must be an array of http or https URLs in valid Unicode without U+0000";
        self.accept(name, rule, ignored, |value| {
            let are_urls = value.as_array()?.iter().all(is_http_url);
            are_urls.then(|| canonical(value))
        })
    }

    fn metadata(&self, name: &str, ignored: &mut IgnoredFields) -> Option<Json> {
        let rule = "must be an object without invalid Unicode, U+0000 or numbers out of range";
        self.accept(name, rule, ignored, |value| {
            let is_metadata = value.is_object() && !contains_nul(value);
            is_metadata.then(|| canonical(value))
        })
    }

    /// Returns the error of a field that breaks a rule.
    pub(super) fn invalid(&self, name: &str, rule: impl Into<String>) -> PayloadError {
        PayloadError::Field {
            field: self.path(name),
            rule: rule.into(),
        }
    }

    fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

/// Parses the id of an image. Fails with the rule that it breaks.
pub(super) fn parse_id(value: Option<&Value>) -> Result<CloudflareId, String> {
    let text = value.and_then(Value::as_str).unwrap_or_default();
    if text.contains('\0') {
        return Err("must be a string of valid Unicode without U+0000".to_owned());
    }
    CloudflareId::parse(text).map_err(|error| error.to_string())
}

/// Returns whether the value is text with the scheme of a web page. Blanks and other characters that a URL must escape are kept
/// as reported. Another scheme such as `javascript:` could harm a page that shows the URL.
fn is_http_url(value: &Value) -> bool {
    let text = value.as_str().filter(|text| !text.contains('\0'));
    let scheme = text.and_then(|text| text.split_once("://"));
    scheme.is_some_and(|(scheme, rest)| {
        !rest.is_empty()
            && (scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https"))
    })
}
