//! The message that an endpoint receives for an event.
//!
//! 1. The field filter removes and redacts fields.
//! 2. The jq program `when` decides whether the event is sent.
//! 3. The jq program `transform` replaces the message.
//!
//! Both programs run after the field filter, so they cannot restore a removed field.

mod field_filter;
mod jq;

use super::settings::EndpointSettings;
use crate::domain::event::Model;

use field_filter::FieldFilters;
use jq::{JqError, JqProgram};

/// Builds the messages for one endpoint.
#[derive(Default)]
pub(super) struct MessageBuilder {
    field_filters: FieldFilters,
    when: Option<JqProgram>,
    transform: Option<JqProgram>,
}

/// The result of building a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Built {
    /// The message is the event.
    Unchanged(String),
    /// The message differs from the event.
    Transformed(String),
    /// `when` or `transform` filtered out the event.
    FilteredOut,
}

/// The error if a message cannot be built.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BuildError {
    #[error("the event is not JSON")]
    NotJson,
    #[error("`when` {0}")]
    When(JqError),
    #[error("`transform` {0}")]
    Transform(JqError),
}

impl MessageBuilder {
    /// Compiles an endpoint's filters and programs. The error is a clause that names the setting.
    pub(super) fn new(settings: &EndpointSettings) -> Result<Self, String> {
        Ok(Self {
            field_filters: FieldFilters::new(
                &settings.include_fields,
                &settings.exclude_fields,
                &settings.redact_fields,
            )?,
            when: compile_program("when", &settings.when)?,
            transform: compile_program("transform", &settings.transform)?,
        })
    }

    /// Builds the message for an event about this model.
    pub(super) async fn build(
        &self,
        event: String,
        model: Option<Model>,
    ) -> Result<Built, BuildError> {
        let filtered = self.filter_fields(&event, model)?;
        let is_changed = filtered.is_some();
        let message = filtered.unwrap_or(event);
        if !self.is_wanted(&message).await? {
            return Ok(Built::FilteredOut);
        }
        if let Some(transform) = &self.transform {
            let output = transform.run(message).await;
            let output = output.map_err(BuildError::Transform)?;
            return Ok(output.map_or(Built::FilteredOut, Built::Transformed));
        }
        Ok(if is_changed {
            Built::Transformed(message)
        } else {
            Built::Unchanged(message)
        })
    }

    /// Returns the event without the fields that the endpoint must not see. `None` if the endpoint may see all of them.
    fn filter_fields(
        &self,
        event: &str,
        model: Option<Model>,
    ) -> Result<Option<String>, BuildError> {
        let filter = model.map(|model| self.field_filters.for_model(model));
        let Some(filter) = filter.filter(|filter| !filter.changes_nothing()) else {
            return Ok(None);
        };
        let mut event = serde_json::from_str(event).map_err(|_| BuildError::NotJson)?;
        filter.apply(&mut event);
        Ok(Some(event.to_string()))
    }

    /// Returns whether `when` accepts the message. In jq, every value except `false` and `null` is true.
    async fn is_wanted(&self, message: &str) -> Result<bool, BuildError> {
        let Some(when) = &self.when else {
            return Ok(true);
        };
        let output = when.run(message.to_owned()).await;
        let output = output.map_err(BuildError::When)?;
        Ok(output.is_some_and(|value| value != "false" && value != "null"))
    }
}

fn compile_program(key: &str, code: &str) -> Result<Option<JqProgram>, String> {
    if code.trim().is_empty() {
        return Ok(None);
    }
    let program = JqProgram::compile(code);
    program
        .map(Some)
        .map_err(|problem| format!("`{key}` is not a valid jq program: {problem}"))
}
