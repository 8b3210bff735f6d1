//! The message that an endpoint receives for an event.
//!
//! 1. The field filter removes and redacts fields.
//! 2. The jq program `when` decides whether the event is sent.
//! 3. The jq program `transform` replaces the message.
//!
//! Both programs run after the field filter, so they cannot restore a removed field.

mod field_filter;
pub mod jq;

use std::path::Path;
use std::sync::Arc;

use super::deep_json::{self, UnreadableJson};
use super::settings::EndpointSettings;
use crate::domain::event::Model;

pub use field_filter::FieldFilters;
use jq::{JqError, JqPrograms, Verdict};

/// Builds the messages for one endpoint.
pub(super) struct MessageBuilder {
    field_filters: FieldFilters,
    programs: Option<JqPrograms>,
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
    #[error(transparent)]
    Unreadable(#[from] UnreadableJson),
    #[error(transparent)]
    Jq(#[from] JqError),
}

impl MessageBuilder {
    /// Builds an endpoint's filters. The error is a clause that names the setting. `executable` is the path of this service's own
    /// program, which runs the jq programs.
    pub(super) fn new(settings: &EndpointSettings, executable: &Arc<Path>) -> Result<Self, String> {
        Ok(Self {
            field_filters: FieldFilters::new(
                &settings.include_fields,
                &settings.exclude_fields,
                &settings.redact_fields,
            )?,
            programs: JqPrograms::new(executable, &settings.when, &settings.transform)?,
        })
    }

    /// Compiles the jq programs in a process of their own. The error is a clause that names the setting.
    pub(super) async fn check_programs(&self) -> Result<(), String> {
        match &self.programs {
            Some(programs) => programs.check().await,
            None => Ok(()),
        }
    }

    /// Builds the message for an event about this model.
    pub(super) async fn build(
        &self,
        event: String,
        model: Option<Model>,
    ) -> Result<Built, BuildError> {
        let filtered = match model {
            Some(model) => self.field_filters.filter(&event, model)?,
            None => None,
        };
        let is_changed = filtered.is_some();
        let mut message = filtered.unwrap_or(event);
        if let Some(programs) = &self.programs {
            // The worker process could read more levels, but then the limit would depend on the machine.
            deep_json::check_depth(&message)?;
            let (verdict, unchanged) = programs.run(message).await?;
            match verdict {
                Verdict::FilteredOut => return Ok(Built::FilteredOut),
                Verdict::Replaced(output) => return Ok(Built::Transformed(output)),
                Verdict::Unchanged => message = unchanged,
            }
        }
        Ok(if is_changed {
            Built::Transformed(message)
        } else {
            Built::Unchanged(message)
        })
    }
}
