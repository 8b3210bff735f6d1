//! The effects of notifications on an image, in any order and with redeliveries.

use serde_json::{Value, json};

use crate::on_both_databases;
use crate::support::app::{App, PATH, response_to};
use crate::support::database::Database;
use crate::support::signing::SECRET;
use crate::support::wait;

fn uploaded(minute: u32) -> String {
    json!({"id": "image", "uploaded": format!("2024-01-01T12:{minute:02}:00Z")}).to_string()
}

fn failed(minute: u32) -> String {
    json!({"id": "image", "error": "too big", "timestamp": format!("2024-01-01T12:{minute:02}:00Z")}).to_string()
}

fn draft(minute: u32) -> String {
    json!({"id": "image", "draft": true, "uploaded": format!("2024-01-01T12:{minute:02}:00Z")})
        .to_string()
}

/// Returns the row without the columns that depend on the time of writing.
async fn state(app: &App) -> Value {
    let mut image = app.database.image("image").await;
    for column in ["id", "created_at", "updated_at", "expires_at"] {
        image.as_object_mut().expect("a row").remove(column);
    }
    image
}

on_both_databases!(
    redelivery_is_duplicate_and_changes_nothing,
    late_draft_is_stale,
    later_status_wins_and_upload_wins_ties,
    expired_image_accepts_upload_but_not_draft,
    final_row_is_independent_of_order,
    undated_notification_takes_time_of_receipt,
    duplicate_is_found_despite_jsonb_rewriting,
    repeated_undated_notification_is_duplicate,
    late_draft_preserves_uploaded_details,
    leaves_unreported_json_byte_identical,
    stale_json_leaves_column_byte_identical,
    replaces_unreadable_json,
    empty_error_with_upload_is_success,
    unknown_image_gets_404,
    creates_unknown_image_if_configured,
    creation_alone_counts_as_applied,
    id_too_long_for_index_is_unknown,
    leaves_app_columns_unchanged,
    audit_entry_has_payload_time_and_image,
    audit_entry_outlives_image,
    answers_and_logs_concurrent_notifications,
);

async fn redelivery_is_duplicate_and_changes_nothing(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;
    app.post_webhook(uploaded(0)).await;
    let before = app.database.image("image").await;

    let answer = app.post_webhook(uploaded(0)).await;

    assert_eq!(
        answer.body,
        json!({"outcome": "duplicate", "id": "image", "status": "uploaded"})
    );
    assert_eq!(app.database.image("image").await, before);
    assert_eq!(
        app.database.log_types().await,
        ["webhook_received", "webhook_duplicate"]
    );
}

async fn late_draft_is_stale(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;
    app.post_webhook(uploaded(0)).await;
    let before = app.database.image("image").await;

    let answer = app.post_webhook(draft(1)).await;

    assert_eq!(
        answer.body,
        json!({"outcome": "stale", "id": "image", "status": "uploaded"})
    );
    assert_eq!(app.database.image("image").await, before);
    assert_eq!(
        app.database.log_types().await,
        ["webhook_received", "webhook_stale"]
    );
}

async fn later_status_wins_and_upload_wins_ties(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;

    for (body, outcome, status) in [
        (failed(5), "applied", "failed"),
        (uploaded(4), "stale", "failed"),
        (uploaded(5), "applied", "uploaded"),
        (failed(5), "stale", "uploaded"),
        (failed(6), "applied", "failed"),
        (uploaded(7), "applied", "uploaded"),
    ] {
        let answer = app.post_webhook(body).await;

        assert_eq!(
            answer.body,
            json!({"outcome": outcome, "id": "image", "status": status})
        );
    }
    assert_eq!(
        app.database.image("image").await["error"],
        "",
        "an uploaded image has no error"
    );
}

