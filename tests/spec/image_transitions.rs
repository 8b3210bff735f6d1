//! What notifications do to an image, in whatever order and however often they come.

use serde_json::{Value, json};

use crate::on_both_databases;
use crate::support::app::{App, PATH, answer};
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

/// The row, without what says when it was written.
async fn state(app: &App) -> Value {
    let mut image = app.database.image("image").await;
    for moment in ["id", "created_at", "updated_at", "expires_at"] {
        image.as_object_mut().expect("a row").remove(moment);
    }
    image
}

on_both_databases!(
    a_redelivery_is_a_duplicate_and_changes_nothing,
    a_late_draft_does_not_turn_an_uploaded_image_back,
    between_uploaded_and_failed_the_later_wins_and_at_the_same_time_the_upload,
    an_expired_image_can_still_be_uploaded_but_not_drafted,
    the_last_row_is_the_same_for_every_order_of_arrival,
    a_notification_without_a_time_counts_from_its_receipt,
    what_jsonb_rewrites_is_still_known_when_it_comes_again,
    an_undated_notification_that_came_before_does_not_turn_the_image_back_when_it_comes_again,
    a_late_draft_does_not_wipe_what_the_upload_told,
    what_is_not_told_stays_to_the_letter,
    what_is_told_too_late_leaves_a_column_to_the_letter_too,
    json_of_another_program_that_we_cannot_read_is_replaced_by_what_is_told,
    an_empty_error_beside_uploaded_is_no_failure,
    an_unknown_image_is_answered_with_404_and_nothing_is_written,
    an_unknown_image_is_created_where_the_policy_says_so,
    that_an_image_was_created_is_news_even_where_nothing_else_is_told,
    an_id_that_no_index_can_hold_is_unknown_and_no_fault_of_ours,
    the_apps_own_columns_are_left_alone,
    the_audit_trail_keeps_the_payload_the_time_and_the_image,
    the_audit_trail_outlives_its_image,
    of_many_who_report_one_image_at_once_each_is_answered_and_logged,
);

