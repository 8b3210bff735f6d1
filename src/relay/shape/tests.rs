//! What an endpoint gets of an event, and which settings are refused.

use super::*;
use serde_json::json;

const IMAGE: &str = "cloudflare_images.CloudflareImage";

fn shaped(settings: &Value) -> Value {
    let read = |name: &str| settings.get(name).cloned().unwrap_or_else(|| json!({}));
    let shapes = Shapes::new(
        &serde_json::from_value(read("include")).expect("fields"),
        &serde_json::from_value(read("exclude")).expect("fields"),
        &serde_json::from_value(read("redact")).expect("masks"),
    );
    let mut event = json!({
        "event": "updated",
        "object": {"id": "7", "status": "failed", "metadata": {"email": "a@b", "n": 1}, "creator": "me", "error": null},
        "changes": {"status": {"old": "draft", "new": "failed"}, "metadata": {"old": {"email": "x"}, "new": {"email": "y"}}},
    });
    let shapes = shapes.expect("they are right");
    shapes.of(Model::Image).apply(&mut event);
    event
}

#[test]
fn only_included_fields_are_told_of_the_object_and_of_the_changes() {
    for label in [IMAGE, ANY] {
        let event = shaped(&json!({"include": {label: ["id", "status"]}}));
        assert_eq!(event["object"], json!({"id": "7", "status": "failed"}));
        assert_eq!(
            event["changes"],
            json!({"status": {"old": "draft", "new": "failed"}})
        );
    }
}

#[test]
fn excluded_fields_are_nowhere_whether_for_all_models_or_for_one() {
    let event =
        shaped(&json!({"exclude": {ANY: ["metadata.email"], IMAGE: ["creator", "status"]}}));
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
fn redacted_fields_have_their_masks_and_what_says_nothing_stays() {
    let event = shaped(
        &json!({"redact": {IMAGE: {"metadata.email": "***", "creator": "?", "error": "?"}, ANY: {"status": "-"}}}),
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
fn fields_are_found_within_lists() {
    let mut event =
        json!({"object": {"metadata": {"users": [{"email": "a", "id": 1}, {"email": "b"}]}}});
    let exclude = Fields::from([(ANY.to_owned(), vec!["metadata.users.email".to_owned()])]);
    let mut masked = event.clone();
    let mask = BTreeMap::from([("metadata.users.email".to_owned(), "***".to_owned())]);
    let redact = Masks::from([(ANY.to_owned(), mask)]);

    let shapes = Shapes::new(&Fields::new(), &exclude, &Masks::new()).expect("they are right");
    shapes.of(Model::Image).apply(&mut event);
    let shapes = Shapes::new(&Fields::new(), &Fields::new(), &redact).expect("they are right");
    shapes.of(Model::Image).apply(&mut masked);

    assert_eq!(event["object"]["metadata"]["users"], json!([{"id": 1}, {}]));
    assert_eq!(
        masked["object"]["metadata"]["users"],
        json!([{"email": "***", "id": 1}, {"email": "***"}])
    );
}

#[test]
fn what_is_kept_from_an_endpoint_does_not_come_back_with_the_trail() {
    let exclude = Fields::from([(IMAGE.to_owned(), vec!["creator".to_owned()])]);
    let shapes = Shapes::new(&Fields::new(), &exclude, &Masks::new()).expect("they are right");
    let mut event = json!({"object": {"event_type": "webhook_received", "data": {"payload": {"creator": "me"}}}});

    shapes.of(Model::ImageLog).apply(&mut event);

    assert_eq!(event["object"], json!({"event_type": "webhook_received"}));
}

#[test]
fn a_field_that_there_is_not_is_told_since_it_would_keep_back_nothing() {
    let says = |label: &str, name: &str| {
        let exclude = Fields::from([(label.to_owned(), vec![name.to_owned()])]);
        Shapes::new(&Fields::new(), &exclude, &Masks::new()).err()
    };
    let problem = says(IMAGE, "creatorr").expect("a problem");
    let begins = "names the field \"creatorr\" of \"cloudflare_images.CloudflareImage\", which there is not; told are id, cloudflare_id, status, ";
    assert!(problem.starts_with(begins), "{problem}");
    for (label, name, is_known) in [
        (IMAGE, "creator", true),
        (IMAGE, "metadata.any.thing", true),
        (IMAGE, "upload_url", true),
        (IMAGE, "event_type", false),
        (ANY, "event_type", true),
        (ANY, "password", true),
        (IMAGE, "", false),
        (Model::ImageLog.label(), "creator", false),
    ] {
        assert_eq!(says(label, name).is_none(), is_known, "{label} {name}");
    }

    let include = Fields::from([(ANY.to_owned(), vec!["metadata.any".to_owned()])]);
    let problem = Shapes::new(&include, &Fields::new(), &Masks::new());
    assert!(problem.is_err(), "only whole fields are included");
}

#[test]
fn a_model_that_there_is_not_is_told() {
    let fields = Fields::from([("store.Order".to_owned(), vec!["id".to_owned()])]);
    let problem = Shapes::new(&fields, &Fields::new(), &Masks::new());
    assert_eq!(
        problem,
        Err("names fields of \"store.Order\", which is neither a model nor \"*\"".to_owned())
    );
}