async fn expired_image_accepts_upload_but_not_draft(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;
    app.database
        .execute(
            "UPDATE cloudflare_images SET status = 'expired' WHERE cloudflare_id = $1",
            &["image"],
        )
        .await;

    assert_eq!(app.post_webhook(draft(0)).await.body["outcome"], "stale");
    assert_eq!(
        app.post_webhook(uploaded(0)).await.body["status"],
        "uploaded"
    );
}

async fn final_row_is_independent_of_order(database: Database) {
    let bodies = [
        json!({"id": "image", "draft": true, "uploaded": "2024-01-01T12:00:00Z", "creator": "ann", "filename": "draft.jpg"}),
        json!({"id": "image", "error": "too big", "timestamp": "2024-01-01T12:01:00Z"}),
        json!({"id": "image", "uploaded": "2024-01-01T12:02:00Z", "filename": "cat.jpg", "variants": ["https://a.example/1"]}),
        json!({"id": "image", "metadata": {"a": 1}, "timestamp": "2024-01-01T12:03:00Z"}),
    ];
    let app = App::start(database).await;
    let mut last_rows = Vec::new();

    for order in permutations(bodies.len()) {
        app.database
            .execute("DELETE FROM cloudflare_images", &[])
            .await;
        app.database.register("image").await;
        for body in order {
            assert_eq!(app.post_webhook(bodies[body].to_string()).await.status, 200);
        }
        last_rows.push(state(&app).await);
    }

    assert_eq!(last_rows.len(), 24);
    assert!(
        last_rows.iter().all(|row| *row == last_rows[0]),
        "{last_rows:#?}"
    );
    assert_eq!(
        (
            &last_rows[0]["status"],
            &last_rows[0]["filename"],
            &last_rows[0]["creator"]
        ),
        (&json!("uploaded"), &json!("cat.jpg"), &json!("ann"))
    );
}

async fn undated_notification_takes_time_of_receipt(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;

    let answer = app
        .post_webhook(json!({"id": "image", "error": "too big"}).to_string())
        .await;

    assert_eq!(answer.body["outcome"], "applied");
    assert_eq!(
        app.database.image("image").await["status_at"],
        "2024-01-01T12:00:00.000000Z"
    );

    app.clock.advance(std::time::Duration::from_mins(1));
    assert_eq!(
        app.post_webhook(json!({"id": "image", "error": "too big"}).to_string())
            .await
            .body["outcome"],
        "duplicate"
    );
}

async fn duplicate_is_found_despite_jsonb_rewriting(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;
    let body = r#"{"id":"image","timestamp":"2024-01-01T12:00:00Z","metadata":{"long key":1.50,"b":-0.0,"a":1e300,"z":5e-324,
            "big":123456789012345678901234567890,"e17":1e17,"minus":-1e17,"e19":1e19,"max":18446744073709551615,
            "over":18446744073709551616.0,"e16":1e16,"e15":1e15,"text":"\u00e9\ud83e\udd80","nested":{"b":[1,2.0,null],"a":true}}}"#;

    assert_eq!(app.post_webhook(body).await.body["outcome"], "applied");
    assert_eq!(app.post_webhook(body).await.body["outcome"], "duplicate");
}

async fn repeated_undated_notification_is_duplicate(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;
    app.database.register("other").await;
    let undated = json!({"id": "image", "error": "boom"}).to_string();

    assert_eq!(
        app.post_webhook(undated.clone()).await.body["status"],
        "failed"
    );
    assert_eq!(
        app.post_webhook(uploaded(1)).await.body["status"],
        "uploaded"
    );
    app.clock.advance(std::time::Duration::from_mins(5));
    let repeated = app.post_webhook(undated).await;
    let for_other_image = app
        .post_webhook(json!({"id": "other", "error": "boom"}).to_string())
        .await;
    let with_other_error = app
        .post_webhook(json!({"id": "image", "error": "boom again"}).to_string())
        .await;

    assert_eq!(
        repeated.body,
        json!({"outcome": "duplicate", "id": "image", "status": "uploaded"})
    );
    assert_eq!(for_other_image.body["outcome"], "applied");
    assert_eq!(
        with_other_error.body,
        json!({"outcome": "applied", "id": "image", "status": "failed"})
    );
}

