//! The transition table: the change that a report makes to the status of an image.
//!
//! | row \ report | draft     | expired   | uploaded            | failed              |
//! | ------------ | --------- | --------- | ------------------- | ------------------- |
//! | pending      | changes   | changes   | changes             | changes             |
//! | draft        | if later  | changes   | changes             | changes             |
//! | expired      | stale     | if later  | changes             | changes             |
//! | uploaded     | stale     | stale     | if later, or fuller | if later            |
//! | failed       | stale     | stale     | if not earlier      | if later, or fuller |
//!
//! "Later" compares the time of the report with the time of the stored status. "Fuller" decides at the same time; see
//! [`precedence`](super::precedence). Each detail has its own time and changes independently; see [`detail`](super::detail). There
//! too, a draft never replaces a value from another notification.
//!
//! Each column has the maximum of the reported values under a total order. So the row does not depend on the order of arrival, and
//! a redelivery changes nothing.

use super::image::{ImageState, Status};
use super::notification::{Report, ReportedStatus};
use super::precedence::{Effect, EffectiveTime, decide};
use super::timestamp::Timestamp;

/// The arrival of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// The report is not known to be a redelivery.
    First {
        /// The time at which the last byte of the body was read.
        received_at: Timestamp,
    },
    /// The report states no time, and the same payload was recorded for the image before.
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
            ReportedStatus::Expired => (Status::Expired, None, String::new()),
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
        | (Status::Draft, ReportedStatus::Expired)
        | (
            Status::Expired | Status::Draft,
            ReportedStatus::Uploaded { .. } | ReportedStatus::Failed { .. },
        ) => Effect::Applied,
        (Status::Expired | Status::Uploaded | Status::Failed, ReportedStatus::Draft)
        | (Status::Uploaded | Status::Failed, ReportedStatus::Expired) => Effect::Stale,
        (Status::Draft, ReportedStatus::Draft) | (Status::Expired, ReportedStatus::Expired) => {
            decide(effective, (effective.at(), &true), (stored_at, &true))
        }
        (Status::Uploaded, ReportedStatus::Uploaded { uploaded_at }) => {
            let stored = image.uploaded_at;
            let uploaded_at = match effective {
                EffectiveTime::Stated(at) => uploaded_at.or(Some(at)),
                // Without a time, the report adds nothing to the stored end of the upload.
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
        // The later final status wins. At the same time, uploaded wins over failed.
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

/// Returns the time of the row's status. A row that an app wrote may have `uploaded_at` without `status_at`.
fn status_time(image: &ImageState) -> Option<Timestamp> {
    image.status_at.or(image.uploaded_at)
}

#[cfg(test)]
pub(super) mod tests;
