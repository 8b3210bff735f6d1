//! Reprocessing: rejections are shown, and applied after a pointer or a row was corrected.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::on_both_databases;
use crate::support::app::{App, response_to};
use crate::support::database::Database;
use crate::support::program::{run, stderr, stdout};

/// The pointer to the image id in these tests' notifications.
const CORRECTED_POINTERS: (&str, &str) =
    ("APP__WEBHOOK__ENVELOPE__ID_POINTERS", r#"["/data/upload"]"#);

/// Returns a notification whose id the default pointers do not find.
fn with_other_pointer(id: &str) -> String {
    json!({"data": {"upload": id, "status": "success"}, "ts": 1_704_110_400, "alert_type": "image_notification"}).to_string()
}

/// Delivers these bodies to a service with the default pointers and stops it.
async fn rejected_bodies(database: Database, bodies: &[&str]) -> Database {
    let app = App::start(database).await;
    for body in bodies {
        let response = app.post_webhook((*body).to_owned()).await;
        assert_eq!(response.outcome(), (400, "invalid-payload"), "{body}");
    }
    app.stop().await.1
}

/// Runs `rejections` with these arguments. Returns its exit code and its output.
fn rejections(database: &Database, arguments: &[&str], corrected: bool) -> (Option<i32>, String) {
    let folder = TempDir::new().expect("a folder");
    let mut variables = vec![("DATABASE_URL", database.url.as_str())];
    if corrected {
        variables.push(CORRECTED_POINTERS);
    }
    let output = run(
        folder.path(),
        &[&["rejections"], arguments].concat(),
        &variables,
    );
    (output.status.code(), stdout(&output) + &stderr(&output))
}

on_both_databases!(
    applies_rejection_once_after_correction,
    reprocesses_by_reason_in_order,
    creates_unknown_images_if_configured,
    reprocessing_ignores_invalid_details,
    parks_again_under_corrected_id,
    reprocesses_more_than_one_page,
    explains_failures,
    lists_and_shows_rejections,
);

async fn applies_rejection_once_after_correction(database: Database) {
    let database = rejected_bodies(database, &[&with_other_pointer("image")]).await;
    database.register("image").await;

    let before = rejections(&database, &["reprocess", "1"], false);
    let applied = rejections(&database, &["reprocess", "1"], true);
    let repeated = rejections(&database, &["reprocess", "1"], true);

    assert_eq!(before.0, Some(1), "{}", before.1);
    assert!(before.1.starts_with("1: refused again: "), "{}", before.1);
    assert_eq!(applied, (Some(0), "1: applied\n".to_owned()));
    assert_eq!(repeated, (Some(0), "1: already applied\n".to_owned()));
    assert_eq!(database.image("image").await["status"], "uploaded");
    assert_eq!(database.log_types().await, ["webhook_received"]);
    let row = database.rejections().await.remove(0);
    assert_eq!(
        (&row["state"], &row["outcome"], &row["reason"]),
        (
            &json!("applied"),
            &json!("applied"),
            &json!("invalid-payload")
        )
    );
}

async fn reprocessing_ignores_invalid_details(database: Database) {
    let body = json!({"data": {"upload": "image", "status": "success"}, "ts": "soon", "name": "n"});
    let database = rejected_bodies(database, &[&body.to_string()]).await;
    database.register("image").await;

    let (code, printed) = rejections(&database, &["reprocess", "1"], true);

    let line = "1: applied, ignoring fields: ts must be a Unix timestamp in seconds\n";
    assert_eq!((code, printed.as_str()), (Some(0), line));
    assert_eq!(database.image("image").await["status"], "uploaded");
}

async fn reprocesses_by_reason_in_order(database: Database) {
    let database = rejected_bodies(
        database,
        &[
            &with_other_pointer("a"),
            "{",
            &with_other_pointer("nobody"),
            &with_other_pointer("b"),
        ],
    )
    .await;
    for id in ["a", "b"] {
        database.register(id).await;
    }

    let (code, printed) = rejections(
        &database,
        &[
            "reprocess",
            "--reason",
            "invalid-payload",
            "--since",
            "2024-01-01T00:00:00Z",
        ],
        true,
    );

    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines[0], "1: applied");
    assert!(lines[1].starts_with("2: refused again: "), "{printed}");
    assert_eq!(
        lines[2..],
        [
            "3: parked until nobody has a row",
            "4: applied",
            "4 reprocessed, 1 of them not applied"
        ]
    );
    assert_eq!(code, Some(1));
    // The parked rejection is applied like any other parked notification.
    let states: Vec<Value> = database
        .rejections()
        .await
        .iter()
        .map(|row| row["state"].clone())
        .collect();
    assert_eq!(states, ["applied", "stored", "parked", "applied"]);
    database.register("nobody").await;
    assert_eq!(
        rejections(&database, &["reprocess", "--state", "parked"], true),
        (
            Some(0),
            "3: applied\n1 reprocessed, 0 of them not applied\n".to_owned()
        )
    );
    // Older rejections are not selected.
    assert_eq!(
        rejections(
            &database,
            &["reprocess", "--since", "2030-01-01T00:00:00Z"],
            true
        ),
        (Some(0), "0 reprocessed, 0 of them not applied\n".to_owned())
    );
}

async fn creates_unknown_images_if_configured(database: Database) {
    let database = rejected_bodies(database, &[&with_other_pointer("image")]).await;
    let folder = TempDir::new().expect("a folder");
    let variables = [
        ("DATABASE_URL", database.url.as_str()),
        CORRECTED_POINTERS,
        ("APP__WEBHOOK__UNKNOWN_IMAGES", "create"),
    ];

    let output = run(folder.path(), &["rejections", "reprocess", "1"], &variables);

    assert_eq!(stdout(&output), "1: applied\n");
    assert_eq!(database.image("image").await["status"], "uploaded");
}