async fn late_draft_preserves_uploaded_details(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;
    let notification = json!({
        "id": "image", "uploaded": "2024-01-01T12:00:00Z", "variants": ["https://a.example/1"],
        "metadata": {"k": 1}, "filename": "cat.jpg",
    });
    app.post_webhook(notification.to_string()).await;
    let before = app.database.image("image").await;

    for time in [json!("2024-01-01T13:00:00Z"), json!(null)] {
        let late = json!({"id": "image", "draft": true, "variants": [], "metadata": {}, "filename": "", "timestamp": time});

        assert_eq!(
            app.post_webhook(late.to_string()).await.body["outcome"],
            "stale"
        );
    }
    assert_eq!(app.database.image("image").await, before);
}

async fn leaves_unreported_json_byte_identical(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;
    let precise = r#"{"big": 12345678901234567890123, "dec": 0.10000000000000000000001}"#;
    app.database
        .execute(
            "UPDATE cloudflare_images SET cloudflare_metadata = \
             '{\"big\": 12345678901234567890123, \"dec\": 0.10000000000000000000001}' \
             WHERE cloudflare_id = $1",
            &["image"],
        )
        .await;

    assert_eq!(
        app.post_webhook(uploaded(0)).await.body["outcome"],
        "applied"
    );

    let text = if app.database.is_postgres() {
        "cloudflare_metadata::text"
    } else {
        "cloudflare_metadata"
    };
    assert_eq!(
        app.database
            .texts(&format!("SELECT {text} FROM cloudflare_images"))
            .await,
        [precise]
    );
}