async fn a_redelivery_is_a_duplicate_and_changes_nothing(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;
    app.deliver(uploaded(0)).await;
    let before = app.database.image("image").await;

    let answer = app.deliver(uploaded(0)).await;

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

async fn a_late_draft_does_not_turn_an_uploaded_image_back(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;
    app.deliver(uploaded(0)).await;
    let before = app.database.image("image").await;

    let answer = app.deliver(draft(1)).await;

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

async fn between_uploaded_and_failed_the_later_wins_and_at_the_same_time_the_upload(
    database: Database,
) {
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
        let answer = app.deliver(body).await;

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

async fn an_expired_image_can_still_be_uploaded_but_not_drafted(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;
    app.database
        .execute(
            "UPDATE cloudflare_images SET status = 'expired' WHERE cloudflare_id = $1",
            &["image"],
        )
        .await;

    assert_eq!(app.deliver(draft(0)).await.body["outcome"], "stale");
    assert_eq!(app.deliver(uploaded(0)).await.body["status"], "uploaded");
}

async fn the_last_row_is_the_same_for_every_order_of_arrival(database: Database) {
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
            assert_eq!(app.deliver(bodies[body].to_string()).await.status, 200);
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

async fn a_notification_without_a_time_counts_from_its_receipt(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;

    let answer = app
        .deliver(json!({"id": "image", "error": "too big"}).to_string())
        .await;

    assert_eq!(answer.body["outcome"], "applied");
    assert_eq!(
        app.database.image("image").await["status_at"],
        "2024-01-01T12:00:00.000000Z"
    );

    app.clock.advance(std::time::Duration::from_mins(1));
    assert_eq!(
        app.deliver(json!({"id": "image", "error": "too big"}).to_string())
            .await
            .body["outcome"],
        "duplicate"
    );
}

async fn what_jsonb_rewrites_is_still_known_when_it_comes_again(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;
    let body = r#"{"id":"image","timestamp":"2024-01-01T12:00:00Z","metadata":{"long key":1.50,"b":-0.0,"a":1e300,"z":5e-324,
            "big":123456789012345678901234567890,"e17":1e17,"minus":-1e17,"e19":1e19,"max":18446744073709551615,
            "over":18446744073709551616.0,"e16":1e16,"e15":1e15,"text":"\u00e9\ud83e\udd80","nested":{"b":[1,2.0,null],"a":true}}}"#;

    assert_eq!(app.deliver(body).await.body["outcome"], "applied");
    assert_eq!(app.deliver(body).await.body["outcome"], "duplicate");
}

async fn an_undated_notification_that_came_before_does_not_turn_the_image_back_when_it_comes_again(
    database: Database,
) {
    let app = App::start(database).await;
    app.database.register("image").await;
    app.database.register("other").await;
    let undated = json!({"id": "image", "error": "boom"}).to_string();

    assert_eq!(app.deliver(undated.clone()).await.body["status"], "failed");
    assert_eq!(app.deliver(uploaded(1)).await.body["status"], "uploaded");
    app.clock.advance(std::time::Duration::from_mins(5));
    let again = app.deliver(undated).await;
    let of_another_image = app
        .deliver(json!({"id": "other", "error": "boom"}).to_string())
        .await;
    let another = app
        .deliver(json!({"id": "image", "error": "boom again"}).to_string())
        .await;

    assert_eq!(
        again.body,
        json!({"outcome": "duplicate", "id": "image", "status": "uploaded"})
    );
    assert_eq!(of_another_image.body["outcome"], "applied");
    assert_eq!(
        another.body,
        json!({"outcome": "applied", "id": "image", "status": "failed"})
    );
}

async fn a_late_draft_does_not_wipe_what_the_upload_told(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;
    let told = json!({
        "id": "image", "uploaded": "2024-01-01T12:00:00Z", "variants": ["https://a.example/1"],
        "metadata": {"k": 1}, "filename": "cat.jpg",
    });
    app.deliver(told.to_string()).await;
    let before = app.database.image("image").await;

    for time in [json!("2024-01-01T13:00:00Z"), json!(null)] {
        let late = json!({"id": "image", "draft": true, "variants": [], "metadata": {}, "filename": "", "timestamp": time});

        assert_eq!(app.deliver(late.to_string()).await.body["outcome"], "stale");
    }
    assert_eq!(app.database.image("image").await, before);
}

async fn what_is_not_told_stays_to_the_letter(database: Database) {
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

    assert_eq!(app.deliver(uploaded(0)).await.body["outcome"], "applied");

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

async fn what_is_told_too_late_leaves_a_column_to_the_letter_too(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;
    app.deliver(
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
        app.deliver(late.to_string()).await.body["outcome"],
        "applied",
        "only it tells the name"
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

async fn json_of_another_program_that_we_cannot_read_is_replaced_by_what_is_told(
    database: Database,
) {
    let app = App::start(database).await;
    app.database.register("image").await;
    app.database
        .execute(
            "UPDATE cloudflare_images SET cloudflare_metadata = '{\"n\": 1e400}' \
             WHERE cloudflare_id = $1",
            &["image"],
        )
        .await;

    let told = json!({"id": "image", "uploaded": "2024-01-01T12:00:00Z", "metadata": {"a": 1}});
    assert_eq!(
        app.deliver(told.to_string()).await.outcome(),
        (200, "applied")
    );

    assert_eq!(
        app.database.image("image").await["cloudflare_metadata"],
        json!({"a": 1})
    );
}

async fn an_empty_error_beside_uploaded_is_no_failure(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;

    assert_eq!(
        app.deliver(
            json!({"id": "image", "uploaded": "2024-01-01T12:00:00Z", "error": ""}).to_string()
        )
        .await
        .body["status"],
        "uploaded"
    );
    assert_eq!(
        app.deliver(
            json!({"id": "image", "timestamp": "2024-01-01T12:01:00Z", "error": ""}).to_string()
        )
        .await
        .body["status"],
        "failed"
    );
}

async fn an_unknown_image_is_answered_with_404_and_nothing_is_written(database: Database) {
    let app = App::start(database).await;

    let answer = app.deliver(uploaded(0)).await;

    assert_eq!(answer.outcome(), (404, "unknown-image"));
    assert!(app.database.images_and_logs().await.is_empty());
}

async fn an_unknown_image_is_created_where_the_policy_says_so(database: Database) {
    let app = App::start_with(database, &[("APP__WEBHOOK__UNKNOWN_IMAGES", "create")]).await;

    let answer = app.deliver(uploaded(0)).await;

    assert_eq!(
        answer.body,
        json!({"outcome": "applied", "id": "image", "status": "uploaded"})
    );
    assert_eq!(app.database.image("image").await["status"], "uploaded");
    assert_eq!(app.database.log_types().await, ["webhook_received"]);
}

async fn that_an_image_was_created_is_news_even_where_nothing_else_is_told(database: Database) {
    let app = App::start_with(database, &[("APP__WEBHOOK__UNKNOWN_IMAGES", "create")]).await;
    let body = json!({"id": "image", "timestamp": "2024-01-01T12:00:00Z"}).to_string();

    assert_eq!(
        app.deliver(body.clone()).await.body,
        json!({"outcome": "applied", "id": "image", "status": "pending"})
    );
    assert_eq!(app.deliver(body).await.body["outcome"], "duplicate");
}

async fn an_id_that_no_index_can_hold_is_unknown_and_no_fault_of_ours(database: Database) {
    let app = App::start_with(database, &[("APP__WEBHOOK__UNKNOWN_IMAGES", "create")]).await;
    // Random letters of four bytes each, so that Postgres cannot compress them into an index entry.
    let mut seed = 1_u32;
    let id: String = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from_u32(0x2_0000 + (seed >> 8) % 0xa000).expect("a letter of CJK extension B")
    })
    .take(1024)
    .collect();

    let answer = app
        .deliver(json!({"id": id, "uploaded": "2024-01-01T12:00:00Z"}).to_string())
        .await;

    assert_eq!(answer.outcome(), (404, "unknown-image"));
}

async fn the_apps_own_columns_are_left_alone(database: Database) {
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

    app.deliver(
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

async fn the_audit_trail_keeps_the_payload_the_time_and_the_image(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;

    app.deliver(uploaded(0)).await;

    let (image, logs) = (app.database.image("image").await, app.database.logs().await);
    assert_eq!(logs[0]["image_id"], image["id"]);
    assert_eq!(
        logs[0]["data"],
        json!({"payload": {"id": "image", "uploaded": "2024-01-01T12:00:00Z"}})
    );
    assert_eq!(logs[0]["timestamp"], "2024-01-01T12:00:00.000000Z");
    assert_eq!(
        logs[0]["message"],
        "the image went from pending to uploaded"
    );
}

async fn the_audit_trail_outlives_its_image(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;
    app.deliver(uploaded(0)).await;

    app.database
        .execute(
            "DELETE FROM cloudflare_images WHERE cloudflare_id = $1",
            &["image"],
        )
        .await;

    assert_eq!(app.database.log_types().await, ["webhook_received"]);
}

async fn of_many_who_report_one_image_at_once_each_is_answered_and_logged(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;

    let answers = (0..32).map(|minute| app.deliver(uploaded(minute)));
    let answers = futures_join(answers).await;

    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(
        app.database.image("image").await["uploaded_at"],
        "2024-01-01T12:31:00.000000Z"
    );
    assert_eq!(app.database.logs().await.len(), 32);
}

/// Runs futures at once and waits for all.
async fn futures_join<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
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
        .map(|(_, result)| result.expect("it is done"))
        .collect()
}

fn permutations(length: usize) -> Vec<Vec<usize>> {
    if length == 0 {
        return vec![Vec::new()];
    }
    let extend = |shorter: Vec<usize>| {
        (0..length).map(move |place| {
            let mut longer = shorter.clone();
            longer.insert(place, length - 1);
            longer
        })
    };
    permutations(length - 1)
        .into_iter()
        .flat_map(extend)
        .collect()
}

#[tokio::test]
async fn a_row_of_sqlite_whose_uuid_an_app_spelled_in_its_own_way_is_a_row_like_any_other() {
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
            .deliver(json!({"id": id, "uploaded": "2024-01-01T12:00:00Z"}).to_string())
            .await;

        assert_eq!(answer.body["outcome"], "applied");
    }
    let joined = "SELECT count(*) FROM cloudflare_image_logs AS log JOIN cloudflare_images AS image ON image.id = log.image_id";
    assert_eq!(
        app.database.count(joined).await,
        2,
        "the trail refers to the row as the app spelled it"
    );
}

#[tokio::test]
async fn a_time_in_postgres_that_is_none_names_its_row_and_is_no_panic() {
    let app = App::start(Database::postgres().await).await;
    app.database.register("image").await;
    app.database
        .execute(
            "UPDATE cloudflare_images SET status_at = 'infinity' WHERE cloudflare_id = $1",
            &["image"],
        )
        .await;

    assert_eq!(
        app.deliver(uploaded(0)).await.outcome(),
        (500, "internal-error")
    );
    app.database.register("another").await;
    assert_eq!(
        app.deliver(uploaded(0).replace("image", "another"))
            .await
            .outcome(),
        (200, "applied")
    );
}

#[tokio::test]
async fn a_client_that_goes_away_after_it_has_sent_all_is_recorded_all_the_same() {
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
    let mut stream = std::net::TcpStream::connect(app.address).expect("it listens");
    std::io::Write::write_all(&mut stream, request.as_bytes()).expect("it is read");
    app.database.wait_for_lock_waiter().await;

    drop(stream);
    // The service has noticed when it serves what came later.
    for _ in 0..10 {
        assert_eq!(answer(app.client().get(app.url())).await.status, 405);
    }
    lock.release().await;

    wait::until_async("it is recorded", async || {
        app.database.image("image").await["status"] == "uploaded"
    })
    .await;
    assert_eq!(app.database.log_types().await, ["webhook_received"]);
}
