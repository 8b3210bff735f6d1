//! Authenticated requests with an invalid payload: 400 with the invalid field, and no change to any
//! row.

use serde_json::{Value, json};

use crate::on_both_databases;
use crate::support::app::{App, TestResponse};
use crate::support::database::Database;

async fn app(database: Database) -> App {
    let app = App::start_with(database, &[("APP__WEBHOOK__UNKNOWN_IMAGES", "create")]).await;
    app.database.register("image").await;
    app
}

/// Posts each body. Asserts that it is refused for this field and that no row changes.
async fn assert_all_refused(app: &App, bodies: impl IntoIterator<Item = (Vec<u8>, Option<&str>)>) {
    let before = app.database.images_and_logs().await;
    for (body, field) in bodies {
        let shown = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();

        let answer = app.post_webhook(body).await;

        assert_refused(&answer, field, &shown);
    }
    assert_eq!(app.database.images_and_logs().await, before);
}

fn assert_refused(answer: &TestResponse, field: Option<&str>, body: &str) {
    assert_eq!(answer.outcome(), (400, "invalid-payload"), "{body}");
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    assert_eq!(
        answer.body["field"].as_str(),
        field,
        "{body}: {}",
        answer.body
    );
    assert!(
        answer.body["detail"]
            .as_str()
            .is_some_and(|detail| detail.len() > 20),
        "{body}: {}",
        answer.body
    );
}

fn utf16(text: &str) -> Vec<u8> {
    std::iter::once(0xfeff)
        .chain(text.encode_utf16())
        .flat_map(u16::to_le_bytes)
        .collect()
}

on_both_databases!(
    rejects_invalid_json,
    rejects_invalid_unicode_and_numbers_in_id_and_status,
    rejects_deeply_nested_json,
    rejects_unknown_shapes,
    rejects_null_character_in_id_and_status,
    rejects_invalid_id_in_every_shape,
    validates_fields_that_decide_status,
    accepts_unusual_but_valid_payloads,
);

