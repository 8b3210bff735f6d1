//! Notifications for the tests.

use std::sync::Arc;

use cloudflare_images_webhook::domain::detail::ReportedDetails;
use cloudflare_images_webhook::domain::id::CloudflareId;
use cloudflare_images_webhook::domain::json::Json;
use cloudflare_images_webhook::domain::notification::{
    Body, Content, InvalidBody, Notification, Report, ReportedStatus, RequestInfo,
};
use cloudflare_images_webhook::domain::outcome::Outcome;
use cloudflare_images_webhook::domain::timestamp::Timestamp;
use cloudflare_images_webhook::store::Store;

/// Returns a time, in seconds since 1970.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(seconds).expect("a time")
}

/// Returns an image id.
pub(crate) fn image_id(id: &str) -> CloudflareId {
    CloudflareId::parse(id).expect("an id")
}

/// Records notifications in one batch.
pub(crate) async fn record<const N: usize>(
    store: &Store,
    notifications: [Notification; N],
) -> Vec<Outcome> {
    let recording = store.inbox.record(&notifications.map(Arc::new)).await;
    recording.expect("the batch is recorded")
}

/// Returns an upload report, made and received at this second.
pub(crate) fn uploaded(id: &str, seconds: i64) -> Notification {
    report(id, seconds, ReportedStatus::Uploaded { uploaded_at: None })
}

/// Returns a failure report, made and received at this second.
pub(crate) fn failed(id: &str, seconds: i64) -> Notification {
    let error = "too large".to_owned();
    report(id, seconds, ReportedStatus::Failed { error })
}

fn report(id: &str, seconds: i64, status: ReportedStatus) -> Notification {
    let report = Report {
        cloudflare_id: image_id(id),
        status: Some(status),
        reported_at: Some(at(seconds)),
        details: ReportedDetails::default(),
    };
    received(Content::Report(report), seconds)
}

/// Returns a report without a time of its own.
pub(crate) fn undated(id: &str, payload: &str, seconds: i64) -> Notification {
    let report = Report {
        cloudflare_id: image_id(id),
        status: Some(ReportedStatus::Uploaded { uploaded_at: None }),
        reported_at: None,
        details: ReportedDetails::default(),
    };
    Notification {
        payload: Json::from_canonical(payload.to_owned()),
        ..received(Content::Report(report), seconds)
    }
}

/// Returns a notification with an invalid body.
pub(crate) fn invalid(body: &[u8], seconds: i64) -> Notification {
    let invalid = InvalidBody {
        body: Body::from(body),
        problem: "the body must be JSON".to_owned(),
    };
    received(Content::Invalid(invalid), seconds)
}

/// Returns the notification as if its sender was not authenticated.
pub(crate) fn unauthenticated(notification: Notification) -> Notification {
    let request_info = RequestInfo {
        scheme: None,
        ..notification.request_info
    };
    Notification {
        request_info,
        ..notification
    }
}

fn received(content: Content, seconds: i64) -> Notification {
    Notification {
        content,
        payload: Json::from_canonical(r#"{"event":"upload"}"#.to_owned()),
        received_at: at(seconds),
        request_info: RequestInfo {
            request_id: Some("request-1".into()),
            client: Some([192, 0, 2, 1].into()),
            scheme: Some("hmac"),
        },
    }
}
