//! The effect of the field settings, and the settings that are rejected.

use std::collections::BTreeMap;

use serde_json::json;

use super::*;

const IMAGE: &str = "cloudflare_images.CloudflareImage";

fn filter(settings: &Value) -> Value {
    let read = |name: &str| settings.get(name).cloned().unwrap_or_else(|| json!({}));
    let filters = FieldFilters::new(
        &serde_json::from_value(read("include")).expect("fields"),
        &serde_json::from_value(read("exclude")).expect("fields"),
        &serde_json::from_value(read("redact")).expect("replacements"),
    );
    let mut event = json!({
        "event": "updated",
        "object": {"id": "7", "status": "failed", "metadata": {"email": "a@b", "n": 1}, "creator": "me", "error": null},
        "changes": {"status": {"old": "draft", "new": "failed"}, "metadata": {"old": {"email": "x"}, "new": {"email": "y"}}},
    });
    let filters = filters.expect("valid settings");
    filters.for_model(Model::Image).apply(&mut event);
    event
}

#[test]
fn includes_only_listed_fields() {
    for label in [IMAGE, ANY_MODEL] {
        let event = filter(&json!({"include": {label: ["id", "status"]}}));
        assert_eq!(event["object"], json!({"id": "7", "status": "failed"}));
        assert_eq!(
            event["changes"],
            json!({"status": {"old": "draft", "new": "failed"}})
        );
    }
}

#[test]
fn excludes_fields_and_paths() {
    let event =
        filter(&json!({"exclude": {ANY_MODEL: ["metadata.email"], IMAGE: ["creator", "status"]}}));
    assert_eq!(
        event["object"],
        json!({"id": "7", "metadata": {"n": 1}, "error": null})
    );
    assert_eq!(
        event["changes"],
        json!({"metadata": {"old": {}, "new": {}}})
    );
}

#[test]
fn redacts_values_except_null() {
    let event = filter(
        &json!({"redact": {IMAGE: {"metadata.email": "***", "creator": "?", "error": "?"}, ANY_MODEL: {"status": "-"}}}),
    );
    assert_eq!(
        event["object"],
        json!({"id": "7", "status": "-", "metadata": {"email": "***", "n": 1}, "creator": "?", "error": null})
    );
    assert_eq!(
        event["changes"],
        json!({"status": {"old": "-", "new": "-"}, "metadata": {"old": {"email": "***"}, "new": {"email": "***"}}})
    );
}

#[test]
fn finds_fields_within_arrays() {
    let mut event =
        json!({"object": {"metadata": {"users": [{"email": "a", "id": 1}, {"email": "b"}]}}});
    let exclude = FieldNames::from([(
        ANY_MODEL.to_owned(),
        vec!["metadata.users.email".to_owned()],
    )]);
    let mut redacted = event.clone();
    let replacements = BTreeMap::from([("metadata.users.email".to_owned(), "***".to_owned())]);
    let redact = Redactions::from([(ANY_MODEL.to_owned(), replacements)]);

    let filters = FieldFilters::new(&FieldNames::new(), &exclude, &Redactions::new())
        .expect("valid settings");
    filters.for_model(Model::Image).apply(&mut event);
    let filters =
        FieldFilters::new(&FieldNames::new(), &FieldNames::new(), &redact).expect("valid settings");
    filters.for_model(Model::Image).apply(&mut redacted);

    assert_eq!(event["object"]["metadata"]["users"], json!([{"id": 1}, {}]));
    assert_eq!(
        redacted["object"]["metadata"]["users"],
        json!([{"email": "***", "id": 1}, {"email": "***"}])
    );
}

#[test]
fn filtered_fields_stay_out_of_audit_events() {
    let exclude = FieldNames::from([(IMAGE.to_owned(), vec!["creator".to_owned()])]);
    let filters = FieldFilters::new(&FieldNames::new(), &exclude, &Redactions::new())
        .expect("valid settings");
    let mut event = json!({"object": {"event_type": "webhook_received", "data": {"payload": {"creator": "me"}}}});

    filters.for_model(Model::ImageLog).apply(&mut event);

    assert_eq!(event["object"], json!({"event_type": "webhook_received"}));
}

#[test]
fn rejects_unknown_fields() {
    let problem_of = |label: &str, name: &str| {
        let exclude = FieldNames::from([(label.to_owned(), vec![name.to_owned()])]);
        FieldFilters::new(&FieldNames::new(), &exclude, &Redactions::new()).err()
    };
    let problem = problem_of(IMAGE, "creatorr").expect("a problem");
    let begins = "exclude_fields: unknown field \"creatorr\" of \"cloudflare_images.CloudflareImage\". Use id, cloudflare_id, status, ";
    assert!(problem.starts_with(begins), "{problem}");
    for (label, name, is_allowed) in [
        (IMAGE, "creator", true),
        (IMAGE, "metadata.any.thing", true),
        (IMAGE, "upload_url", true),
        (IMAGE, "event_type", false),
        (ANY_MODEL, "event_type", true),
        (ANY_MODEL, "password", true),
        (IMAGE, "", false),
        (Model::ImageLog.label(), "creator", false),
    ] {
        assert_eq!(
            problem_of(label, name).is_none(),
            is_allowed,
            "{label} {name}"
        );
    }

    let include = FieldNames::from([(ANY_MODEL.to_owned(), vec!["metadata.any".to_owned()])]);
    let problem = FieldFilters::new(&include, &FieldNames::new(), &Redactions::new());
    assert!(problem.is_err(), "only whole fields are included");
}

#[test]
fn rejects_unknown_models() {
    let fields = FieldNames::from([("store.Order".to_owned(), vec!["id".to_owned()])]);
    let problem = FieldFilters::new(&fields, &FieldNames::new(), &Redactions::new());
    assert_eq!(
        problem,
        Err(
            "include_fields: unknown model \"store.Order\". Use cloudflare_images.CloudflareImage, cloudflare_images.ImageUploadLog or \"*\"."
                .to_owned()
        )
    );
}
