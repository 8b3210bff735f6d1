//! Which part of an event an endpoint gets: fields that are wanted, left out, or masked.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::domain::event::Model;

/// Stands for every model.
pub(super) const ANY: &str = "*";

/// What is done to the fields of one model's events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Shape {
    /// Only these; `None`: all.
    include: Option<BTreeSet<String>>,
    /// Not these. A name may lead into a field, as `metadata.email`.
    exclude: Vec<Vec<String>>,
    /// These, with a mask in the place of their values.
    redact: Vec<(Vec<String>, String)>,
}

/// The shapes of all models.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Shapes {
    image: Shape,
    log: Shape,
}

/// Fields for each model's label, or for `*`.
pub(super) type Fields = BTreeMap<String, Vec<String>>;

/// Masks for the fields of each model's label, or of `*`.
pub(super) type Masks = BTreeMap<String, BTreeMap<String, String>>;

impl Shapes {
    /// Fails with what is wrong, as the end of a sentence about the endpoint.
    pub(super) fn new(include: &Fields, exclude: &Fields, redact: &Masks) -> Result<Self, String> {
        let labels = include.keys().chain(exclude.keys()).chain(redact.keys());
        for label in labels {
            if label != ANY && Model::labelled(label).is_none() {
                return Err(format!(
                    "names fields of {label:?}, which is neither a model nor \"{ANY}\""
                ));
            }
        }
        let of = |model: Model| {
            let label = model.label();
            Shape {
                include: include
                    .get(label)
                    .or_else(|| include.get(ANY))
                    .map(|names| names.iter().cloned().collect()),
                exclude: [ANY, label]
                    .iter()
                    .filter_map(|label| exclude.get(*label))
                    .flatten()
                    .map(|name| path(name))
                    .collect(),
                redact: [ANY, label]
                    .iter()
                    .filter_map(|label| redact.get(*label))
                    .flatten()
                    .map(|(name, mask)| (path(name), mask.clone()))
                    .collect(),
            }
        };
        let (image, mut log) = (of(Model::Image), of(Model::ImageLog));
        // The trail's `data` is the notification itself, which tells what the image's fields tell.
        if !image.is_whole() && !log.names("data") {
            log.exclude.push(path("data"));
        }
        Ok(Self { image, log })
    }

    pub(super) fn of(&self, model: Model) -> &Shape {
        match model {
            Model::Image => &self.image,
            Model::ImageLog => &self.log,
        }
    }
}

fn path(name: &str) -> Vec<String> {
    name.split('.').map(str::to_owned).collect()
}

impl Shape {
    /// Whether it leaves everything as it is.
    pub(super) fn is_whole(&self) -> bool {
        *self == Self::default()
    }

    /// Whether anything is said of this field.
    fn names(&self, field: &str) -> bool {
        let mut paths = self
            .exclude
            .iter()
            .chain(self.redact.iter().map(|(path, _)| path));
        let includes = self
            .include
            .as_ref()
            .is_some_and(|names| names.contains(field));
        includes || paths.any(|path| path.first().is_some_and(|first| first == field))
    }

    /// Takes away and masks what is not for the endpoint: of the object, and of what was there before and after a change.
    pub(super) fn apply(&self, event: &mut Value) {
        if let Some(object) = event.get_mut("object").and_then(Value::as_object_mut) {
            self.keep_included(object);
            for path in &self.exclude {
                remove(object, path);
            }
            for (path, mask) in &self.redact {
                redact(object, path, mask);
            }
        }
        if let Some(changes) = event.get_mut("changes").and_then(Value::as_object_mut) {
            self.keep_included(changes);
            for path in &self.exclude {
                match path.as_slice() {
                    [field] => drop(changes.remove(field)),
                    [field, within @ ..] => sides(changes, field, |side| {
                        remove_within(side, within);
                    }),
                    [] => {}
                }
            }
            for (path, mask) in &self.redact {
                if let [field, within @ ..] = path.as_slice() {
                    sides(changes, field, |side| redact_value(side, within, mask));
                }
            }
        }
    }

    fn keep_included(&self, fields: &mut Map<String, Value>) {
        if let Some(include) = &self.include {
            fields.retain(|name, _| include.contains(name));
        }
    }
}

/// The old and the new value of a change.
fn sides(changes: &mut Map<String, Value>, field: &str, change: impl Fn(&mut Value)) {
    let Some(both) = changes.get_mut(field).and_then(Value::as_object_mut) else {
        return;
    };
    both.values_mut().for_each(change);
}

fn remove(object: &mut Map<String, Value>, path: &[String]) {
    match path {
        [] => {}
        [field] => drop(object.remove(field)),
        [field, within @ ..] => {
            if let Some(value) = object.get_mut(field) {
                remove_within(value, within);
            }
        }
    }
}

/// Of an array, from each of what is in it.
fn remove_within(value: &mut Value, path: &[String]) {
    match value {
        Value::Object(object) => remove(object, path),
        Value::Array(values) => values
            .iter_mut()
            .for_each(|value| remove_within(value, path)),
        _ => {}
    }
}

