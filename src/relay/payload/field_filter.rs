//! The field filter: includes, excludes and redacts the fields of an event for an endpoint.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::domain::event::Model;
use crate::relay::deep_json::{self, UnreadableJson};
use crate::relay::settings::{FieldNames, Redactions};

/// The label that stands for every model.
const ANY_MODEL: &str = "*";

/// The filter for the events of one model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FieldFilter {
    /// The fields that are sent. `None` means all fields.
    include: Option<BTreeSet<String>>,
    /// The paths that are removed. A path may lead into a field, for example `metadata.email`.
    exclude: Vec<Vec<String>>,
    /// The paths whose values are replaced, with the replacements.
    redact: Vec<(Vec<String>, String)>,
}

/// The filters of one endpoint, by model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldFilters {
    image: FieldFilter,
    image_log: FieldFilter,
}

impl FieldFilters {
    /// Builds the filters. The error is a clause that names the setting.
    pub fn new(
        include: &FieldNames,
        exclude: &FieldNames,
        redact: &Redactions,
    ) -> Result<Self, String> {
        for (label, names) in include {
            if let Some(name) = names.iter().find(|name| name.contains('.')) {
                return Err(format!(
                    "include_fields: {name:?} of {label:?} is a path, but only whole fields can be included"
                ));
            }
            check_fields("include_fields", label, names)?;
        }
        for (label, names) in exclude {
            check_fields("exclude_fields", label, names)?;
        }
        for (label, replacements) in redact {
            check_fields("redact_fields", label, replacements.keys())?;
        }
        let filter_for = |model: Model| {
            let label = model.label();
            FieldFilter {
                include: include
                    .get(label)
                    .or_else(|| include.get(ANY_MODEL))
                    .map(|names| names.iter().cloned().collect()),
                exclude: [ANY_MODEL, label]
                    .iter()
                    .filter_map(|label| exclude.get(*label))
                    .flatten()
                    .map(|name| parse_path(name))
                    .collect(),
                redact: [ANY_MODEL, label]
                    .iter()
                    .filter_map(|label| redact.get(*label))
                    .flatten()
                    .map(|(name, replacement)| (parse_path(name), replacement.clone()))
                    .collect(),
            }
        };
        let (image, mut image_log) = (filter_for(Model::Image), filter_for(Model::ImageLog));
        // An audit entry's `data` is the raw notification, which repeats the image's fields.
        if !image.changes_nothing() && !image_log.mentions("data") {
            image_log.exclude.push(parse_path("data"));
        }
        Ok(Self { image, image_log })
    }

    /// Returns the event without the fields that the endpoint must not see. `None` if the endpoint may see all of them.
    pub fn filter(&self, event: &str, model: Model) -> Result<Option<String>, UnreadableJson> {
        let filter = self.for_model(model);
        if filter.changes_nothing() {
            return Ok(None);
        }
        let mut event = deep_json::parse(event)?;
        filter.apply(&mut event);
        let filtered = serde_json::to_string(&event);
        Ok(Some(filtered.expect("a value is JSON")))
    }

    fn for_model(&self, model: Model) -> &FieldFilter {
        match model {
            Model::Image => &self.image,
            Model::ImageLog => &self.image_log,
        }
    }
}

/// Checks that the label is a model's label or `*`, and that the model has these fields. A misspelt
/// field would silently hide nothing. Under `*`, unknown fields such as `password` are allowed.
fn check_fields<'a>(
    setting: &str,
    label: &str,
    names: impl IntoIterator<Item = &'a String>,
) -> Result<(), String> {
    let Some(model) = Model::from_label(label) else {
        return (label == ANY_MODEL).then_some(()).ok_or_else(|| {
            let labels = Model::ALL.map(Model::label).join(", ");
            format!("{setting}: unknown model {label:?}. Use {labels} or \"{ANY_MODEL}\".")
        });
    };
    let is_known = |name: &String| {
        let field = name.split('.').next().unwrap_or_default();
        // Hiding a column that is never sent is harmless.
        model.fields().contains(&field) || model.hidden_columns().contains(&field)
    };
    match names.into_iter().find(|name| !is_known(name)) {
        None => Ok(()),
        Some(name) => Err(format!(
            "{setting}: unknown field {name:?} of {label:?}. Use {}.",
            model.fields().join(", ")
        )),
    }
}

fn parse_path(name: &str) -> Vec<String> {
    name.split('.').map(str::to_owned).collect()
}

impl FieldFilter {
    pub(super) fn changes_nothing(&self) -> bool {
        *self == Self::default()
    }

    fn mentions(&self, field: &str) -> bool {
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

    /// Filters the object of an event, and the old and new values of its changes.
    pub(super) fn apply(&self, event: &mut Value) {
        if let Some(object) = event.get_mut("object").and_then(Value::as_object_mut) {
            self.keep_included(object);
            for path in &self.exclude {
                remove(object, path);
            }
            for (path, replacement) in &self.redact {
                redact(object, path, replacement);
            }
        }
        if let Some(changes) = event.get_mut("changes").and_then(Value::as_object_mut) {
            self.keep_included(changes);
            for path in &self.exclude {
                match path.as_slice() {
                    [field] => drop(changes.remove(field)),
                    [field, rest @ ..] => each_side(changes, field, |side| {
                        remove_within(side, rest);
                    }),
                    [] => {}
                }
            }
            for (path, replacement) in &self.redact {
                if let [field, rest @ ..] = path.as_slice() {
                    each_side(changes, field, |side| {
                        redact_value(side, rest, replacement);
                    });
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

/// Applies a function to the old and the new value of a changed field.
fn each_side(changes: &mut Map<String, Value>, field: &str, change: impl Fn(&mut Value)) {
    let Some(sides) = changes.get_mut(field).and_then(Value::as_object_mut) else {
        return;
    };
    sides.values_mut().for_each(change);
}

fn remove(object: &mut Map<String, Value>, path: &[String]) {
    match path {
        [] => {}
        [field] => drop(object.remove(field)),
        [field, rest @ ..] => {
            if let Some(value) = object.get_mut(field) {
                remove_within(value, rest);
            }
        }
    }
}

/// Removes the path from the value. In an array, removes it from every element.
fn remove_within(value: &mut Value, path: &[String]) {
    match value {
        Value::Object(object) => remove(object, path),
        Value::Array(values) => values
            .iter_mut()
            .for_each(|value| remove_within(value, path)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn redact(object: &mut Map<String, Value>, path: &[String], replacement: &str) {
    if let [field, rest @ ..] = path
        && let Some(value) = object.get_mut(field)
    {
        redact_value(value, rest, replacement);
    }
}

/// Replaces the value at the path. A null stays null, because it reveals nothing.
fn redact_value(value: &mut Value, path: &[String], replacement: &str) {
    if path.is_empty() {
        if !value.is_null() {
            *value = replacement.into();
        }
    } else if let Some(object) = value.as_object_mut() {
        redact(object, path, replacement);
    } else if let Some(values) = value.as_array_mut() {
        for value in values {
            redact_value(value, path, replacement);
        }
    }
}

#[cfg(test)]
mod tests;
