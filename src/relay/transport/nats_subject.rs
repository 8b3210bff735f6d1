//! The template of a NATS subject, with placeholders for values of the message.

use std::fmt;

use serde_json::Value;

use crate::relay::deep_json;

/// The maximum length of a placeholder's value. Longer values, such as a long image id, are truncated in the subject only.
const MAX_TOKEN_CHARACTERS: usize = 128;

/// The token for a value that is missing, null, empty, an object or an array.
const EMPTY_TOKEN: &str = "_";

/// A parsed template.
#[derive(Debug)]
pub(super) struct SubjectTemplate(Vec<Part>);

#[derive(Debug)]
enum Part {
    Text(String),
    /// The path of a value in the message.
    Placeholder(Vec<String>),
}

impl SubjectTemplate {
    /// Parses a template. The error is a clause that names the setting.
    pub(super) fn parse(template: &str) -> Result<Self, String> {
        const RULE: &str = "subject must be tokens separated by dots, without spaces, * or >, such as \
                            cloudflare_images.{model.name}.{event}; braces contain a path in the message";
        let mut parts = Vec::new();
        let mut remaining = template;
        while let Some((text, after)) = remaining.split_once('{') {
            let (path, after) = after.split_once('}').ok_or(RULE)?;
            let names: Vec<String> = path.split('.').map(str::to_owned).collect();
            if names
                .iter()
                .any(|name| name.trim().is_empty() || name.contains('{'))
            {
                return Err(RULE.to_owned());
            }
            parts.extend([Part::Text(text.to_owned()), Part::Placeholder(names)]);
            remaining = after;
        }
        parts.push(Part::Text(remaining.to_owned()));
        let subject = Self(parts);
        // Values cannot make a subject invalid, so rendering with empty values checks the template.
        let example = subject.render(&Value::Null);
        let is_subject = example.split('.').all(|token| !token.is_empty())
            && !example.contains(|c: char| c.is_whitespace() || c.is_control() || "*>{}".contains(c))
            // Subjects that begin with $ are reserved for the server. No stream stores them.
            && !template.starts_with('$');
        is_subject.then_some(subject).ok_or_else(|| RULE.to_owned())
    }

    /// Returns the subject of the message with this body.
    pub(super) fn for_body(&self, body: &[u8]) -> String {
        let has_placeholders = self
            .0
            .iter()
            .any(|part| matches!(part, Part::Placeholder(_)));
        let message = std::str::from_utf8(body)
            .ok()
            .filter(|_| has_placeholders)
            .and_then(|text| deep_json::parse(text).ok());
        // A transformed message may be any JSON. Missing values become `_`.
        self.render(&message.unwrap_or(Value::Null))
    }

    fn render(&self, message: &Value) -> String {
        let texts = self.0.iter().map(|part| match part {
            Part::Text(text) => text.clone(),
            Part::Placeholder(names) => {
                let value = names
                    .iter()
                    .try_fold(message, |value, name| value.get(name));
                token(value.unwrap_or(&Value::Null))
            }
        });
        let mut subject: String = texts.collect();
        if subject.starts_with('$') {
            // A value of the message must not lead to a subject that is reserved for the server.
            subject.replace_range(..1, EMPTY_TOKEN);
        }
        subject
    }
}

impl fmt::Display for SubjectTemplate {
    /// Writes the template. Errors show the template, because a subject has values of the message.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Text(text) => f.write_str(text),
            Part::Placeholder(names) => write!(f, "{{{}}}", names.join(".")),
        })
    }
}

impl Default for SubjectTemplate {
    fn default() -> Self {
        Self::parse("cloudflare_images.{model.name}.{event}").expect("the default is a template")
    }
}

/// Converts a value to one token. Replaces separators, wildcards, white space and control characters.
fn token(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(value) => value.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => String::new(),
    };
    if text.is_empty() {
        return EMPTY_TOKEN.to_owned();
    }
    let safe = |c: char| match c {
        '.' | '*' | '>' => '_',
        c if c.is_whitespace() || c.is_control() => '_',
        c => c,
    };
    text.chars().take(MAX_TOKEN_CHARACTERS).map(safe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str, message: &Value) -> String {
        let subject = SubjectTemplate::parse(template).expect("a template");
        subject.for_body(message.to_string().as_bytes())
    }

    #[test]
    fn renders_values_of_the_message() {
        let message = serde_json::json!({
            "event": "updated",
            "model": {"name": "CloudflareImage"},
            "object": {"status": "uploaded", "cloudflare_id": "a.b c*>/ü", "width": 1.5, "draft": false, "error": "", "user_id": null, "user": "$JS"},
        });
        let long = serde_json::json!({"event": "x".repeat(1000)});

        for (template, subject) in [
            ("images", "images"),
            ("images.{object.status}", "images.uploaded"),
            ("{event}.of-{model.name}", "updated.of-CloudflareImage"),
            ("i.{object.cloudflare_id}", "i.a_b_c__/ü"),
            ("i.{object.width}.{object.draft}", "i.1_5.false"),
            (
                "i.{object.error}.{object.user_id}.{object}.{no.such}",
                "i._._._._",
            ),
        ] {
            assert_eq!(render(template, &message), subject, "{template}");
        }
        assert_eq!(render("{event}", &long).len(), MAX_TOKEN_CHARACTERS);
        assert_eq!(
            SubjectTemplate::default().for_body(message.to_string().as_bytes()),
            "cloudflare_images.CloudflareImage.updated"
        );
        assert_eq!(
            SubjectTemplate::default().for_body(b"no JSON"),
            "cloudflare_images._._"
        );
    }

    #[test]
    fn rejects_invalid_templates() {
        for template in [
            "", ".", "a.", ".a", "a..b", "a b", "a.*", "a.>", "$JS.API", "{", "}", "{}", "{a",
            "a}", "{a.}", "{a{b}}", "\u{7}",
        ] {
            assert!(SubjectTemplate::parse(template).is_err(), "{template:?}");
        }
    }
}
