//! One image's row while a batch is decided: what each notification makes of it.

use std::collections::HashSet;

use super::{ChangedImage, Line, Tells};
use crate::domain::detail::Detail;
use crate::domain::event::{EventKind, Model, changes};
use crate::domain::id::CloudflareId;
use crate::domain::json::Json;
use crate::domain::notification::Report;
use crate::domain::outcome::Outcome;
use crate::domain::telling::Effect;
use crate::domain::timestamp::Timestamp;
use crate::domain::transition::{Delivery, transition};
use crate::store::event::NewEvent;
use crate::store::outlets::Interest;
use crate::store::row::{StoredImage, canonical};

/// A row, and what the batch has done to it.
pub(super) struct Row {
    stored: StoredImage,
    is_new: bool,
    updated_at: Option<Timestamp>,
    tells: Tells,
}

impl Row {
    pub(super) fn of(stored: StoredImage, inserted: &HashSet<CloudflareId>) -> Self {
        let is_new = inserted.contains(&stored.cloudflare_id);
        Self {
            stored,
            is_new,
            updated_at: None,
            tells: Tells::default(),
        }
    }

    pub(super) fn record(
        &mut self,
        report: &Report,
        delivery: Delivery,
        at: Timestamp,
        interest: Interest,
    ) -> (Outcome, Line, Option<NewEvent>) {
        let before = self.stored.state.status;
        let state_before = interest
            .is_in(Model::Image, EventKind::Updated)
            .then(|| self.stored.state.clone());
        let details = &mut self.stored.state.details;
        let variants = Comparable::make(&mut details.variants, report.details.variants.is_some());
        let metadata = Comparable::make(
            &mut details.cloudflare_metadata,
            report.details.cloudflare_metadata.is_some(),
        );

        let mut effect = transition(&mut self.stored.state, report, delivery);

        let details = &mut self.stored.state.details;
        self.tells.variants |=
            variants.is_some_and(|variants| variants.was_told(&mut details.variants));
        self.tells.cloudflare_metadata |=
            metadata.is_some_and(|metadata| metadata.was_told(&mut details.cloudflare_metadata));

        let status = self.stored.state.status;
        // That there is such an image is news too.
        let is_new = std::mem::take(&mut self.is_new);
        if is_new {
            effect = Effect::Applied;
        }
        let mut event = None;
        if effect == Effect::Applied {
            self.updated_at = Some(at);
            event = match state_before {
                _ if is_new => interest
                    .is_in(Model::Image, EventKind::Created)
                    .then(|| NewEvent::image_created(&self.stored, at)),
                Some(before) => {
                    let changes = changes(&before, &self.stored.state);
                    Some(NewEvent::image_updated(&self.stored, &changes, at))
                }
                None => None,
            };
        }
        let image = Some((self.stored.id, self.stored.cloudflare_id.clone()));
        let outcome = Outcome::of_image(effect, status);
        (outcome, Line::new(outcome, image, Some(before)), event)
    }

    pub(super) fn changed(self) -> Option<ChangedImage> {
        let updated_at = self.updated_at?;
        let StoredImage {
            id,
            cloudflare_id,
            state,
            ..
        } = self.stored;
        Some(ChangedImage {
            id,
            cloudflare_id,
            state,
            updated_at,
            tells: self.tells,
        })
    }
}

/// A JSON column as it is stored, while its detail holds the canonical form of it to be compared with what is told. Only a
/// column that is told is touched: its canonical form costs time, and is not always to the letter what was there.
struct Comparable {
    stored: Json,
    canonical: Json,
}

impl Comparable {
    fn make(detail: &mut Detail<Json>, is_told: bool) -> Option<Self> {
        is_told.then(|| {
            let canonical = canonical(&detail.value);
            let stored = std::mem::replace(&mut detail.value, canonical.clone());
            Self { stored, canonical }
        })
    }

    /// Whether the telling replaced the value. If not, the stored form is put back.
    fn was_told(self, detail: &mut Detail<Json>) -> bool {
        if detail.value == self.canonical {
            detail.value = self.stored;
            return false;
        }
        true
    }
}