fn redact(object: &mut Map<String, Value>, path: &[String], mask: &str) {
    if let [field, within @ ..] = path
        && let Some(value) = object.get_mut(field)
    {
        redact_value(value, within, mask);
    }
}

/// What is null says nothing, and stays.
fn redact_value(value: &mut Value, path: &[String], mask: &str) {
    if path.is_empty() {
        if !value.is_null() {
            *value = mask.into();
        }
    } else if let Some(object) = value.as_object_mut() {
        redact(object, path, mask);
    } else if let Some(values) = value.as_array_mut() {
        for value in values {
            redact_value(value, path, mask);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const IMAGE: &str = "cloudflare_images.CloudflareImage";

    fn shaped(settings: &Value) -> Value {
        let read = |name: &str| settings.get(name).cloned().unwrap_or_else(|| json!({}));
        let shapes = Shapes::new(
            &serde_json::from_value(read("include")).expect("fields"),
            &serde_json::from_value(read("exclude")).expect("fields"),
            &serde_json::from_value(read("redact")).expect("masks"),
        );
        let mut event = json!({
            "event": "updated",
            "object": {"id": "7", "status": "failed", "metadata": {"email": "a@b", "n": 1}, "creator": "me", "error": null},
            "changes": {"status": {"old": "draft", "new": "failed"}, "metadata": {"old": {"email": "x"}, "new": {"email": "y"}}},
        });
        let shapes = shapes.expect("they are right");
        shapes.of(Model::Image).apply(&mut event);
        event
    }

    #[test]
    fn only_included_fields_are_told_of_the_object_and_of_the_changes() {
        for label in [IMAGE, ANY] {
            let event = shaped(&json!({"include": {label: ["id", "status"]}}));
            assert_eq!(event["object"], json!({"id": "7", "status": "failed"}));
            assert_eq!(
                event["changes"],
                json!({"status": {"old": "draft", "new": "failed"}})
            );
        }
    }

    #[test]
    fn excluded_fields_are_nowhere_whether_for_all_models_or_for_one() {
        let event =
            shaped(&json!({"exclude": {ANY: ["metadata.email"], IMAGE: ["creator", "status"]}}));
        assert_eq!(
            event["object"],
            json!({"id": "7", "metadata": {"n": 1}, "error": null})
        );
        assert_eq!(
            event["changes"],
            json!({"metadata": {"old": {}, "new": {}}})
        );
    }

    #[test]
    fn redacted_fields_have_their_masks_and_what_says_nothing_stays() {
        let event = shaped(
            &json!({"redact": {IMAGE: {"metadata.email": "***", "creator": "?", "error": "?"}, ANY: {"status": "-"}}}),
        );
        assert_eq!(
            event["object"],
            json!({"id": "7", "status": "-", "metadata": {"email": "***", "n": 1}, "creator": "?", "error": null})
        );
        assert_eq!(
            event["changes"],
            json!({"status": {"old": "-", "new": "-"}, "metadata": {"old": {"email": "***"}, "new": {"email": "***"}}})
        );
    }

    #[test]
    fn fields_are_found_within_lists() {
        let mut event =
            json!({"object": {"metadata": {"users": [{"email": "a", "id": 1}, {"email": "b"}]}}});
        let exclude = Fields::from([(ANY.to_owned(), vec!["metadata.users.email".to_owned()])]);
        let mut masked = event.clone();
        let mask = BTreeMap::from([("metadata.users.email".to_owned(), "***".to_owned())]);
        let redact = Masks::from([(ANY.to_owned(), mask)]);

        let shapes = Shapes::new(&Fields::new(), &exclude, &Masks::new()).expect("they are right");
        shapes.of(Model::Image).apply(&mut event);
        let shapes = Shapes::new(&Fields::new(), &Fields::new(), &redact).expect("they are right");
        shapes.of(Model::Image).apply(&mut masked);

        assert_eq!(event["object"]["metadata"]["users"], json!([{"id": 1}, {}]));
        assert_eq!(
            masked["object"]["metadata"]["users"],
            json!([{"email": "***", "id": 1}, {"email": "***"}])
        );
    }

    #[test]
    fn what_is_kept_from_an_endpoint_does_not_come_back_with_the_trail() {
        let exclude = Fields::from([(IMAGE.to_owned(), vec!["creator".to_owned()])]);
        let shapes = Shapes::new(&Fields::new(), &exclude, &Masks::new()).expect("they are right");
        let mut event = json!({"object": {"event_type": "webhook_received", "data": {"payload": {"creator": "me"}}}});

        shapes.of(Model::ImageLog).apply(&mut event);

        assert_eq!(event["object"], json!({"event_type": "webhook_received"}));
    }

    #[test]
    fn a_model_that_there_is_not_is_told() {
        let fields = Fields::from([("store.Order".to_owned(), vec!["id".to_owned()])]);
        let problem = Shapes::new(&fields, &Fields::new(), &Masks::new());
        assert_eq!(
            problem,
            Err("names fields of \"store.Order\", which is neither a model nor \"*\"".to_owned())
        );
    }
}
