//! The transition table case by case, and properties of all transitions.

use proptest::prelude::*;

use super::*;
use crate::domain::detail::ReportedDetails;
use crate::domain::id::CloudflareId;
use crate::domain::json::Json;

pub(in crate::domain) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(seconds).expect("a small number of seconds")
}

/// Applies a report that is received at this second.
fn apply_report(image: &mut ImageState, report: &Report, second: i64) -> Effect {
    let received_at = at(second);
    transition(image, report, Arrival::First { received_at })
}

fn report(status: Option<ReportedStatus>, reported_at: Option<Timestamp>) -> Report {
    let cloudflare_id = CloudflareId::parse("image").expect("a plain id");
    Report {
        cloudflare_id,
        status,
        reported_at,
        details: ReportedDetails::default(),
    }
}

fn draft(seconds: i64) -> Report {
    report(Some(ReportedStatus::Draft), Some(at(seconds)))
}

fn expired(seconds: i64) -> Report {
    report(Some(ReportedStatus::Expired), Some(at(seconds)))
}

fn uploaded(seconds: i64) -> Report {
    let status = ReportedStatus::Uploaded { uploaded_at: None };
    report(Some(status), Some(at(seconds)))
}

fn failed(seconds: i64) -> Report {
    Report {
        reported_at: Some(at(seconds)),
        ..undated_failure()
    }
}

fn undated_failure() -> Report {
    let error = "too big".into();
    report(Some(ReportedStatus::Failed { error }), None)
}

/// Returns a row with this status since second 100.
fn row(status: Status) -> ImageState {
    let mut image = ImageState::registered();
    image.status = status;
    image.status_at = (status != Status::Pending).then(|| at(100));
    image.uploaded_at = (status == Status::Uploaded).then(|| at(100));
    image.error = if status == Status::Failed {
        "too big".into()
    } else {
        String::new()
    };
    image
}

#[test]
fn effects_match_transition_table() {
    use Effect::{Applied, Duplicate, Stale};
    use Status::{Draft, Expired, Failed, Pending, Uploaded};
    type ReportAt = fn(i64) -> Report;

    let table: [(Status, ReportAt, [Effect; 3]); 20] = [
        (Pending, draft, [Applied, Applied, Applied]),
        (Pending, expired, [Applied, Applied, Applied]),
        (Pending, uploaded, [Applied, Applied, Applied]),
        (Pending, failed, [Applied, Applied, Applied]),
        (Expired, draft, [Stale, Stale, Stale]),
        (Expired, expired, [Stale, Duplicate, Applied]),
        (Expired, uploaded, [Applied, Applied, Applied]),
        (Expired, failed, [Applied, Applied, Applied]),
        (Draft, draft, [Stale, Duplicate, Applied]),
        (Draft, expired, [Applied, Applied, Applied]),
        (Draft, uploaded, [Applied, Applied, Applied]),
        (Draft, failed, [Applied, Applied, Applied]),
        (Uploaded, draft, [Stale, Stale, Stale]),
        (Uploaded, expired, [Stale, Stale, Stale]),
        (Uploaded, uploaded, [Stale, Duplicate, Applied]),
        (Uploaded, failed, [Stale, Stale, Applied]),
        (Failed, draft, [Stale, Stale, Stale]),
        (Failed, expired, [Stale, Stale, Stale]),
        (Failed, uploaded, [Stale, Applied, Applied]),
        (Failed, failed, [Stale, Duplicate, Applied]),
    ];

    for (status, report_at, effects) in table {
        for (seconds, expected) in [99, 100, 101].into_iter().zip(effects) {
            let report = report_at(seconds);
            let mut image = row(status);

            let effect = apply_report(&mut image, &report, 1_000);

            assert_eq!(
                effect, expected,
                "a row {status}, told {:?} at {seconds}",
                report.status
            );
        }
    }
}

