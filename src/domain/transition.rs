//! The transition table: how a notification changes an image.
//!
//! | row \ report | draft            | uploaded                | failed        |
//! | ------------ | ---------------- | ----------------------- | ------------- |
//! | pending      | moves            | moves                   | moves         |
//! | expired      | stale            | moves                   | moves         |
//! | draft        | if later         | moves                   | moves         |
//! | uploaded     | stale            | if later, or fuller     | if later      |
//! | failed       | stale            | if later or as late     | if later, or fuller |
//!
//! "Fuller" breaks the tie between two reports of one kind and one time. Details move on their own, field by field, see
//! [`detail`](super::detail); there too a draft never replaces what another notification told. Both are maxima under a total order, which is why the last row does not depend on the order of
//! arrival, and why nothing can be applied twice.

use super::image::{ImageState, Status};
use super::notification::{Report, ReportedStatus};
use super::precedence::{Effect, EffectiveTime, decide};
use super::timestamp::Timestamp;

/// How a report came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// For the first time, as far as anybody can tell.
    First {
        /// When its last byte was read.
        received_at: Timestamp,
    },
    /// It says no time of its own, and the image has had the very same notification before.
    Redelivery,
}

/// Applies a report to an image. The image is unchanged unless the effect is [`Effect::Applied`].
pub fn transition(image: &mut ImageState, report: &Report, arrival: Arrival) -> Effect {
    let Arrival::First { received_at } = arrival else {
        return Effect::Duplicate;
    };
    let effective = report.effective_time(received_at);
    let status = match &report.status {
        Some(reported) => apply_status(image, reported, effective),
        None => Effect::Duplicate,
    };
    status.and(
        image
            .details
            .merge(&report.details, effective, report.precedence()),
    )
}

fn apply_status(
    image: &mut ImageState,
    reported: &ReportedStatus,
    effective: EffectiveTime,
) -> Effect {
    let effect = status_effect(image, reported, effective);
    if effect == Effect::Applied {
        image.status_at = Some(effective.at());
        (image.status, image.uploaded_at, image.error) = match reported {
            ReportedStatus::Draft => (Status::Draft, None, String::new()),
            ReportedStatus::Uploaded { uploaded_at } => (
                Status::Uploaded,
                Some(uploaded_at.unwrap_or(effective.at())),
                String::new(),
            ),
            ReportedStatus::Failed { error } => (Status::Failed, None, error.clone()),
        };
    }
    effect
}

fn status_effect(
    image: &ImageState,
    reported: &ReportedStatus,
    effective: EffectiveTime,
) -> Effect {
    let stored_at = status_time(image);
    match (image.status, reported) {
        (Status::Pending, _)
        | (
            Status::Expired | Status::Draft,
            ReportedStatus::Uploaded { .. } | ReportedStatus::Failed { .. },
        ) => Effect::Applied,
        (Status::Expired | Status::Uploaded | Status::Failed, ReportedStatus::Draft) => {
            Effect::Stale
        }
        (Status::Draft, ReportedStatus::Draft) => {
            decide(effective, (effective.at(), &true), (stored_at, &true))
        }
        (Status::Uploaded, ReportedStatus::Uploaded { uploaded_at }) => {
            let stored = image.uploaded_at;
            let uploaded_at = match effective {
                EffectiveTime::Stated(at) => uploaded_at.or(Some(at)),
                // Without any time of its own it says no more than that the image is uploaded.
                EffectiveTime::Received(_) => uploaded_at.or(stored),
            };
            decide(
                effective,
                (effective.at(), &uploaded_at),
                (stored_at, &stored),
            )
        }
        (Status::Failed, ReportedStatus::Failed { error }) => decide(
            effective,
            (effective.at(), error),
            (stored_at, &image.error),
        ),
        // Between the two final statuses the later wins, and at the same time the upload.
        (Status::Uploaded, ReportedStatus::Failed { .. }) => {
            applied_if(Some(effective.at()) > stored_at)
        }
        (Status::Failed, ReportedStatus::Uploaded { .. }) => {
            applied_if(Some(effective.at()) >= stored_at)
        }
    }
}

fn applied_if(is_newer: bool) -> Effect {
    if is_newer {
        Effect::Applied
    } else {
        Effect::Stale
    }
}

/// Since when the row has its status. A row which another program wrote has no `status_at`, but can say when it was uploaded.
fn status_time(image: &ImageState) -> Option<Timestamp> {
    image.status_at.or(image.uploaded_at)
}

#[cfg(test)]
mod tests;
