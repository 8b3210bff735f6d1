//! Details and times that break a rule: they are ignored, and the status beside them is applied.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::on_both_databases;
use crate::support::app::{App, response_to};
use crate::support::database::Database;
use crate::support::program::{Service, run};
use crate::support::signing::SECRET;

on_both_databases!(
    keeps_unusual_details_as_reported,
    ignores_invalid_details,
    ignores_unreadable_times,
    reads_times_with_fraction_or_exponent,
    ignores_invalid_unicode_and_numbers,
    stores_error_with_invalid_unicode,
    parked_notification_ignores_same_details,
    unreadable_time_of_redelivery_is_duplicate,
    stores_null_character_as_replacement,
    stores_invalid_parts_of_error_object,
    refused_update_is_never_acknowledged,
    status_survives_details_that_columns_refuse,
    parked_status_survives_details_that_columns_refuse,
);

/// Returns an upload of the image with this extra field.
fn upload_with(id: &str, field: &str, value: &Value) -> String {
    let mut upload = json!({
        "id": id, "uploaded": "2024-01-01T11:00:00Z", "timestamp": "2024-01-01T12:00:00Z", "filename": "cat.jpg",
    });
    upload[field] = value.clone();
    upload.to_string()
}

async fn keeps_unusual_details_as_reported(database: Database) {
    let app = App::start(database).await;
    for (number, (field, column, value)) in [
        (
            "variants",
            "variants",
            json!([
                "https://imagedelivery.net/hash/a file.jpg/w=200",
                "https://a.example/b\tc\n",
                "HTTP://a.example/{id}|<x>\u{202e}",
            ]),
        ),
        ("filename", "filename", json!("x".repeat(20_000))),
        ("creator", "creator", json!("🦀".repeat(5_000))),
        (
            "metadata",
            "cloudflare_metadata",
            json!({"a b": ["\u{7f}", {"": null}]}),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("image-{number}");
        app.database.register(&id).await;

        let answer = app.post_webhook(upload_with(&id, field, &value)).await;

        assert_eq!(answer.outcome(), (200, "applied"), "{field}");
        assert_eq!(app.database.image(&id).await[column], value, "{field}");
    }
    assert_eq!(app.metric("webhook_details_ignored_total").await, 0);
}

/// Details that break a rule. Each has the field, its column, the initial value of the column, and the bad value.
fn invalid_details() -> Vec<(&'static str, &'static str, Value, Value)> {
    let mut invalid = Vec::new();
    for value in [
        json!("https://a.example"),
        json!({}),
        json!([1]),
        json!([null]),
        json!(["https://a.example", ["https://a.example"]]),
        json!(["ftp://a.example"]),
        json!(["/relative"]),
        json!([""]),
        json!(["javascript:alert(1)"]),
        json!(["https://"]),
        json!(["https://a.example/\0"]),
    ] {
        invalid.push(("variants", "variants", json!([]), value));
    }
    for field in ["metadata", "meta"] {
        for value in [
            json!("text"),
            json!([1]),
            json!(1),
            json!(true),
            json!({"a": [{"b": "\0"}]}),
            json!({"a\0": 1}),
        ] {
            invalid.push((field, "cloudflare_metadata", json!({}), value));
        }
    }
    for value in [json!("true"), json!(1), json!([])] {
        invalid.push((
            "requireSignedURLs",
            "require_signed_urls",
            json!(false),
            value,
        ));
    }
    for value in [json!(1), json!(true), json!([]), json!({}), json!("a\0b")] {
        invalid.push(("creator", "creator", json!(""), value));
    }
    invalid
}

async fn ignores_invalid_details(database: Database) {
    let app = App::start(database).await;
    let invalid = invalid_details();
    for (number, (field, column, initial, value)) in invalid.iter().enumerate() {
        let id = format!("image-{number}");
        app.database.register(&id).await;

        let answer = app.post_webhook(upload_with(&id, field, value)).await;

        assert_eq!(answer.outcome(), (200, "applied"), "{field}: {value}");
        let image = app.database.image(&id).await;
        assert_eq!(
            (&image["status"], &image["filename"], &image[*column]),
            (&json!("uploaded"), &json!("cat.jpg"), initial),
            "{field}: {value}"
        );
    }

    let event = json!({"event": "image.uploaded", "image": {"id": "image-0", "variants": "x", "filename": 1}});
    let answer = app.post_webhook(event.to_string()).await;

    assert_eq!(answer.status.as_u16(), 200);
    assert_eq!(
        usize::try_from(app.metric("webhook_details_ignored_total").await).ok(),
        Some(invalid.len() + 2)
    );
    assert!(app.database.rejections().await.is_empty());
}

async fn ignores_unreadable_times(database: Database) {
    let app = App::start(database).await;
    let received = "2024-01-01T12:00:00.000000Z";
    let stated = "2023-05-05T05:05:05.000000Z";
    let (good, bad) = (json!(stated), json!("2023-05-05 05:05"));
    let event = |timestamp: &Value, uploaded: &Value| {
        json!({"event": "image.uploaded", "timestamp": timestamp,
            "image": {"id": "ID", "uploaded": uploaded}})
    };
    let envelope = |ts: Value| json!({"ts": ts, "name": "n", "data": {"image": {"id": "ID", "status": "success"}}});
    let flat = |timestamp: &Value, uploaded: &Value| json!({"id": "ID", "timestamp": timestamp, "uploaded": uploaded});
    let none = Value::Null;
    for (number, (body, time)) in [
        (flat(&good, &bad), stated),
        (flat(&bad, &good), stated),
        (flat(&bad, &bad), received),
        (flat(&none, &bad), received),
        (flat(&json!({}), &json!(1_704_110_400)), received),
        (flat(&json!([]), &json!(true)), received),
        (event(&good, &bad), stated),
        (event(&good, &json!(false)), stated),
        (event(&bad, &good), stated),
        (event(&json!(1), &bad), received),
        (envelope(json!("1136214245")), received),
        (envelope(json!("1704110400.5")), received),
        (envelope(json!(-0.5)), received),
        (envelope(json!(1e300)), received),
        (envelope(json!(-1)), received),
        (envelope(json!(u64::MAX)), received),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("image-{number}");
        app.database.register(&id).await;

        let answer = app.post_webhook(body.to_string().replace("ID", &id)).await;

        assert_eq!(answer.outcome(), (200, "applied"), "{body}");
        let image = app.database.image(&id).await;
        assert_eq!(
            (&image["status"], &image["status_at"]),
            (&json!("uploaded"), &json!(time)),
            "{body}"
        );
    }
}

async fn reads_times_with_fraction_or_exponent(database: Database) {
    let app = App::start(database).await;
    for (number, (ts, time)) in [
        ("1704110400", "2024-01-01T12:00:00.000000Z"),
        ("1704110400.0", "2024-01-01T12:00:00.000000Z"),
        ("1.9999999", "1970-01-01T00:00:01.999999Z"),
        ("1704110399.123456", "2024-01-01T11:59:59.123456Z"),
        ("1.7e9", "2023-11-14T22:13:20.000000Z"),
        ("17041103990E-1", "2024-01-01T11:59:59.000000Z"),
        ("253402300799.5", "9999-12-31T23:59:59.500000Z"),
        ("0.5", "1970-01-01T00:00:00.500000Z"),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("image-{number}");
        app.database.register(&id).await;
        let body = format!(
            r#"{{"ts":{ts},"name":"n","data":{{"image":{{"id":"{id}","status":"success"}}}}}}"#
        );

        let first = app.post_webhook(body.clone()).await;
        let second = app.post_webhook(body).await;

        assert_eq!(first.outcome(), (200, "applied"), "{ts}");
        assert_eq!(second.outcome(), (200, "duplicate"), "{ts}");
        let status_at = &app.database.image(&id).await["status_at"];
        assert_eq!(status_at, time, "{ts}");
    }
    assert_eq!(app.metric("webhook_details_ignored_total").await, 0);
}

/// Values that a strict parser refuses, with their form in the audit log.
const INVALID_VALUES: [(&[u8], &str); 4] = [
    (br#""a\ud800b""#, "a\u{fffd}b"),
    (br#""\\\udc00\ud83d\ude00""#, "\\\u{fffd}\u{1f600}"),
    (b"\"a\xffb\"", "a\u{fffd}b"),
    (b"1e400", "\u{fffd}number 1e400"),
];

/// Replaces `VALUE` in a body.
fn with_value(template: &str, value: &[u8]) -> Vec<u8> {
    let (before, after) = template.split_once("VALUE").expect("a template");
    [before.as_bytes(), value, after.as_bytes()].concat()
}

async fn ignores_invalid_unicode_and_numbers(database: Database) {
    let app = App::start(database).await;
    let rest = r#""filename":"cat.jpg","uploaded":"2024-01-01T11:00:00Z""#;
    let mut ignored = 0;
    for (number, ((value, stored), (field, count))) in INVALID_VALUES
        .iter()
        .flat_map(|value| {
            let fields = [
                (r#""metadata":{"a":[VALUE]}"#, 2),
                (r#""creator":VALUE"#, 2),
                (r#""variants":["https://a.example",VALUE]"#, 2),
                (r#""requireSignedURLs":VALUE"#, 2),
                (r#""timestamp":VALUE"#, 2),
                (r#""unknown":{"b":VALUE}"#, 1),
            ];
            fields.map(|field| (*value, field))
        })
        .enumerate()
    {
        let id = format!("image-{number}");
        app.database.register(&id).await;
        let template = format!(r#"{{"id":"{id}",{field},{rest}}}"#);

        let first = app.post_webhook(with_value(&template, value)).await;
        let second = app.post_webhook(with_value(&template, value)).await;

        assert_eq!(first.outcome(), (200, "applied"), "{template} {stored}");
        assert_eq!(second.outcome(), (200, "duplicate"), "{template} {stored}");
        let image = app.database.image(&id).await;
        assert_eq!(
            (&image["status"], &image["filename"], &image["creator"]),
            (&json!("uploaded"), &json!("cat.jpg"), &json!(""))
        );
        assert_eq!(
            (&image["cloudflare_metadata"], &image["variants"]),
            (&json!({}), &json!([]))
        );
        let logs = app.database.logs().await;
        let payload = &logs.last().expect("an entry")["data"]["payload"];
        let expected = template.replace("VALUE", &json!(stored).to_string());
        assert_eq!(payload.to_string(), canonical(&expected), "{template}");
        ignored += 2 * count;
        assert_eq!(app.metric("webhook_details_ignored_total").await, ignored);
    }
    assert!(app.database.rejections().await.is_empty());
}

fn canonical(json: &str) -> String {
    let value: Value = serde_json::from_str(json).expect("JSON");
    value.to_string()
}

async fn stores_error_with_invalid_unicode(database: Database) {
    let app = App::start(database).await;
    for (number, template) in [
        r#"{"id":"ID","error":VALUE,"\ud800":1}"#,
        r#"{"alert_type":VALUE,"ts":1e400,"data":{"image":{"id":"ID","status":"failed","error":VALUE}}}"#,
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("image-{number}");
        app.database.register(&id).await;
        let body = template
            .replace("ID", &id)
            .replace("VALUE", r#""too \ud800 big""#);

        let answer = app.post_webhook(body).await;

        assert_eq!(answer.outcome(), (200, "applied"), "{template}");
        let image = app.database.image(&id).await;
        assert_eq!(
            (&image["status"], &image["error"]),
            (&json!("failed"), &json!("too \u{fffd} big"))
        );
    }
}

async fn parked_notification_ignores_same_details(database: Database) {
    let app = App::start(database).await;
    let early = r#"{"id":"early","uploaded":"2024-01-01T11:00:00Z","creator":"a\ud800","filename":"b\u0000","metadata":{"a":1e400}}"#;
    let answer = app.post_webhook(early).await;
    assert_eq!(answer.outcome(), (404, "unknown-image"));

    app.database.register("early").await;
    app.wait_for_sweep().await;

    let image = app.database.image("early").await;
    assert_eq!(image["status"], "uploaded");
    assert_eq!(
        (
            &image["creator"],
            &image["filename"],
            &image["cloudflare_metadata"]
        ),
        (&json!(""), &json!(""), &json!({}))
    );
    assert_eq!(app.database.log_types().await, ["webhook_received"]);
}

async fn unreadable_time_of_redelivery_is_duplicate(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;
    let body = json!({"id": "image", "error": "too big", "timestamp": "yesterday"}).to_string();

    let first = app.post_webhook(body.clone()).await;
    let second = app.post_webhook(body).await;

    assert_eq!(first.outcome(), (200, "applied"));
    assert_eq!(second.outcome(), (200, "duplicate"));
}

async fn stores_null_character_as_replacement(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;
    let body = json!({"id": "image", "error": "too\0big", "creator": "a\0b", "new\0": ["\0"]});

    let answer = app.post_webhook(body.to_string()).await;

    assert_eq!(answer.outcome(), (200, "applied"));
    let image = app.database.image("image").await;
    assert_eq!(
        (&image["status"], &image["error"], &image["creator"]),
        (&json!("failed"), &json!("too\u{fffd}big"), &json!(""))
    );
    assert_eq!(
        app.database.logs().await[0]["data"]["payload"],
        json!({"id": "image", "error": "too\u{fffd}big", "creator": "a\u{fffd}b", "new\u{fffd}": ["\u{fffd}"]})
    );
}

/// An error object is stored as JSON text.
async fn stores_invalid_parts_of_error_object(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;
    let body = r#"{"id":"image","error":{"code":1e400,"text":"too\u0000\ud800"}}"#;

    let answer = app.post_webhook(body).await;

    assert_eq!(answer.outcome(), (200, "applied"));
    let image = app.database.image("image").await;
    assert_eq!(
        image["error"],
        json!("{\"code\":\"\u{fffd}number 1e400\",\"text\":\"too\u{fffd}\u{fffd}\"}")
    );
}

/// Lets the database refuse long file names, as an app's own column type or trigger does.
async fn refuse_long_filenames(database: &Database) {
    database
        .execute_script(if database.is_postgres() {
            "ALTER TABLE cloudflare_images ALTER COLUMN filename TYPE varchar(10);"
        } else {
            "CREATE TRIGGER short BEFORE UPDATE ON cloudflare_images WHEN length(new.filename) > 10
                 BEGIN SELECT RAISE(ABORT, 'the filename is too long'); END;"
        })
        .await;
}

async fn refused_update_is_never_acknowledged(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;
    let upload =
        |filename: &str| app.post_webhook(upload_with("image", "filename", &json!(filename)));
    assert_eq!(upload("a.jpg").await.outcome(), (200, "applied"));
    refuse_long_filenames(&app.database).await;

    // Without the file name, this notification would change nothing.
    let refused = upload("a-long-filename.jpg").await;
    let details = json!({"id": "image", "filename": "another-long-one.jpg"}).to_string();
    let refused_details = app.post_webhook(details).await;

    assert_eq!(refused.outcome(), (500, "internal-error"));
    assert_eq!(refused_details.outcome(), (500, "internal-error"));
    assert_eq!(app.metric("inbox_without_details_total").await, 0);
}

async fn status_survives_details_that_columns_refuse(database: Database) {
    let app = App::start(database).await;
    let ids = ["image-0", "image-1", "image-2"];
    for id in ids {
        app.database.register(id).await;
    }
    refuse_long_filenames(&app.database).await;
    let body = |id: &&str| {
        let filename = if *id == "image-1" {
            "a-long-filename.jpg"
        } else {
            "a.jpg"
        };
        app.post_webhook(upload_with(id, "filename", &json!(filename)))
    };

    let answers = futures_util::future::join_all(ids.iter().map(body)).await;

    for answer in answers {
        assert_eq!(answer.outcome(), (200, "applied"));
    }
    for (id, filename) in ids.into_iter().zip(["a.jpg", "", "a.jpg"]) {
        let image = app.database.image(id).await;
        assert_eq!(
            (&image["status"], &image["filename"]),
            (&json!("uploaded"), &json!(filename)),
            "{id}"
        );
    }
    assert_eq!(app.metric("inbox_without_details_total").await, 1);
}

async fn parked_status_survives_details_that_columns_refuse(database: Database) {
    let app = App::start(database).await;
    refuse_long_filenames(&app.database).await;
    let early = upload_with("early", "filename", &json!("a-long-filename.jpg"));
    assert_eq!(
        app.post_webhook(early).await.outcome(),
        (404, "unknown-image")
    );

    app.database.register("early").await;
    app.wait_for_sweep().await;

    let image = app.database.image("early").await;
    assert_eq!(
        (&image["status"], &image["filename"]),
        (&json!("uploaded"), &json!(""))
    );
}

#[tokio::test]
async fn logs_ignored_fields_in_one_line() {
    let folder = TempDir::new().expect("a folder");
    run(folder.path(), &["images", "add", "image"], &[]);
    let mut service = Service::start(folder.path(), &[("CLOUDFLARE_WEBHOOK_SECRET", SECRET)]);
    let body = json!({"event": "image.uploaded", "timestamp": "SECRET-1",
        "image": {"id": "image", "variants": ["SECRET-2"], "metadata": "SECRET-3"}});
    let request = crate::support::app::client()
        .post(service.url())
        .header("cf-webhook-auth", SECRET)
        .body(body.to_string());

    let answer = response_to(request).await;

    assert_eq!(answer.outcome(), (200, "applied"));
    service.signal("-TERM");
    service.wait();
    let log = service.log();
    let lines: Vec<Value> = log
        .iter()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &Value| line["message"].to_string().contains("break a rule"))
        .collect();
    assert_eq!(lines.len(), 1, "{log:?}");
    assert_eq!(
        (
            &lines[0]["message"],
            &lines[0]["image"],
            &lines[0]["fields"]
        ),
        (
            &json!("ignored fields of a notification that break a rule"),
            &json!("image"),
            &json!(
                "timestamp must be an RFC 3339 time such as 2024-01-01T12:00:00Z; \
                 image.variants must be an array of http or https URLs in valid Unicode without U+0000; \
                 image.metadata must be an object without invalid Unicode, U+0000 or numbers out of range"
            )
        )
    );
    assert!(!log.iter().any(|line| line.contains("SECRET-")), "{log:?}");
}
