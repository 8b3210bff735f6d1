//! What was refused is shown, and applied after all when a pointer or a row was mended.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::on_both_databases;
use crate::support::app::{App, answer};
use crate::support::database::Database;
use crate::support::program::{run, stderr, stdout};

/// Where the account of these tests names the image.
const MENDED: (&str, &str) = ("APP__WEBHOOK__ENVELOPE__ID_POINTERS", r#"["/data/upload"]"#);

/// A notification that names its image where the default pointers do not look.
fn elsewhere(id: &str) -> String {
    json!({"data": {"upload": id, "status": "success"}, "ts": 1_704_110_400, "alert_type": "image_notification"}).to_string()
}

/// A service with the default pointers gets these bodies, and stops.
async fn refused(database: Database, bodies: &[&str]) -> Database {
    let app = App::start(database).await;
    for body in bodies {
        let refused = app.deliver((*body).to_owned()).await;
        assert_eq!(refused.outcome(), (400, "invalid-payload"), "{body}");
    }
    app.stop().await.1
}

/// Runs `rejections` with these words, and returns its exit code and what it printed.
fn rejections(database: &Database, words: &[&str], mended: bool) -> (Option<i32>, String) {
    let folder = TempDir::new().expect("a folder");
    let mut variables = vec![("DATABASE_URL", database.url.as_str())];
    if mended {
        variables.push(MENDED);
    }
    let output = run(
        folder.path(),
        &[&["rejections"], words].concat(),
        &variables,
    );
    (output.status.code(), stdout(&output) + &stderr(&output))
}

on_both_databases!(
    after_a_pointer_was_mended_a_refused_body_is_applied_once,
    all_of_a_reason_are_applied_in_their_order_and_those_that_cannot_be_are_told,
    where_rows_are_made_for_unknown_images_one_is_made,
    what_is_parked_under_another_name_and_long_ago_waits_anew_under_the_mended_one,
    more_than_a_page_are_gone_through,
    what_cannot_be_applied_says_why,
    they_are_listed_and_shown_for_people_and_for_programs,
);

async fn after_a_pointer_was_mended_a_refused_body_is_applied_once(database: Database) {
    let database = refused(database, &[&elsewhere("image")]).await;
    database.register("image").await;

    let before = rejections(&database, &["reprocess", "1"], false);
    let applied = rejections(&database, &["reprocess", "1"], true);
    let again = rejections(&database, &["reprocess", "1"], true);

    assert_eq!(before.0, Some(1), "{}", before.1);
    assert!(before.1.starts_with("1: refused still: "), "{}", before.1);
    assert_eq!(applied, (Some(0), "1: applied\n".to_owned()));
    assert_eq!(again, (Some(0), "1: applied already\n".to_owned()));
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

async fn all_of_a_reason_are_applied_in_their_order_and_those_that_cannot_be_are_told(
    database: Database,
) {
    let database = refused(
        database,
        &[&elsewhere("a"), "{", &elsewhere("nobody"), &elsewhere("b")],
    )
    .await;
    for id in ["a", "b"] {
        database.register(id).await;
    }

    let (code, said) = rejections(
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

    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "1: applied");
    assert!(lines[1].starts_with("2: refused still: "), "{said}");
    assert_eq!(
        lines[2..],
        [
            "3: parked until nobody has a row",
            "4: applied",
            "4 tried, 1 of them not applied"
        ]
    );
    assert_eq!(code, Some(1));
    // What waits for its row is applied like any other that came too early.
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
            "3: applied\n1 tried, 0 of them not applied\n".to_owned()
        )
    );
    // Others that came earlier are not meant.
    assert_eq!(
        rejections(
            &database,
            &["reprocess", "--since", "2030-01-01T00:00:00Z"],
            true
        ),
        (Some(0), "0 tried, 0 of them not applied\n".to_owned())
    );
}

