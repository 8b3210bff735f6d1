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
        Ok(Self {
            image: of(Model::Image),
            log: of(Model::ImageLog),
        })
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
                        if let Some(side) = side.as_object_mut() {
                            remove(side, within);
                        }
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
            if let Some(inner) = object.get_mut(field).and_then(Value::as_object_mut) {
                remove(inner, within);
            }
        }
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
    fn a_model_that_there_is_not_is_told() {
        let fields = Fields::from([("store.Order".to_owned(), vec!["id".to_owned()])]);
        let problem = Shapes::new(&fields, &Fields::new(), &Masks::new());
        assert_eq!(
            problem,
            Err("names fields of \"store.Order\", which is neither a model nor \"*\"".to_owned())
        );
    }
}
