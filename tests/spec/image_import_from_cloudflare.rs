//! `images import --from-cloudflare`: all images of the account.

use serde_json::json;

use crate::on_both_databases;
use crate::support::cloudflare::{ApiFault, Cloudflare};
use crate::support::database::Database;
use crate::support::transfer::{Ended, Transfer, imported};

on_both_databases!(
    imports_every_page,
    import_equals_lookup,
    repeats_page_after_temporary_error,
    lasting_error_is_printed,
);

/// Returns Cloudflare, and the commands that use it.
async fn start(database: Database) -> (Cloudflare, Transfer) {
    let cloudflare = Cloudflare::start().await;
    let variables = cloudflare.variables();
    let mut variables: Vec<(&str, &str)> = variables
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    variables.push(("APP__CLOUDFLARE__TIMEOUT_SECS", "15"));
    (cloudflare, Transfer::with(database, &variables))
}

async fn import(transfer: Transfer) -> (Transfer, Ended) {
    run(transfer, &["import", "--from-cloudflare"]).await
}

/// Runs `images` with these arguments, while Cloudflare answers.
async fn run(transfer: Transfer, arguments: &'static [&'static str]) -> (Transfer, Ended) {
    let running = tokio::task::spawn_blocking(move || {
        let ended = transfer.images(arguments);
        (transfer, ended)
    });
    running.await.expect("no panic")
}

async fn imports_every_page(database: Database) {
    let (cloudflare, transfer) = start(database).await;
    for number in 0..25 {
        cloudflare.add_image(&format!("image {number}"), false);
    }
    cloudflare.add_image("users/7/größe 100%&a=b", false);
    cloudflare.add_image("waiting", true);
    cloudflare.paginate(10);

    let (transfer, first) = import(transfer).await;
    let (transfer, second) = import(transfer).await;

    assert_eq!(first, imported(26, 0, 0));
    assert_eq!(second, imported(0, 0, 26));
    assert_eq!(cloudflare.calls().len(), 6);
    let mut row = transfer.database.image("users/7/größe 100%&a=b").await;
    for column in ["id", "created_at", "updated_at", "expires_at"] {
        row[column].take();
    }
    assert_eq!(row["status"], "uploaded");
    assert_eq!(row["status_at"], "2026-01-02T03:04:05.678000Z");
    assert_eq!(row["uploaded_at"], "2026-01-02T03:04:05.678000Z");
    assert_eq!(row["filename"], "cat.jpg");
    let log = transfer.database.logs().await.remove(0);
    assert_eq!(log["event_type"], "imported");
    assert_eq!(log["data"]["payload"]["filename"], "cat.jpg");
}

/// The command `reconcile` has recorded the image. The import finds nothing new.
async fn import_equals_lookup(database: Database) {
    let (cloudflare, transfer) = start(database).await;
    cloudflare.add_image("image", false);
    assert_eq!(transfer.images(&["add", "image"]).code, Some(0));
    let reconcile = tokio::task::spawn_blocking(move || {
        let arguments = ["reconcile", "--id", "image"];
        let output =
            crate::support::program::run(transfer.folder(), &arguments, &transfer.variables());
        assert!(output.status.success(), "{output:?}");
        transfer
    });
    let transfer = reconcile.await.expect("no panic");
    let before = transfer.database.images_and_logs().await;

    let (transfer, ended) = import(transfer).await;

    assert_eq!(ended, imported(0, 0, 1));
    assert_eq!(transfer.database.images_and_logs().await, before);
}

async fn repeats_page_after_temporary_error(database: Database) {
    let (cloudflare, transfer) = start(database).await;
    cloudflare.add_image("image", false);
    cloudflare.fail_next(ApiFault::FailedSuccess);
    cloudflare.fail_next(ApiFault::TooManyCalls(Some(1)));

    let (_, ended) = import(transfer).await;

    assert_eq!(ended, imported(1, 0, 0));
}

async fn lasting_error_is_printed(database: Database) {
    let (cloudflare, transfer) = start(database).await;
    cloudflare.forbid("/images/v2");
    let (transfer, forbidden) = import(transfer).await;
    cloudflare.fail_always(Some(ApiFault::OtherResult));
    let (transfer, other_result) = import(transfer).await;

    for ended in [forbidden, other_result] {
        assert_eq!((ended.code, &*ended.stdout), (Some(1), ""), "{ended:?}");
        assert!(ended.stderr.contains("listing the images"), "{ended:?}");
    }
    let entries = transfer.database.logs().await;
    assert_eq!(json!(entries), json!([]));
}

#[test]
fn account_is_required() {
    let transfer = Transfer::new(Database::sqlite());

    let without = transfer.images(&["import", "--from-cloudflare"]);
    let both = transfer.images(&["import", "--from-cloudflare", "file"]);
    let neither = transfer.images(&["import"]);

    assert!(
        without.stderr.contains("Set CLOUDFLARE_ACCOUNT_ID"),
        "{without:?}"
    );
    assert_eq!(without.code, Some(1));
    assert_eq!((both.code, neither.code), (Some(2), Some(2)));
}
