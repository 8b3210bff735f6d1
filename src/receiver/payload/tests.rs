//! Properties of all bodies. `tests/spec` tests the shapes and their fields.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::domain::audit::AuditEntry;
use crate::domain::notification::{Report, ReportedStatus};
use crate::domain::timestamp::Timestamp;

fn pointers() -> Pointers {
    let texts = |pointers: &[&str]| {
        pointers
            .iter()
            .filter_map(|pointer| Pointer::parse(pointer))
            .collect()
    };
    Pointers {
        id: texts(&["/data/image/id", "/data/id"]),
        status: texts(&["/data/image/status", "/data/status"]),
        error: texts(&["/data/image/error", "/data/error"]),
        can_look_up: false,
    }
}

fn parsed(body: &[u8]) -> Result<Parsed, PayloadError> {
    parse(body, &pointers())
}

fn report(body: &Value) -> Report {
    match parsed(body.to_string().as_bytes())
        .expect("a good body")
        .content
    {
        Content::Report(report) => report,
        content => panic!("a report was expected: {content:?}"),
    }
}

#[test]
fn reported_at_is_timestamp_or_ts_or_uploaded() {
    let time = |text: &str| Timestamp::parse_rfc3339(text).ok();
    for (body, expected) in [
        (
            json!({"id": "a", "uploaded": "2024-01-01T00:00:00Z", "timestamp": "2024-01-02T00:00:00Z"}),
            time("2024-01-02T00:00:00Z"),
        ),
        (
            json!({"id": "a", "uploaded": "2024-01-01T00:00:00Z"}),
            time("2024-01-01T00:00:00Z"),
        ),
        (json!({"id": "a", "draft": true}), None),
        (
            json!({"ts": 1_704_110_400, "data": {"id": "a", "status": "success"}}),
            time("2024-01-01T12:00:00Z"),
        ),
        (
            json!({"name": "n", "data": {"id": "a", "status": "success"}}),
            None,
        ),
        (
            json!({"event": "image.uploaded", "image": {"id": "a", "uploaded": "2024-01-01T00:00:00Z"}}),
            time("2024-01-01T00:00:00Z"),
        ),
    ] {
        assert_eq!(report(&body).reported_at, expected, "{body}");
    }
}

#[test]
fn error_wins_over_draft_over_uploaded() {
    let status = |body: Value| report(&body).status;

    assert_eq!(
        status(json!({"id": "a", "error": "e", "draft": true, "uploaded": "2024-01-01T00:00:00Z"})),
        Some(ReportedStatus::Failed { error: "e".into() })
    );
    assert_eq!(
        status(json!({"id": "a", "draft": true, "uploaded": "2024-01-01T00:00:00Z"})),
        Some(ReportedStatus::Draft)
    );
    assert!(matches!(
        status(json!({"id": "a", "draft": false, "uploaded": "2024-01-01T00:00:00Z"})),
        Some(ReportedStatus::Uploaded { .. })
    ));
    assert_eq!(status(json!({"id": "a", "draft": false})), None);
}

#[test]
fn returns_canonical_payload() {
    let Parsed { payload, .. } =
        parsed(b" {\"uploaded\": \"2024-01-01T00:00:00Z\", \"id\":\"a\",\"z\": -0.0} ")
            .expect("a good body");

    assert_eq!(
        payload.as_str(),
        r#"{"id":"a","uploaded":"2024-01-01T00:00:00Z","z":0.0}"#
    );
}

/// Generates arbitrary JSON that often uses the names of real fields.
fn any_value() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        3 => prop::sample::select(vec![
            "id", "uploaded", "draft", "variants", "metadata", "meta", "requireSignedURLs", "filename", "creator", "error", "timestamp", "event",
            "image", "data", "ts", "alert_type", "name", "text", "status",
        ]).prop_map(str::to_owned),
        1 => ".{0,6}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        Just(json!("2024-01-01T12:00:00Z")),
        Just(json!("image.uploaded")),
        Just(json!("image_notification")),
        Just(json!("https://imagedelivery.net/a/b")),
    ];
    leaf.prop_recursive(4, 40, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(name.clone(), inner, 0..8)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// Parts of bodies with values that need a repair.
const PIECES: [&[u8]; 14] = [
    b"\"a\":\"\\ud800\"",
    b"\"b\":\"\xff\"",
    b"\"\\udc00\\ud83d\\ude00\":1e400",
    b"\"c\":[-1e999,\"\\\\\\ud800\"]",
    b"\"d\":1",
    b",",
    b",",
    b",",
    b"\"",
    b"\\",
    b"\\u",
    b"\xed\xa0\x80",
    b"1e400",
    b"}",
];

proptest! {
    #[test]
    fn any_bytes_parse_without_panic(body in prop::collection::vec(any::<u8>(), 0..400)) {
        let _any_result = parsed(&body);
    }

    #[test]
    fn repaired_bodies_keep_their_content(pieces in prop::collection::vec(prop::sample::select(PIECES.as_slice()), 0..12)) {
        let body = [br#"{"id":"image","draft":true,"metadata":{"#, pieces.concat().as_slice(), b"}}"].concat();

        if let Some(repaired) = repair::repair(&body) {
            prop_assert_eq!(repair::repair(&repaired), None);
        }
        if let Ok(first) = parsed(&body) {
            let second = parsed(first.payload.as_str().as_bytes()).expect("the stored form is a good body");
            prop_assert_eq!(second.content, first.content);
        }
    }

    #[test]
    fn valid_bodies_need_no_repair(body in any_value()) {
        prop_assert_eq!(repair::repair(body.to_string().as_bytes()), None);
    }

    #[test]
    fn accepted_json_has_valid_id_and_text(body in any_value()) {
        if let Ok(Parsed { content, payload, .. }) = parsed(body.to_string().as_bytes()) {
            prop_assert!(!AuditEntry::data(&payload).contains("\\u0000"));
            if let Content::Report(report) = content {
                prop_assert!((1..=1024).contains(&report.cloudflare_id.as_str().chars().count()));
            }
        }
    }

    #[test]
    fn errors_do_not_quote_the_body(secret in "[a-z]{12}", field in prop::sample::select(vec!["uploaded", "variants", "draft", "metadata"])) {
        let body = json!({"id": "a", field: {"x": [secret.clone()]}, "timestamp": secret.clone()});

        match parsed(body.to_string().as_bytes()) {
            Ok(parsed) => prop_assert!(!parsed.ignored.to_string().contains(&secret)),
            Err(error) => prop_assert!(!error.to_string().contains(&secret)),
        }
    }

    #[test]
    fn canonical_form_is_stable(body in any_value()) {
        let Ok(first) = parsed(body.to_string().as_bytes()) else { return Ok(()) };

        let second = parsed(first.payload.as_str().as_bytes()).expect("the canonical form is a good body");

        prop_assert_eq!(first.payload, second.payload);
    }
}

#[test]
fn unknown_shape_error_lists_known_shapes() {
    let error = parsed(br#"{"foo":1}"#).expect_err("an unknown shape");

    assert_eq!(
        error.to_string(),
        "The body has an unknown shape. Use a test message (only \"text\"), a Cloudflare notification (\"data\" with \"ts\", \
         \"alert_type\", \"policy_id\" or \"name\"), an event (\"event\" with \"image\"), or a flat report (\"id\" with \"uploaded\", \
         \"draft\", \"variants\", \"metadata\", \"meta\", \"requireSignedURLs\", \"filename\", \"creator\", \"error\" or \"timestamp\")."
    );
}
