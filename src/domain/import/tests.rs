//! The merge case by case, and its properties.

use proptest::prelude::*;

use super::*;
use crate::domain::detail::Precedence;
use crate::domain::notification::Report;
use crate::domain::transition::tests::{after_all, any_dated_report, at};

/// Returns an import of all columns of a row.
fn import_of(state: &ImageState) -> ImportedImage {
    let details = &state.details;
    ImportedImage {
        status: Some(StatusColumns {
            status: state.status,
            status_at: state.status_at,
            uploaded_at: state.uploaded_at,
            error: state.error.clone(),
        }),
        details: ReportedDetails {
            filename: Some(details.filename.value.clone()),
            creator: Some(details.creator.value.clone()),
            require_signed_urls: Some(details.require_signed_urls.value),
            variants: Some(details.variants.value.clone()),
            cloudflare_metadata: Some(details.cloudflare_metadata.value.clone()),
        },
        details_at: details.times(),
        ..nothing()
    }
}

/// Returns an import of no column but the id.
fn nothing() -> ImportedImage {
    ImportedImage {
        cloudflare_id: CloudflareId::parse("image").expect("an id"),
        id: None,
        status: None,
        details: ReportedDetails::default(),
        details_at: DetailTimes::default(),
        app_columns: AppColumns::default(),
        created_at: None,
        updated_at: None,
        payload: Json::empty_object(),
    }
}

fn merged(state: &ImageState, other: &ImageState) -> ImageState {
    let mut merged = state.clone();
    let has_changed = import_of(other).merge_into(&mut merged);
    assert_eq!(has_changed, merged != *state);
    merged
}

fn with_status(status: Status, status_at: Option<i64>) -> ImageState {
    ImageState {
        status,
        status_at: status_at.map(at),
        ..ImageState::registered()
    }
}

#[test]
fn greater_status_wins() {
    use Status::{Draft, Expired, Failed, Pending, Uploaded};
    let ascending = [
        (Pending, None),
        (Draft, Some(5)),
        (Draft, Some(6)),
        (Expired, None),
        (Expired, Some(3)),
        (Failed, None),
        (Uploaded, None),
        (Failed, Some(2)),
        (Uploaded, Some(2)),
        (Failed, Some(3)),
    ];
    for (position, lesser) in ascending.into_iter().enumerate() {
        for greater in &ascending[position..] {
            let (lesser, greater) = (
                with_status(lesser.0, lesser.1),
                with_status(greater.0, greater.1),
            );
            assert_eq!(merged(&lesser, &greater), greater);
            assert_eq!(merged(&greater, &lesser), greater);
        }
    }
}

#[test]
fn import_replaces_details_of_app() {
    let mut state = ImageState::registered();
    state.details.filename.value = "written by an app".to_owned();
    state.details.creator.value = "reported".to_owned();
    state.details.creator.precedence = Some(Precedence::Draft(at(5)));
    let mut import = nothing();
    import.details.filename = Some("b".to_owned());
    import.details.creator = Some("written by an app".to_owned());

    assert!(import.merge_into(&mut state));

    assert_eq!(state.details.filename.value, "b");
    assert_eq!(state.details.creator.value, "reported");
    assert!(!import.merge_into(&mut state));
}

#[test]
fn time_without_value_reports_initial_value() {
    let mut state = ImageState::registered();
    state.details.filename.value = "written by an app".to_owned();
    let mut import = nothing();
    import.details_at[0] = Some(Precedence::Final(at(5)));

    assert!(import.merge_into(&mut state));

    assert_eq!(state.details.filename.value, "");
    assert_eq!(state.details.times()[0], Some(Precedence::Final(at(5))));
}

#[test]
fn absent_columns_change_nothing() {
    let mut state = with_status(Status::Failed, Some(5));

    assert!(!nothing().merge_into(&mut state));

    assert_eq!(state, with_status(Status::Failed, Some(5)));
}

/// Generates a row as an app and some notifications leave it.
fn any_row() -> impl Strategy<Value = ImageState> {
    let reports = proptest::collection::vec(any_dated_report(), 0..4);
    let texts = prop_oneof![Just(""), Just("a"), Just("bb")];
    let status = proptest::option::of(prop::sample::select(Status::ALL.to_vec()));
    (reports, texts, status).prop_map(|(reports, text, status)| {
        let mut state = after_all(&reports);
        if state.details.filename.precedence.is_none() {
            text.clone_into(&mut state.details.filename.value);
        }
        if let (Status::Pending, Some(status)) = (state.status, status) {
            state.status = status;
        }
        state
    })
}

fn reports() -> impl Strategy<Value = Vec<Report>> {
    proptest::collection::vec(any_dated_report(), 0..6)
}

proptest! {
    #[test]
    fn merge_equals_all_notifications(one in reports(), other in reports()) {
        let all = after_all(one.iter().chain(&other));

        let (one, other) = (after_all(&one), after_all(&other));

        // A detail that no notification reported has the initial value in both rows.
        prop_assert_eq!(merged(&one, &other), all.clone());
        prop_assert_eq!(merged(&other, &one), all);
    }

    #[test]
    fn repeated_import_changes_nothing(row in any_row(), other in any_row()) {
        let once = merged(&row, &other);

        prop_assert_eq!(merged(&once, &other), once.clone());
        prop_assert_eq!(merged(&once, &once), once);
    }

    #[test]
    fn import_into_new_row_is_complete(row in any_row()) {
        prop_assert_eq!(merged(&ImageState::registered(), &row), row);
    }

    #[test]
    fn import_never_moves_image_backwards(row in any_row(), other in any_row()) {
        let is_final = |state: &ImageState| matches!(state.status, Status::Uploaded | Status::Failed);

        let merged = merged(&row, &other);

        prop_assert!(is_final(&merged) || !is_final(&row));
        for (before, after) in row.details.times().into_iter().zip(merged.details.times()) {
            prop_assert!(after >= before);
        }
        if is_final(&row) {
            prop_assert!(merged.status_at.or(merged.uploaded_at) >= row.status_at.or(row.uploaded_at));
        }
    }

    #[test]
    fn status_is_independent_of_order(row in any_row(), other in any_row()) {
        let status = |state: ImageState| (state.status, state.status_at, state.uploaded_at, state.error);

        prop_assert_eq!(status(merged(&row, &other)), status(merged(&other, &row)));
    }
}