async fn stale_json_leaves_column_byte_identical(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;
    app.post_webhook(
        json!({"id": "image", "uploaded": "2024-01-01T12:00:00Z", "metadata": {"a": 1}})
            .to_string(),
    )
    .await;
    app.database
        .execute(
            "UPDATE cloudflare_images SET cloudflare_metadata = \
             '{\"n\": 12345678901234567890123.456}' \
             WHERE cloudflare_id = $1",
            &["image"],
        )
        .await;

    let late = json!({"id": "image", "uploaded": "2024-01-01T11:00:00Z", "metadata": {"a": 2}, "filename": "late.jpg"});
    assert_eq!(
        app.post_webhook(late.to_string()).await.body["outcome"],
        "applied",
        "only this notification reports the file name"
    );

    let text = if app.database.is_postgres() {
        "cloudflare_metadata::text"
    } else {
        "cloudflare_metadata"
    };
    assert_eq!(
        app.database
            .texts(&format!("SELECT {text} FROM cloudflare_images"))
            .await,
        [r#"{"n": 12345678901234567890123.456}"#]
    );
}

async fn replaces_unreadable_json(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;
    app.database
        .execute(
            "UPDATE cloudflare_images SET cloudflare_metadata = '{\"n\": 1e400}' \
             WHERE cloudflare_id = $1",
            &["image"],
        )
        .await;

    let notification =
        json!({"id": "image", "uploaded": "2024-01-01T12:00:00Z", "metadata": {"a": 1}});
    assert_eq!(
        app.post_webhook(notification.to_string()).await.outcome(),
        (200, "applied")
    );

    assert_eq!(
        app.database.image("image").await["cloudflare_metadata"],
        json!({"a": 1})
    );
}

async fn empty_error_with_upload_is_success(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;

    assert_eq!(
        app.post_webhook(
            json!({"id": "image", "uploaded": "2024-01-01T12:00:00Z", "error": ""}).to_string()
        )
        .await
        .body["status"],
        "uploaded"
    );
    assert_eq!(
        app.post_webhook(
            json!({"id": "image", "timestamp": "2024-01-01T12:01:00Z", "error": ""}).to_string()
        )
        .await
        .body["status"],
        "failed"
    );
}

async fn unknown_image_gets_404(database: Database) {
    let app = App::start(database).await;

    let answer = app.post_webhook(uploaded(0)).await;

    assert_eq!(answer.outcome(), (404, "unknown-image"));
    assert!(app.database.images_and_logs().await.is_empty());
}

async fn creates_unknown_image_if_configured(database: Database) {
    let app = App::start_with(database, &[("APP__WEBHOOK__UNKNOWN_IMAGES", "create")]).await;

    let answer = app.post_webhook(uploaded(0)).await;

    assert_eq!(
        answer.body,
        json!({"outcome": "applied", "id": "image", "status": "uploaded"})
    );
    assert_eq!(app.database.image("image").await["status"], "uploaded");
    assert_eq!(app.database.log_types().await, ["webhook_received"]);
}

async fn creation_alone_counts_as_applied(database: Database) {
    let app = App::start_with(database, &[("APP__WEBHOOK__UNKNOWN_IMAGES", "create")]).await;
    let body = json!({"id": "image", "timestamp": "2024-01-01T12:00:00Z"}).to_string();

    assert_eq!(
        app.post_webhook(body.clone()).await.body,
        json!({"outcome": "applied", "id": "image", "status": "pending"})
    );
    assert_eq!(app.post_webhook(body).await.body["outcome"], "duplicate");
}

async fn id_too_long_for_index_is_unknown(database: Database) {
    let app = App::start_with(database, &[("APP__WEBHOOK__UNKNOWN_IMAGES", "create")]).await;
    // Random letters of four bytes each. Postgres cannot compress them into an index entry.
    let mut seed = 1_u32;
    let id: String = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from_u32(0x2_0000 + (seed >> 8) % 0xa000).expect("a letter of CJK extension B")
    })
    .take(1024)
    .collect();

    let answer = app
        .post_webhook(json!({"id": id, "uploaded": "2024-01-01T12:00:00Z"}).to_string())
        .await;

    assert_eq!(answer.outcome(), (404, "unknown-image"));
}

async fn leaves_app_columns_unchanged(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;
    app.database
        .execute(
            "UPDATE cloudflare_images SET metadata = '{\"mine\": true}', \
             original_filename = 'mine.jpg', \
             user_id = 7, creator = 'me' WHERE cloudflare_id = $1",
            &["image"],
        )
        .await;

    app.post_webhook(
        json!({"id": "image", "uploaded": "2024-01-01T12:00:00Z", "metadata": {"theirs": true}})
            .to_string(),
    )
    .await;

    let image = app.database.image("image").await;
    assert_eq!(
        (&image["metadata"], &image["cloudflare_metadata"]),
        (&json!({"mine": true}), &json!({"theirs": true}))
    );
    assert_eq!(
        (
            &image["original_filename"],
            &image["user_id"],
            &image["creator"]
        ),
        (&json!("mine.jpg"), &json!(7), &json!("me"))
    );
}

async fn audit_entry_has_payload_time_and_image(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;

    app.post_webhook(uploaded(0)).await;

    let (image, logs) = (app.database.image("image").await, app.database.logs().await);
    assert_eq!(logs[0]["image_id"], image["id"]);
    assert_eq!(
        logs[0]["data"],
        json!({"payload": {"id": "image", "uploaded": "2024-01-01T12:00:00Z"}})
    );
    assert_eq!(logs[0]["timestamp"], "2024-01-01T12:00:00.000000Z");
    assert_eq!(
        logs[0]["message"],
        "the status changed from pending to uploaded"
    );
}

async fn audit_entry_outlives_image(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;
    app.post_webhook(uploaded(0)).await;

    app.database
        .execute(
            "DELETE FROM cloudflare_images WHERE cloudflare_id = $1",
            &["image"],
        )
        .await;

    assert_eq!(app.database.log_types().await, ["webhook_received"]);
}

