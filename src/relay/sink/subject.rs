//! Under which subject a message is published: a text with places in it, which the message fills.

use std::fmt;

use serde_json::Value;

/// The most characters that one place takes. An image's id can be longer; whoever needs it whole reads the message.
const MAX_TOKEN: usize = 128;

/// What stands for a value that is not there, that is empty, or that is no text, number or truth.
const NOTHING: &str = "_";

/// A template of subjects.
#[derive(Debug)]
pub(super) struct Subject(Vec<Part>);

#[derive(Debug)]
enum Part {
    Text(String),
    /// The names that lead to the value, from the outside in.
    Place(Vec<String>),
}

impl Subject {
    /// Fails with what is wrong, as the end of a sentence about the endpoint.
    pub(super) fn parse(template: &str) -> Result<Self, String> {
        const RULE: &str = "must have a subject such as cloudflare_images.{model.name}.{event}: names between dots, without spaces, * \
                            and >, and each place in braces a path in the message";
        let mut parts = Vec::new();
        let mut rest = template;
        while let Some((text, after)) = rest.split_once('{') {
            let (path, after) = after.split_once('}').ok_or(RULE)?;
            let names: Vec<String> = path.split('.').map(str::to_owned).collect();
            if names
                .iter()
                .any(|name| name.trim().is_empty() || name.contains('{'))
            {
                return Err(RULE.to_owned());
            }
            parts.extend([Part::Text(text.to_owned()), Part::Place(names)]);
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        let subject = Self(parts);
        // With every place empty it is as bad as it can become.
        let example = subject.filled(&Value::Null);
        let is_subject = example.split('.').all(|token| !token.is_empty())
            && !example.contains(|c: char| c.is_whitespace() || c.is_control() || "*>{}".contains(c))
            // The server's own, which no stream takes.
            && !template.starts_with('$');
        is_subject.then_some(subject).ok_or_else(|| RULE.to_owned())
    }

    /// The subject of this message.
    pub(super) fn of(&self, body: &[u8]) -> String {
        let has_places = self.0.iter().any(|part| matches!(part, Part::Place(_)));
        let message = has_places.then(|| serde_json::from_slice(body).ok());
        self.filled(&message.flatten().unwrap_or_default())
    }

    fn filled(&self, message: &Value) -> String {
        let texts = self.0.iter().map(|part| match part {
            Part::Text(text) => text.clone(),
            Part::Place(names) => {
                let value = names
                    .iter()
                    .try_fold(message, |value, name| value.get(name));
                token(value.unwrap_or_default())
            }
        });
        let mut subject: String = texts.collect();
        if subject.starts_with('$') {
            // The server's own, which no message chooses.
            subject.replace_range(..1, NOTHING);
        }
        subject
    }
}

impl fmt::Display for Subject {
    /// The template: no message's values belong into an error.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Text(text) => f.write_str(text),
            Part::Place(names) => write!(f, "{{{}}}", names.join(".")),
        })
    }
}

impl Default for Subject {
    fn default() -> Self {
        Self::parse("cloudflare_images.{model.name}.{event}").expect("it is a template")
    }
}

/// One name within a subject: what separates names, or stands for several, does not come from a message.
fn token(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(truth) => truth.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => String::new(),
    };
    if text.is_empty() {
        return NOTHING.to_owned();
    }
    let plain = |c: char| match c {
        '.' | '*' | '>' => '_',
        c if c.is_whitespace() || c.is_control() => '_',
        c => c,
    };
    text.chars().take(MAX_TOKEN).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(template: &str, message: &Value) -> String {
        let subject = Subject::parse(template).expect("a template");
        subject.of(message.to_string().as_bytes())
    }

    #[test]
    fn a_subject_is_filled_from_the_message() {
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
            assert_eq!(of(template, &message), subject, "{template}");
        }
        assert_eq!(of("{event}", &long).len(), MAX_TOKEN);
        assert_eq!(
            Subject::default().of(message.to_string().as_bytes()),
            "cloudflare_images.CloudflareImage.updated"
        );
        assert_eq!(Subject::default().of(b"no JSON"), "cloudflare_images._._");
    }

    #[test]
    fn what_is_no_subject_is_refused() {
        for template in [
            "", ".", "a.", ".a", "a..b", "a b", "a.*", "a.>", "$JS.API", "{", "}", "{}", "{a",
            "a}", "{a.}", "{a{b}}", "\u{7}",
        ] {
            assert!(Subject::parse(template).is_err(), "{template:?}");
        }
    }
}
