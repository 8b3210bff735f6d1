//! What answers say, the waits, and the order of webhooks and lookups.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::domain::image::{ImageState, Status};
use crate::domain::transition::{Arrival, transition};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(seconds).expect("a small number of seconds")
}

fn id() -> CloudflareId {
    CloudflareId::parse("a/b").expect("an id")
}

fn image(is_draft: bool) -> FoundImage {
    let mut object = Map::new();
    object.insert("id".to_owned(), "a/b".into());
    object.insert("uploaded".to_owned(), at(50).to_string().into());
    object.insert("filename".to_owned(), "cat.jpg".into());
    object.insert("meta".to_owned(), json!({"album": 7}));
    object.insert("variants".to_owned(), json!(["https://example.com/public"]));
    if is_draft {
        object.insert("draft".to_owned(), Value::Bool(true));
    }
    FoundImage { object }
}

/// Judges an answer at this second about an image whose URL ends at second 1,000.
fn judge_at(second: i64, answer: Option<FoundImage>) -> Finding {
    judge(&id(), Some(at(1_000)), answer, at(second)).expect("it can be read")
}

fn report(finding: Finding) -> Report {
    match finding {
        Finding::Settled(notification) => match &notification.content {
            Content::Report(report) => report.clone(),
            other => panic!("{other:?}"),
        },
        Finding::Waits => panic!("it waits"),
    }
}

#[test]
fn answers_settle_image_or_not() {
    let before = 1_059;
    let after = 1_060;
    let table = [
        (Some(image(false)), before, Some(Status::Uploaded)),
        (Some(image(false)), after, Some(Status::Uploaded)),
        (Some(image(true)), before, None),
        (Some(image(true)), after, Some(Status::Expired)),
        (None, before, None),
        (None, after, Some(Status::Expired)),
    ];
    for (answer, second, expected) in table {
        let is_known = answer.is_some();
        let status = match judge_at(second, answer) {
            Finding::Settled(report) => report.reported_status(),
            Finding::Waits => None,
        };
        assert_eq!(status, expected, "known: {is_known}, second {second}");
    }
}

#[test]
fn image_without_end_never_expires() {
    for answer in [None, Some(image(true))] {
        let finding = judge(&id(), None, answer, at(1_000_000_000));

        assert!(matches!(finding, Ok(Finding::Waits)));
    }
}

#[test]
fn uploaded_image_has_its_details() {
    let report = report(judge_at(500, Some(image(false))));

    assert_eq!(report.reported_at, Some(at(50)));
    let details = report.details;
    assert_eq!(details.filename.as_deref(), Some("cat.jpg"));
    let metadata = details.cloudflare_metadata.expect("metadata");
    assert_eq!(metadata.as_str(), r#"{"album":7}"#);
    let variants = details.variants.expect("variants");
    assert_eq!(variants.as_str(), r#"["https://example.com/public"]"#);
}

#[test]
fn expired_image_reports_no_details() {
    let report = report(judge_at(2_000, Some(image(true))));

    assert_eq!(report.details, ReportedDetails::default());
    assert_eq!(report.reported_at, Some(at(1_000)));
}

#[test]
fn waits_double_until_end_of_url() {
    let minute = Duration::from_mins(1);
    let wait =
        |attempts, end: Option<i64>| wait_for_upload(attempts, 15 * minute, end.map(at), at(0));

    assert_eq!(wait(1, None), 15 * minute);
    assert_eq!(wait(2, None), 30 * minute);
    assert_eq!(wait(9, None), 60 * minute);
    assert_eq!(wait(u32::MAX, None), 60 * minute);
    assert_eq!(wait(1, Some(60)), 2 * minute);
    assert_eq!(wait(1, Some(7_200)), 15 * minute);
    assert_eq!(wait(1, Some(-7_200)), 15 * minute);
}

#[test]
fn waits_after_failures_reach_one_day() {
    assert_eq!(wait_after_failure(1), Duration::from_hours(1));
    assert_eq!(wait_after_failure(3), Duration::from_hours(4));
    assert_eq!(wait_after_failure(u32::MAX), Duration::from_hours(24));
}

/// A report of a webhook about the same image.
fn any_webhook() -> impl Strategy<Value = Report> {
    let status = prop_oneof![
        Just(ReportedStatus::Draft),
        Just(ReportedStatus::Uploaded { uploaded_at: None }),
        Just(ReportedStatus::Failed {
            error: "too large".to_owned()
        }),
    ];
    let filename = proptest::option::of(prop_oneof![Just("cat.jpg"), Just("dog.jpg")]);
    (status, 0..100_i64, filename).prop_map(|(status, second, filename)| Report {
        cloudflare_id: id(),
        status: Some(status),
        reported_at: Some(at(second)),
        details: ReportedDetails {
            filename: filename.map(str::to_owned),
            ..ReportedDetails::default()
        },
    })
}

/// A lookup: what Cloudflare knows, and when it is asked.
fn any_lookup() -> impl Strategy<Value = Option<Report>> {
    let answer = prop_oneof![Just(None), Just(Some(false)), Just(Some(true))];
    (answer, 900..1_200_i64).prop_map(|(answer, second)| {
        match judge_at(second, answer.map(image)) {
            Finding::Settled(notification) => Some(report(Finding::Settled(notification))),
            Finding::Waits => None,
        }
    })
}

fn after_all<'a>(reports: impl IntoIterator<Item = &'a Report>) -> ImageState {
    let mut image = ImageState::registered();
    for report in reports {
        let received_at = at(2_000);
        transition(&mut image, report, Arrival::First { received_at });
    }
    image
}

proptest! {
    #[test]
    fn lookups_and_webhooks_commute(
        webhooks in proptest::collection::vec(any_webhook(), 0..4),
        lookups in proptest::collection::vec(any_lookup(), 0..3),
    ) {
        let lookups: Vec<Report> = lookups.into_iter().flatten().collect();
        let first = after_all(webhooks.iter().chain(&lookups));
        let last = after_all(lookups.iter().chain(&webhooks));

        prop_assert_eq!(first, last);
    }
}