#[test]
fn only_applied_reports_change_row() {
    for status in Status::ALL {
        for report in [
            draft(99),
            expired(99),
            uploaded(99),
            failed(99),
            draft(100),
            expired(100),
            uploaded(100),
            failed(100),
        ] {
            let before = row(status);
            let mut after = before.clone();

            let effect = apply_report(&mut after, &report, 1_000);

            assert_eq!(
                effect == Effect::Applied,
                after != before,
                "a row {status}, told {report:?}"
            );
        }
    }
}

#[test]
fn error_and_upload_time_follow_status() {
    let mut image = ImageState::registered();

    apply_report(&mut image, &failed(100), 1_000);
    assert_eq!((image.error.as_str(), image.uploaded_at), ("too big", None));

    apply_report(&mut image, &uploaded(101), 1_000);
    assert_eq!(
        (image.error.as_str(), image.uploaded_at),
        ("", Some(at(101)))
    );

    apply_report(&mut image, &failed(102), 1_000);
    assert_eq!((image.error.as_str(), image.uploaded_at), ("too big", None));
}

#[test]
fn undated_report_counts_from_receipt() {
    let undated = undated_failure();
    let mut image = row(Status::Uploaded);

    assert_eq!(apply_report(&mut image, &undated, 99), Effect::Stale);
    assert_eq!(apply_report(&mut image, &undated, 200), Effect::Applied);
    assert_eq!(image.status_at, Some(at(200)));
    assert_eq!(apply_report(&mut image, &undated, 300), Effect::Duplicate);
    assert_eq!(image.status_at, Some(at(200)));
}

#[test]
fn undated_upload_of_uploaded_image_is_duplicate() {
    let undated = report(Some(ReportedStatus::Uploaded { uploaded_at: None }), None);
    let mut image = row(Status::Uploaded);

    assert_eq!(apply_report(&mut image, &undated, 300), Effect::Duplicate);
}

#[test]
fn missing_status_time_defaults_to_upload_time() {
    let mut image = row(Status::Uploaded);
    image.status_at = None;

    assert_eq!(apply_report(&mut image, &failed(99), 1_000), Effect::Stale);
    assert_eq!(
        apply_report(&mut image, &failed(101), 1_000),
        Effect::Applied
    );
}

#[test]
fn details_only_report_changes_only_details() {
    let mut report = report(None, Some(at(50)));
    report.details.filename = Some("cat.jpg".into());
    let mut image = row(Status::Uploaded);

    assert_eq!(apply_report(&mut image, &report, 1_000), Effect::Applied);
    assert_eq!(image.details.filename.value, "cat.jpg");

    image.details.filename = row(Status::Uploaded).details.filename;
    assert_eq!(image, row(Status::Uploaded));
}

#[test]
fn latest_report_wins_each_detail() {
    let mut early = uploaded(100);
    early.details.filename = Some("early.jpg".into());
    early.details.creator = Some("ann".into());
    let mut late = uploaded(101);
    late.details.filename = Some("late.jpg".into());

    let mut image = ImageState::registered();
    assert_eq!(apply_report(&mut image, &late, 1_000), Effect::Applied);
    assert_eq!(
        apply_report(&mut image, &early, 1_000),
        Effect::Applied,
        "only the early one tells the creator"
    );

    assert_eq!(image.status_at, Some(at(101)));
    assert_eq!(
        (
            image.details.filename.value.as_str(),
            image.details.creator.value.as_str()
        ),
        ("late.jpg", "ann")
    );
    assert_eq!(apply_report(&mut image, &early, 1_000), Effect::Stale);
}

#[test]
fn draft_never_replaces_reported_details() {
    let mut settled = uploaded(100);
    settled.details.filename = Some("cat.jpg".into());
    let mut late_draft = draft(500);
    late_draft.details.filename = Some(String::new());
    late_draft.details.creator = Some("ann".into());

    for order in [[&settled, &late_draft], [&late_draft, &settled]] {
        let image = after_all(order);

        assert_eq!(image.status, Status::Uploaded);
        assert_eq!(image.details.filename.value, "cat.jpg");
        assert_eq!(
            image.details.creator.value, "ann",
            "what only the draft told"
        );
    }
}