async fn where_rows_are_made_for_unknown_images_one_is_made(database: Database) {
    let database = refused(database, &[&elsewhere("image")]).await;
    let folder = TempDir::new().expect("a folder");
    let variables = [
        ("DATABASE_URL", database.url.as_str()),
        MENDED,
        ("APP__WEBHOOK__UNKNOWN_IMAGES", "create"),
    ];

    let output = run(folder.path(), &["rejections", "reprocess", "1"], &variables);

    assert_eq!(stdout(&output), "1: applied\n");
    assert_eq!(database.image("image").await["status"], "uploaded");
}

async fn what_is_parked_under_another_name_and_long_ago_waits_anew_under_the_mended_one(
    database: Database,
) {
    let both = json!({
        "data": {"id": "wrong", "upload": "right", "status": "success"},
        "ts": 1_704_110_400, "alert_type": "image_notification",
    })
    .to_string();
    let app = App::start(database).await;
    assert_eq!(app.deliver(both).await.outcome(), (404, "unknown-image"));
    // The tests' clock stands in 2024, the command's does not.
    let (_, database) = app.stop().await;

    assert_eq!(
        rejections(&database, &["reprocess", "1"], true),
        (Some(0), "1: parked until right has a row\n".to_owned())
    );

    let folder = TempDir::new().expect("a folder");
    let added = run(
        folder.path(),
        &["images", "add", "right"],
        &[("DATABASE_URL", database.url.as_str()), MENDED],
    );
    assert_eq!(
        stdout(&added),
        "registered right\napplied 1 that had come before\n"
    );
}

async fn more_than_a_page_are_gone_through(database: Database) {
    let bodies: Vec<String> = (0..230)
        .map(|number| elsewhere(&format!("image-{number}")))
        .collect();
    let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
    let database = refused(database, &bodies).await;
    let rows: Vec<String> = (0..230)
        .map(|number| format!("('image-{number}')"))
        .collect();
    database
        .execute_script(&format!(
            "INSERT INTO cloudflare_images (cloudflare_id) VALUES {}",
            rows.join(", ")
        ))
        .await;

    let (code, said) = rejections(
        &database,
        &["reprocess", "--reason", "invalid-payload"],
        true,
    );

    assert_eq!(
        (code, said.lines().last()),
        (Some(0), Some("230 tried, 0 of them not applied"))
    );
    assert_eq!(
        database
            .count("SELECT count(*) FROM cloudflare_images WHERE status = 'uploaded'")
            .await,
        230
    );
}

async fn what_cannot_be_applied_says_why(database: Database) {
    let app = App::start(database).await;
    let long = format!("[\"{}\"]", "x".repeat(70_000));
    assert_eq!(app.deliver(long).await.outcome(), (400, "invalid-payload"));
    answer(app.unsigned("{")).await;
    let (_, database) = app.stop().await;

    assert_eq!(
        rejections(&database, &["reprocess", "1"], true),
        (
            Some(1),
            "1: refused still: its body was not kept as a whole\n".to_owned()
        )
    );
    assert_eq!(
        rejections(&database, &["reprocess", "2"], true),
        (
            Some(1),
            "error: of the rejection 2 no body was kept: its sender was not proved\n".to_owned()
        )
    );
    assert_eq!(
        rejections(&database, &["reprocess", "77"], true),
        (
            Some(1),
            "error: there is no rejection 77; `rejections list` shows what there is\n".to_owned()
        )
    );
    for words in [
        &["reprocess"][..],
        &["reprocess", "1", "--reason", "invalid-payload"],
        &["list", "--since", "yesterday"],
    ] {
        assert_eq!(rejections(&database, words, true).0, Some(2), "{words:?}");
    }
}

async fn they_are_listed_and_shown_for_people_and_for_programs(database: Database) {
    let app = App::start(database).await;
    assert_eq!(
        rejections(&app.database, &["list"], false),
        (
            Some(0),
            "no rejections (who came without proof is counted when the minute is over)\n"
                .to_owned()
        )
    );
    app.deliver("{\u{1b}[2J").await;
    app.deliver(json!({"id": "early", "uploaded": "2024-01-01T12:00:00Z"}).to_string())
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
            "ID", "RECEIVED", "STATUS", "REASON", "STATE", "COUNT", "FROM", "IMAGE"
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
        "a terminal obeys nothing of it: {shown}"
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
