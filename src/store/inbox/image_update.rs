//! An image's row in memory, to which a batch's notifications are applied one after another.

use uuid::Uuid;

use super::columns::{StoredImage, canonical_json};
use crate::domain::detail::Detail;
use crate::domain::event::{EventKind, Model, changes};
use crate::domain::id::CloudflareId;
use crate::domain::image::{ImageState, Status};
use crate::domain::json::Json;
use crate::domain::notification::Report;
use crate::domain::outcome::Outcome;
use crate::domain::precedence::Effect;
use crate::domain::timestamp::Timestamp;
use crate::domain::transition::{Arrival, transition};
use crate::store::outbox::event::NewEvent;
use crate::store::outbox::router::WantedEvents;

/// An image's row, and the changes that the batch has made to it.
pub(in crate::store) struct ImageUpdate {
    stored: StoredImage,
    is_new: bool,
    updated_at: Option<Timestamp>,
    changed_json: ChangedJson,
}

/// An image's row to update, in its last state.
pub(in crate::store) struct ChangedImage {
    pub(in crate::store) id: Uuid,
    pub(in crate::store) cloudflare_id: CloudflareId,
    pub(in crate::store) state: ImageState,
    pub(in crate::store) updated_at: Timestamp,
    changed_json: ChangedJson,
}

/// The JSON columns that the batch changed. The others are not written, so a text that another program wrote stays unchanged.
#[derive(Debug, Clone, Copy, Default)]
struct ChangedJson {
    variants: bool,
    cloudflare_metadata: bool,
}

/// The result of applying a report to a row.
pub(super) struct ReportResult {
    pub(super) outcome: Outcome,
    pub(super) status_before: Status,
    /// The event of the change, if an endpoint wants it.
    pub(super) event: Option<NewEvent>,
}

impl ImageUpdate {
    /// Returns an update without changes yet. `is_new` says that the row was inserted for this batch.
    pub(super) fn of(stored: StoredImage, is_new: bool) -> Self {
        Self {
            stored,
            is_new,
            updated_at: None,
            changed_json: ChangedJson::default(),
        }
    }

    pub(super) fn ids(&self) -> (Uuid, CloudflareId) {
        (self.stored.id, self.stored.cloudflare_id.clone())
    }

    pub(super) fn status(&self) -> Status {
        self.stored.state.status
    }

    pub(super) fn apply(
        &mut self,
        report: &Report,
        arrival: Arrival,
        at: Timestamp,
        wanted: WantedEvents,
    ) -> ReportResult {
        let status_before = self.stored.state.status;
        let before = wanted
            .contains(Model::Image, EventKind::Updated)
            .then(|| self.stored.state.clone());

        let mut effect = self.apply_transition(report, arrival);

        // The insertion itself is a change, even if the report adds nothing.
        let is_new = std::mem::take(&mut self.is_new);
        if is_new {
            effect = Effect::Applied;
        }
        let mut event = None;
        if effect == Effect::Applied {
            self.updated_at = Some(at);
            event = self.build_event(is_new, before.as_ref(), at, wanted);
        }
        ReportResult {
            outcome: Outcome::of_image(effect, self.stored.state.status),
            status_before,
            event,
        }
    }

    /// Applies the domain's transition. Compares JSON columns in canonical form.
    fn apply_transition(&mut self, report: &Report, arrival: Arrival) -> Effect {
        let details = &mut self.stored.state.details;
        let variants =
            CanonicalForm::swap_in(&mut details.variants, report.details.variants.is_some());
        let metadata = CanonicalForm::swap_in(
            &mut details.cloudflare_metadata,
            report.details.cloudflare_metadata.is_some(),
        );

        let effect = transition(&mut self.stored.state, report, arrival);

        let details = &mut self.stored.state.details;
        self.changed_json.variants |=
            variants.is_some_and(|form| form.was_replaced(&mut details.variants));
        self.changed_json.cloudflare_metadata |=
            metadata.is_some_and(|form| form.was_replaced(&mut details.cloudflare_metadata));
        effect
    }

    fn build_event(
        &self,
        is_new: bool,
        before: Option<&ImageState>,
        at: Timestamp,
        wanted: WantedEvents,
    ) -> Option<NewEvent> {
        let image = self.stored.row();
        if is_new {
            return wanted
                .contains(Model::Image, EventKind::Created)
                .then(|| NewEvent::image_created(image, at));
        }
        let changes = changes(before?, &self.stored.state);
        Some(NewEvent::image_updated(image, &changes, at))
    }

    /// Returns the row to update, if the batch changed it.
    pub(super) fn changed(self) -> Option<ChangedImage> {
        let updated_at = self.updated_at?;
        let StoredImage {
            id,
            cloudflare_id,
            state,
            extra_columns: _,
        } = self.stored;
        Some(ChangedImage {
            id,
            cloudflare_id,
            state,
            updated_at,
            changed_json: self.changed_json,
        })
    }
}

impl ChangedImage {
    /// Returns the new value of `variants`, if it changed.
    pub(in crate::store) fn variants(&self) -> Option<&str> {
        let details = &self.state.details;
        let changed = self.changed_json.variants;
        changed.then(|| details.variants.value.as_str())
    }

    /// Returns the new value of `cloudflare_metadata`, if it changed.
    pub(in crate::store) fn cloudflare_metadata(&self) -> Option<&str> {
        let details = &self.state.details;
        let changed = self.changed_json.cloudflare_metadata;
        changed.then(|| details.cloudflare_metadata.value.as_str())
    }
}

/// The stored text of a JSON column, and its canonical form. During the transition the detail has the canonical form, because the
/// transition compares values.
///
/// Only columns that the report names are converted: the conversion costs time, and the canonical form can differ from the stored
/// text.
struct CanonicalForm {
    stored: Json,
    canonical: Json,
}

impl CanonicalForm {
    /// Replaces the detail's value by its canonical form, if the report names the detail.
    fn swap_in(detail: &mut Detail<Json>, is_reported: bool) -> Option<Self> {
        is_reported.then(|| {
            let canonical = canonical_json(&detail.value);
            let stored = std::mem::replace(&mut detail.value, canonical.clone());
            Self { stored, canonical }
        })
    }

    /// Returns whether the report replaced the value. If not, restores the stored text.
    fn was_replaced(self, detail: &mut Detail<Json>) -> bool {
        if detail.value == self.canonical {
            detail.value = self.stored;
            return false;
        }
        true
    }
}