#[test]
fn undated_redelivery_changes_nothing() {
    let undated = undated_failure();
    let mut image = row(Status::Uploaded);

    assert_eq!(
        transition(&mut image, &undated, Arrival::Redelivery),
        Effect::Duplicate
    );
    assert_eq!(image, row(Status::Uploaded));
}

fn any_json() -> impl Strategy<Value = Json> {
    prop_oneof![
        Just("{}"),
        Just("{\"a\":1}"),
        Just("{\"b\":2}"),
        Just("{\"a\":1,\"b\":2}")
    ]
    .prop_map(|text| Json::from_canonical(text.into()))
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![Just(""), Just("a"), Just("b"), Just("ab")].prop_map(str::to_owned)
}

/// Generates few times and few values, so ties and repetitions are common.
pub(in crate::domain) fn any_dated_report() -> impl Strategy<Value = Report> {
    let status = prop_oneof![
        Just(None),
        Just(Some(ReportedStatus::Draft)),
        Just(Some(ReportedStatus::Expired)),
        proptest::option::of(0..4_i64).prop_map(|uploaded| Some(ReportedStatus::Uploaded {
            uploaded_at: uploaded.map(at)
        })),
        any_text().prop_map(|error| Some(ReportedStatus::Failed { error })),
    ];
    let details = (
        proptest::option::of(any_text()),
        proptest::option::of(any_text()),
        proptest::option::of(any::<bool>()),
        proptest::option::of(any_json()),
        proptest::option::of(any_json()),
    )
        .prop_map(
            |(filename, creator, require_signed_urls, variants, cloudflare_metadata)| {
                ReportedDetails {
                    filename,
                    creator,
                    require_signed_urls,
                    variants,
                    cloudflare_metadata,
                }
            },
        );
    (status, 0..4_i64, details).prop_map(|(status, seconds, details)| Report {
        details,
        ..report(status, Some(at(seconds)))
    })
}

pub(in crate::domain) fn after_all<'a>(
    reports: impl IntoIterator<Item = &'a Report>,
) -> ImageState {
    let mut image = ImageState::registered();
    for (second, report) in (0..).zip(reports) {
        apply_report(&mut image, report, second);
    }
    image
}

proptest! {
    #[test]
    fn final_row_is_independent_of_order(
        (sent, arrived) in proptest::collection::vec(any_dated_report(), 0..8).prop_flat_map(|sent| (Just(sent.clone()), Just(sent).prop_shuffle()))
    ) {
        prop_assert_eq!(after_all(&sent), after_all(&arrived));
    }

    #[test]
    fn late_redelivery_changes_nothing(
        reports in proptest::collection::vec(any_dated_report(), 1..8), which in any::<prop::sample::Index>()
    ) {
        let before = after_all(&reports);
        let mut after = before.clone();

        let effect = apply_report(&mut after, which.get(&reports), 1_000);

        prop_assert_ne!(effect, Effect::Applied);
        prop_assert_eq!(before, after);
    }

    #[test]
    fn final_image_never_returns_to_draft(reports in proptest::collection::vec(any_dated_report(), 0..8)) {
        let mut image = ImageState::registered();
        let mut was_final = false;
        for report in &reports {
            apply_report(&mut image, report, 1_000);
            let is_final = matches!(image.status, Status::Uploaded | Status::Failed);
            prop_assert!(is_final || !was_final);
            was_final = is_final;
        }
    }

    #[test]
    fn effect_is_applied_if_row_changes(
        reports in proptest::collection::vec(any_dated_report(), 0..8), last in any_dated_report()
    ) {
        let before = after_all(&reports);
        let mut after = before.clone();

        let effect = apply_report(&mut after, &last, 1_000);

        prop_assert_eq!(effect == Effect::Applied, before != after);
    }
}