async fn rejects_invalid_json(database: Database) {
    let app = app(database).await;
    let valid = json!({"id": "image", "uploaded": "2024-01-01T12:00:00Z"}).to_string();
    assert_all_refused(
        &app,
        [
            (Vec::new(), None),
            (b" ".to_vec(), None),
            (b"hello".to_vec(), None),
            (b"id=image&uploaded=now".to_vec(), None),
            (valid.as_bytes()[..valid.len() - 1].to_vec(), None),
            (valid.as_bytes()[..10].to_vec(), None),
            (format!("{valid}x").into_bytes(), None),
            (format!("{valid}{valid}").into_bytes(), None),
            (format!("{valid}\0").into_bytes(), None),
            (utf16(&valid), None),
            ([b"\xef\xbb\xbf", valid.as_bytes()].concat(), None),
            (br#"{"id":"image","metadata":{"a":NaN}}"#.to_vec(), None),
            (br#"{"id":"image","metadata":{"a":01}}"#.to_vec(), None),
            // Invalid values do not hide syntax errors.
            (br#"{"id":"image","metadata":{"a":"\udc00"}"#.to_vec(), None),
            (b"{\"id\":\"image\",\"creator\":\"\xff\"}}".to_vec(), None),
            (br#"{"id":"image","metadata":{"a":1e400,}}"#.to_vec(), None),
            (br#"{"id":"image","draft":true,1e400 :1}"#.to_vec(), None),
            (b"{\"id\":\"image\",\xff\"draft\":true}".to_vec(), None),
        ],
    )
    .await;
}

async fn rejects_invalid_unicode_and_numbers_in_id_and_status(database: Database) {
    let app = app(database).await;
    let mut bodies = Vec::new();
    for value in [
        &br#""image\ud800""#[..],
        br#""\udc00""#,
        b"\"image\xff\"",
        b"1e400",
    ] {
        for (template, field) in [
            (r#"{"id":VALUE,"uploaded":"2024-01-01T12:00:00Z"}"#, "id"),
            (
                r#"{"event":"image.uploaded","image":{"id":VALUE}}"#,
                "image.id",
            ),
            (r#"{"event":VALUE,"image":{"id":"image"}}"#, "event"),
            (
                r#"{"ts":1,"data":{"image":{"id":VALUE,"status":"success"}}}"#,
                "/data/image/id",
            ),
            (
                r#"{"ts":1,"data":{"image":{"id":"image","status":VALUE}}}"#,
                "/data/image/status",
            ),
            (r#"{"id":"image","draft":VALUE}"#, "draft"),
            (r#"{"id":"image","uploaded":VALUE}"#, "uploaded"),
        ] {
            let (before, after) = template.split_once("VALUE").expect("a template");
            let body = [before.as_bytes(), value, after.as_bytes()].concat();
            bodies.push((body, Some(field)));
        }
    }
    bodies.push((br#"{"id":"image","error":1e400}"#.to_vec(), Some("error")));
    bodies.push((br#"{"text":1e400}"#.to_vec(), None));

    assert_all_refused(&app, bodies).await;

    let refused = app
        .post_webhook(r#"{"id":"image\ud800","draft":true}"#)
        .await;
    assert_eq!(
        refused.body["detail"],
        "The field id must be a string of valid Unicode without U+0000."
    );
}

async fn rejects_deeply_nested_json(database: Database) {
    let app = app(database).await;
    let nested = |levels: usize, open: &str, close: &str| {
        let (open, close) = (open.repeat(levels - 1), close.repeat(levels - 1));
        format!(
            r#"{{"id":"image","uploaded":"2024-01-01T12:00:00Z","variants":[],"other":{open}1{close}}}"#
        )
    };

    for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
        let allowed = app.post_webhook(nested(100, open, close)).await;
        assert_eq!(allowed.status, 200, "{}", allowed.body);
        for levels in [101, 127, 128, 129, 10_000] {
            let refused = app.post_webhook(nested(levels, open, close)).await;
            assert_eq!(refused.outcome(), (400, "invalid-payload"), "{levels}");
            assert_eq!(
                refused.body["detail"],
                "The body is nested too deeply. Send at most 100 levels of objects and arrays."
            );
        }
    }
    let unclosed = app.post_webhook("[".repeat(10_000)).await;
    assert_eq!(unclosed.outcome(), (400, "invalid-payload"));
}

async fn rejects_unknown_shapes(database: Database) {
    let app = app(database).await;

    assert_all_refused(
        &app,
        [
            "[]",
            "\"text\"",
            "1",
            "null",
            "true",
            "{}",
            r#"{"foo":1}"#,
            r#"{"id":"image"}"#,
            r#"{"text":1}"#,
            r#"{"data":{}}"#,
            r#"{"id":"image","uploaded":null}"#,
            r#"[{"id":"image","uploaded":"2024-01-01T12:00:00Z"}]"#,
        ]
        .map(|body| (body.as_bytes().to_vec(), None)),
    )
    .await;
}

async fn rejects_null_character_in_id_and_status(database: Database) {
    let app = app(database).await;

    assert_all_refused(
        &app,
        [
            (
                json!({"id": "a\0b", "uploaded": "2024-01-01T12:00:00Z"}),
                "id",
            ),
            (
                json!({"event": "image.uploaded", "image": {"id": "\0"}}),
                "image.id",
            ),
            (
                json!({"event": "image.uploaded\0", "image": {"id": "image"}}),
                "event",
            ),
            (
                json!({"ts": 1, "data": {"image": {"id": "\0", "status": "success"}}}),
                "/data/image/id",
            ),
            (
                json!({"ts": 1, "data": {"image": {"id": "image", "status": "success\0"}}}),
                "/data/image/status",
            ),
        ]
        .map(|(body, field)| (body.to_string().into_bytes(), Some(field))),
    )
    .await;
}

async fn rejects_invalid_id_in_every_shape(database: Database) {
    let app = app(database).await;
    let long = "x".repeat(1025);
    for id in [
        json!(null),
        json!(""),
        json!("   "),
        json!(long),
        json!("🦀".repeat(1025)),
        json!(5),
        json!(true),
        json!(["a"]),
        json!({"a": 1}),
        json!("a\nb"),
        json!("a\u{7f}"),
    ] {
        assert_all_refused(
            &app,
            [
                (
                    json!({"id": id, "uploaded": "2024-01-01T12:00:00Z"}),
                    Some("id"),
                ),
                (json!({"id": id, "error": "too big"}), Some("id")),
                (
                    json!({"event": "image.uploaded", "image": {"id": id}}),
                    Some("image.id"),
                ),
                (
                    json!({"ts": 1, "data": {"image": {"id": id, "status": "success"}}}),
                    Some("/data/image/id"),
                ),
            ]
            .map(|(body, field)| (body.to_string().into_bytes(), field)),
        )
        .await;
    }
    assert_all_refused(
        &app,
        [
            (json!({"uploaded": "2024-01-01T12:00:00Z"}), Some("id")),
            (
                json!({"event": "image.uploaded", "image": {}}),
                Some("image.id"),
            ),
            (json!({"name": "n", "data": {}}), Some("/data/image/id")),
        ]
        .map(|(body, field)| (body.to_string().into_bytes(), field)),
    )
    .await;
}

/// Bodies of the nested shapes, each with its invalid field.
fn nested() -> [(Value, &'static str); 5] {
    [
        (
            json!({"ts": 1, "data": {"image": {"id": "image"}}}),
            "/data/image/status",
        ),
        (
            json!({"ts": 1, "data": {"image": {"id": "image", "status": 1}}}),
            "/data/image/status",
        ),
        (json!({"event": 1, "image": {"id": "image"}}), "event"),
        (json!({"event": "image.uploaded"}), "image"),
        (json!({"event": "image.uploaded", "image": []}), "image"),
    ]
}

async fn validates_fields_that_decide_status(database: Database) {
    let app = app(database).await;
    let flat = |field: &str, value: Value| json!({"id": "image", "timestamp": "2024-01-01T12:00:00Z", field: value});

    let mut bodies = Vec::new();
    for value in [
        json!(""),
        json!(" "),
        json!(0),
        json!(false),
        json!([]),
        json!({}),
    ] {
        bodies.push((flat("uploaded", value), "uploaded".to_owned()));
    }
    for value in [json!("true"), json!(1), json!([])] {
        bodies.push((flat("draft", value), "draft".to_owned()));
    }
    for value in [json!(1), json!(true), json!([]), json!({})] {
        bodies.push((flat("error", value), "error".to_owned()));
    }
    for (body, field) in nested() {
        bodies.push((body, field.to_owned()));
    }

    assert_all_refused(
        &app,
        bodies
            .iter()
            .map(|(body, field)| (body.to_string().into_bytes(), Some(field.as_str()))),
    )
    .await;
}

async fn accepts_unusual_but_valid_payloads(database: Database) {
    let app = app(database).await;
    let exponent = r#"{"id":"image","timestamp":"2024-01-01T12:00:01Z","metadata":{"small":1e-20000,
        "long":0.1000000000000000055511151231257827021181583404541015625}}"#;
    let many: serde_json::Map<_, _> = (0..5_000)
        .map(|key| (key.to_string(), json!(key)))
        .collect();
    let wide = json!({"id": "image", "timestamp": "2024-01-01T12:00:02Z", "metadata": many});
    let deep = format!(
        r#"{{"id":"image","timestamp":"2024-01-01T12:00:03Z","metadata":{}1{}}}"#,
        r#"{"a":"#.repeat(99),
        "}".repeat(99)
    );

    for body in [exponent.to_owned(), wide.to_string(), deep] {
        assert_eq!(app.post_webhook(body).await.outcome(), (200, "applied"));
    }
}