async fn parks_again_under_corrected_id(database: Database) {
    let both = json!({
        "data": {"id": "wrong", "upload": "right", "status": "success"},
        "ts": 1_704_110_400, "alert_type": "image_notification",
    })
    .to_string();
    let app = App::start(database).await;
    assert_eq!(
        app.post_webhook(both).await.outcome(),
        (404, "unknown-image")
    );
    // The command uses the real clock, and the service's clock is in 2024.
    let (_, database) = app.stop().await;

    assert_eq!(
        rejections(&database, &["reprocess", "1"], true),
        (Some(0), "1: parked until right has a row\n".to_owned())
    );

    let folder = TempDir::new().expect("a folder");
    let added = run(
        folder.path(),
        &["images", "add", "right"],
        &[("DATABASE_URL", database.url.as_str()), CORRECTED_POINTERS],
    );
    assert_eq!(
        stdout(&added),
        "registered right\nparked notifications applied: 1\n"
    );
}

async fn reprocesses_more_than_one_page(database: Database) {
    let bodies: Vec<String> = (0..230)
        .map(|number| with_other_pointer(&format!("image-{number}")))
        .collect();
    let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
    let database = rejected_bodies(database, &bodies).await;
    let rows: Vec<String> = (0..230)
        .map(|number| format!("('image-{number}')"))
        .collect();
    database
        .execute_script(&format!(
            "INSERT INTO cloudflare_images (cloudflare_id) VALUES {}",
            rows.join(", ")
        ))
        .await;

    let (code, printed) = rejections(
        &database,
        &["reprocess", "--reason", "invalid-payload"],
        true,
    );

    assert_eq!(
        (code, printed.lines().last()),
        (Some(0), Some("230 reprocessed, 0 of them not applied"))
    );
    assert_eq!(
        database
            .count("SELECT count(*) FROM cloudflare_images WHERE status = 'uploaded'")
            .await,
        230
    );
}

async fn explains_failures(database: Database) {
    let app = App::start(database).await;
    let long = format!("[\"{}\"]", "x".repeat(70_000));
    assert_eq!(
        app.post_webhook(long).await.outcome(),
        (400, "invalid-payload")
    );
    response_to(app.request("{")).await;
    let (_, database) = app.stop().await;

    assert_eq!(
        rejections(&database, &["reprocess", "1"], true),
        (
            Some(1),
            "1: refused again: its body is not stored in full\n".to_owned()
        )
    );
    assert_eq!(
        rejections(&database, &["reprocess", "2"], true),
        (
            Some(1),
            "error: rejection 2 only counts refused requests. It has no body that can be applied.\n".to_owned()
        )
    );
    assert_eq!(
        rejections(&database, &["reprocess", "77"], true),
        (
            Some(1),
            "error: there is no rejection 77. `rejections list` prints the newest ones.\n"
                .to_owned()
        )
    );
    for arguments in [
        &["reprocess"][..],
        &["reprocess", "1", "--reason", "invalid-payload"],
        &["list", "--since", "yesterday"],
    ] {
        assert_eq!(
            rejections(&database, arguments, true).0,
            Some(2),
            "{arguments:?}"
        );
    }
}

async fn lists_and_shows_rejections(database: Database) {
    let app = App::start(database).await;
    assert_eq!(
        rejections(&app.database, &["list"], false),
        (
            Some(0),
            "no rejections (refused requests are counted once a minute)\n".to_owned()
        )
    );
    app.post_webhook("{\u{1b}[2J").await;
    app.post_webhook(json!({"id": "early", "uploaded": "2024-01-01T12:00:00Z"}).to_string())
        .await;
    let (_, database) = app.stop().await;

    let (_, listed) = rejections(&database, &["list"], false);
    let parked = rejections(&database, &["list", "--state", "parked", "--json"], false).1;
    let (_, shown) = rejections(&database, &["show", "1"], false);
    let json = rejections(&database, &["show", "2", "--json"], false).1;

    let columns: Vec<Vec<&str>> = listed
        .lines()
        .map(|line| line.split_whitespace().take(8).collect())
        .collect();
    assert_eq!(
        columns[0],
        [
            "ID", "RECEIVED", "STATUS", "REASON", "STATE", "COUNT", "CLIENT", "IMAGE"
        ]
    );
    assert_eq!(
        columns[1],
        [
            "2",
            "2024-01-01T12:00:00.000000Z",
            "404",
            "unknown-image",
            "parked",
            "1",
            "127.0.0.1",
            "early"
        ]
    );
    assert_eq!(
        columns[2][..7],
        [
            "1",
            "2024-01-01T12:00:00.000000Z",
            "400",
            "invalid-payload",
            "stored",
            "1",
            "127.0.0.1"
        ]
    );
    let parked: Value = serde_json::from_str(&parked).expect("JSON");
    assert_eq!(
        (
            parked.as_array().map(Vec::len),
            &parked[0]["id"],
            parked[0].get("body")
        ),
        (Some(1), &json!(2), None)
    );
    assert!(
        shown.contains(r"{\u{1b}[2J") && !shown.contains('\u{1b}'),
        "control characters are not escaped: {shown}"
    );
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(
        json["body"],
        r#"{"id":"early","uploaded":"2024-01-01T12:00:00Z"}"#
    );
    assert_eq!(
        (&json["scheme"], &json["state"]),
        (&json!("cf-webhook-auth"), &json!("parked"))
    );
}