async fn answers_and_logs_concurrent_notifications(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;

    let answers = (0..32).map(|minute| app.post_webhook(uploaded(minute)));
    let answers = join_all(answers).await;

    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(
        app.database.image("image").await["uploaded_at"],
        "2024-01-01T12:31:00.000000Z"
    );
    assert_eq!(app.database.logs().await.len(), 32);
}

/// Runs the futures concurrently and waits for all.
async fn join_all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut running: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut all_done = true;
        for (future, result) in &mut running {
            if result.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *result = Some(value),
                    std::task::Poll::Pending => all_done = false,
                }
            }
        }
        if all_done {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    running
        .into_iter()
        .map(|(_, result)| result.expect("the future is done"))
        .collect()
}

fn permutations(length: usize) -> Vec<Vec<usize>> {
    if length == 0 {
        return vec![Vec::new()];
    }
    let extend = |shorter: Vec<usize>| {
        (0..length).map(move |position| {
            let mut longer = shorter.clone();
            longer.insert(position, length - 1);
            longer
        })
    };
    permutations(length - 1)
        .into_iter()
        .flat_map(extend)
        .collect()
}

#[tokio::test]
async fn accepts_sqlite_uuid_in_any_spelling() {
    let app = App::start(Database::sqlite()).await;
    for id in [
        "5F2B1F0E-7A39-4A5C-9D0E-000000000001",
        "5f2b1f0e7a394a5c9d0e000000000002",
    ] {
        app.database
            .execute(
                "INSERT INTO cloudflare_images (id, cloudflare_id) VALUES ($1, $1)",
                &[id],
            )
            .await;

        let answer = app
            .post_webhook(json!({"id": id, "uploaded": "2024-01-01T12:00:00Z"}).to_string())
            .await;

        assert_eq!(answer.body["outcome"], "applied");
    }
    let joined = "SELECT count(*) FROM cloudflare_image_logs AS log JOIN cloudflare_images AS image ON image.id = log.image_id";
    assert_eq!(
        app.database.count(joined).await,
        2,
        "the audit log refers to the id as the app spelled it"
    );
}

#[tokio::test]
async fn infinite_time_fails_without_panic() {
    let app = App::start(Database::postgres().await).await;
    app.database.register("image").await;
    app.database
        .execute(
            "UPDATE cloudflare_images SET status_at = 'infinity' WHERE cloudflare_id = $1",
            &["image"],
        )
        .await;

    assert_eq!(
        app.post_webhook(uploaded(0)).await.outcome(),
        (500, "internal-error")
    );
    app.database.register("another").await;
    assert_eq!(
        app.post_webhook(uploaded(0).replace("image", "another"))
            .await
            .outcome(),
        (200, "applied")
    );
}

#[tokio::test]
async fn records_after_client_disconnects() {
    let app = App::start(Database::postgres().await).await;
    app.database.register("image").await;
    let lock = app
        .database
        .hold_lock_of("SELECT FROM cloudflare_images FOR UPDATE")
        .await;
    let body = uploaded(0);
    let request = format!(
        "POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncf-webhook-auth: {SECRET}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = std::net::TcpStream::connect(app.address).expect("the service listens");
    std::io::Write::write_all(&mut stream, request.as_bytes()).expect("the request is sent");
    app.database.wait_for_lock_waiter().await;

    drop(stream);
    // The service notices the disconnect before it serves later requests.
    for _ in 0..10 {
        assert_eq!(response_to(app.client().get(app.url())).await.status, 405);
    }
    lock.release().await;

    wait::until_async("the notification is recorded", async || {
        app.database.image("image").await["status"] == "uploaded"
    })
    .await;
    assert_eq!(app.database.log_types().await, ["webhook_received"]);
}
