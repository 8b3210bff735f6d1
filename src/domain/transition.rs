//! What a notification does to an image: the one table of the product.
//!
//! | row \ told   | draft            | uploaded                | failed        |
//! | ------------ | ---------------- | ----------------------- | ------------- |
//! | pending      | moves            | moves                   | moves         |
//! | expired      | stale            | moves                   | moves         |
//! | draft        | if later         | moves                   | moves         |
//! | uploaded     | stale            | if later, or fuller     | if later      |
//! | failed       | stale            | if later or as late     | if later, or fuller |
//!
//! "Fuller" breaks the tie between two tellings of one kind and one time. Details move on their own, field by field, see
//! [`detail`](super::detail); there too a draft never replaces what another notification told. Both are maxima under a total order, which is why the last row does not depend on the order of
//! arrival, and why nothing can be applied twice.

use super::image::{ImageState, Status};
use super::notification::{Report, ReportedStatus};
use super::telling::{Effect, Told, compare};
use super::timestamp::Timestamp;

/// How a report came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// For the first time, as far as anybody can tell.
    New {
        /// When its last byte was read.
        received_at: Timestamp,
    },
    /// It says no time of its own, and the image has had the very same notification before.
    Again,
}

/// Applies a report to an image. The image is unchanged unless the effect is [`Effect::Applied`].
pub fn transition(image: &mut ImageState, report: &Report, delivery: Delivery) -> Effect {
    let Delivery::New { received_at } = delivery else {
        return Effect::Duplicate;
    };
    let told = report.told(received_at);
    let status = match &report.status {
        Some(reported) => tell_status(image, reported, told),
        None => Effect::Duplicate,
    };
    status.and(image.details.tell(&report.details, told, report.standing()))
}

fn tell_status(image: &mut ImageState, reported: &ReportedStatus, told: Told) -> Effect {
    let effect = status_effect(image, reported, told);
    if effect == Effect::Applied {
        image.status_at = Some(told.at());
        (image.status, image.uploaded_at, image.error) = match reported {
            ReportedStatus::Draft => (Status::Draft, None, String::new()),
            ReportedStatus::Uploaded { uploaded_at } => (
                Status::Uploaded,
                Some(uploaded_at.unwrap_or(told.at())),
                String::new(),
            ),
            ReportedStatus::Failed { error } => (Status::Failed, None, error.clone()),
        };
    }
    effect
}

fn status_effect(image: &ImageState, reported: &ReportedStatus, told: Told) -> Effect {
    let since = status_since(image);
    match (image.status, reported) {
        (Status::Pending, _)
        | (
            Status::Expired | Status::Draft,
            ReportedStatus::Uploaded { .. } | ReportedStatus::Failed { .. },
        ) => Effect::Applied,
        (Status::Expired | Status::Uploaded | Status::Failed, ReportedStatus::Draft) => {
            Effect::Stale
        }
        (Status::Draft, ReportedStatus::Draft) => compare(told, (told.at(), &true), (since, &true)),
        (Status::Uploaded, ReportedStatus::Uploaded { uploaded_at }) => {
            let standing = image.uploaded_at;
            let uploaded_at = match told {
                Told::At(at) => uploaded_at.or(Some(at)),
                // Without any time of its own it says no more than that the image is uploaded.
                Told::OnReceiptAt(_) => uploaded_at.or(standing),
            };
            compare(told, (told.at(), &uploaded_at), (since, &standing))
        }
        (Status::Failed, ReportedStatus::Failed { error }) => {
            compare(told, (told.at(), error), (since, &image.error))
        }
        // Between the two final statuses the later wins, and at the same time the upload.
        (Status::Uploaded, ReportedStatus::Failed { .. }) => applied_if(Some(told.at()) > since),
        (Status::Failed, ReportedStatus::Uploaded { .. }) => applied_if(Some(told.at()) >= since),
    }
}

fn applied_if(is_news: bool) -> Effect {
    if is_news {
        Effect::Applied
    } else {
        Effect::Stale
    }
}

/// Since when the row has its status. A row which another program wrote has no `status_at`, but can say when it was uploaded.
fn status_since(image: &ImageState) -> Option<Timestamp> {
    image.status_at.or(image.uploaded_at)
}

#[cfg(test)]
mod tests;
