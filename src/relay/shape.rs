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
        for (label, names) in include {
            if let Some(name) = names.iter().find(|name| name.contains('.')) {
                return Err(format!(
                    "includes {name:?} of {label:?}: only whole fields can be included"
                ));
            }
            check(label, names)?;
        }
        for (label, names) in exclude {
            check(label, names)?;
        }
        for (label, masks) in redact {
            check(label, masks.keys())?;
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

/// Fails unless the label is a model's, or stands for all; and unless each name leads to a field of that model, for one that is misspelt would
/// keep back nothing, and nobody would see. For all models, names can be given just in case, such as `password`.
fn check<'a>(label: &str, names: impl IntoIterator<Item = &'a String>) -> Result<(), String> {
    let Some(model) = Model::labelled(label) else {
        return (label == ANY).then_some(()).ok_or_else(|| {
            format!("names fields of {label:?}, which is neither a model nor \"{ANY}\"")
        });
    };
    let is_known = |name: &String| {
        let field = name.split('.').next().unwrap_or_default();
        // To keep back what nobody is told is no mistake.
        model.fields().contains(&field) || model.untold().contains(&field)
    };
    match names.into_iter().find(|name| !is_known(name)) {
        None => Ok(()),
        Some(name) => Err(format!(
            "names the field {name:?} of {label:?}, which there is not; told are {}",
            model.fields().join(", ")
        )),
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
mod tests;
