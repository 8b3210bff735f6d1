//! `ImageTransfer`: the import and the export of images.

use cloudflare_images_webhook::domain::detail::{DetailTimes, Precedence, ReportedDetails};
use cloudflare_images_webhook::domain::event::{EventKind, Model, Subscription, Subscriptions};
use cloudflare_images_webhook::domain::image::Status;
use cloudflare_images_webhook::domain::import::{AppColumns, ImportedImage, StatusColumns};
use cloudflare_images_webhook::domain::json::Json;
use cloudflare_images_webhook::domain::notification::UnknownImages;
use cloudflare_images_webhook::store::{ExportedImage, ImportEffect, Store, StoreError};
use serde_json::json;
use uuid::Uuid;

use crate::fixture::{Fixture, on_every_backend};
use crate::notifications::{at, image_id, record, uploaded};
use crate::support::suppression::Suppression;

on_every_backend!(
    inserts_all_columns,
    inserts_defaults,
    updates_only_given_columns,
    keeps_text_of_equal_json,
    repeated_import_changes_nothing,
    never_replaces_newer_status,
    taken_row_id_is_not_imported,
    suppressed_rows_fail_import,
    publishes_inserted_and_updated_rows,
    exports_pages_in_order,
    ends_page_of_large_images_early,
    names_row_with_invalid_app_column,
);

fn image(id: &str) -> ImportedImage {
    ImportedImage {
        cloudflare_id: image_id(id),
        id: None,
        status: None,
        details: ReportedDetails::default(),
        details_at: DetailTimes::default(),
        app_columns: AppColumns::default(),
        created_at: None,
        updated_at: None,
        payload: Json::from_canonical(format!(r#"{{"cloudflare_id":"{id}"}}"#)),
    }
}

fn json_of(text: &str) -> Json {
    Json::from_canonical(text.to_owned())
}

fn full_image(id: &str) -> ImportedImage {
    ImportedImage {
        id: Some(Uuid::from_u128(7)),
        status: Some(StatusColumns {
            status: Status::Uploaded,
            status_at: Some(at(20)),
            uploaded_at: Some(at(19)),
            error: String::new(),
        }),
        details: ReportedDetails {
            filename: Some("=cat\n\"1\".jpg".to_owned()),
            creator: Some("ann".to_owned()),
            require_signed_urls: Some(true),
            variants: Some(json_of(r#"["https://a.example/b"]"#)),
            cloudflare_metadata: Some(json_of(r#"{"a":1}"#)),
        },
        details_at: [
            Some(Precedence::Final(at(20))),
            Some(Precedence::Draft(at(10))),
            None,
            None,
            None,
        ],
        app_columns: AppColumns {
            metadata: Some(json_of(r#"{"n":12345678901234567890123}"#)),
            user_id: Some(5),
            original_filename: Some("größe.jpg".to_owned()),
            content_type: Some("image/jpeg".to_owned()),
            file_size: Some(1234),
            width: Some(30),
            height: Some(40),
            format: Some("jpeg".to_owned()),
            expires_at: Some(at(1000)),
            last_referenced_at: Some(at(1001)),
        },
        created_at: Some(at(1)),
        updated_at: Some(at(2)),
        ..image(id)
    }
}

async fn inserts_all_columns(fixture: &Fixture) {
    let store = fixture.open().await;

    let effects = import(&store, &[full_image("a")], 100).await;

    assert_eq!(effects, [ImportEffect::Inserted]);
    let mut row = fixture.database.image("a").await;
    // The number has more digits than `serde_json` reads.
    let metadata = row["metadata"].take().to_string();
    assert!(
        metadata.starts_with(r#"{"n":1.2345678901234568e"#),
        "{metadata}"
    );
    let expected = json!({
        "id": "00000000-0000-0000-0000-000000000007", "cloudflare_id": "a", "status": "uploaded",
        "status_at": at(20).to_string(), "uploaded_at": at(19).to_string(), "error": "",
        "filename": "=cat\n\"1\".jpg", "creator": "ann", "require_signed_urls": true,
        "variants": ["https://a.example/b"], "cloudflare_metadata": {"a": 1},
        "details_at": r#"{"filename":20000000,"creator":{"draft":10000000}}"#,
        "metadata": null, "user_id": 5, "original_filename": "größe.jpg", "content_type": "image/jpeg",
        "file_size": 1234, "width": 30, "height": 40, "format": "jpeg", "upload_url": "",
        "created_at": at(1).to_string(), "updated_at": at(2).to_string(),
        "expires_at": at(1000).to_string(), "last_referenced_at": at(1001).to_string(),
    });
    assert_eq!(row, expected);
    let log = fixture.database.logs().await.remove(0);
    assert_eq!(log["event_type"], "imported");
    assert_eq!(log["image_id"], row["id"]);
    assert_eq!(
        log["message"],
        "the image was imported with the status uploaded"
    );
    assert_eq!(log["data"], json!({"payload": {"cloudflare_id": "a"}}));
    assert_eq!(log["timestamp"], at(100).to_string());
}

async fn inserts_defaults(fixture: &Fixture) {
    let store = fixture.open().await;
    fixture.database.register("registered").await;

    import(&store, &[image("a")], 100).await;

    let mut row = fixture.database.image("a").await;
    let registered = fixture.database.image("registered").await;
    assert_eq!(row["created_at"], at(100).to_string());
    assert_eq!(row["updated_at"], at(100).to_string());
    assert_eq!(row["expires_at"], at(1900).to_string());
    for column in [
        "id",
        "cloudflare_id",
        "created_at",
        "updated_at",
        "expires_at",
    ] {
        row[column] = registered[column].clone();
    }
    assert_eq!(row, registered);
}

async fn updates_only_given_columns(fixture: &Fixture) {
    let store = fixture.open().await;
    import(&store, &[full_image("a")], 100).await;
    let mut expected = fixture.database.image("a").await;
    let changed = ImportedImage {
        id: Some(Uuid::from_u128(8)),
        details: ReportedDetails {
            require_signed_urls: Some(false),
            filename: Some("later than the notification".to_owned()),
            ..ReportedDetails::default()
        },
        app_columns: AppColumns {
            user_id: Some(6),
            ..AppColumns::default()
        },
        created_at: Some(at(3)),
        updated_at: Some(at(4)),
        ..image("a")
    };

    let effects = import(&store, &[changed], 200).await;

    assert_eq!(effects, [ImportEffect::Updated]);
    expected["require_signed_urls"] = json!(false);
    expected["user_id"] = json!(6);
    expected["updated_at"] = json!(at(200).to_string());
    assert_eq!(fixture.database.image("a").await, expected);
    let log = fixture.database.logs().await.remove(1);
    assert_eq!(
        log["message"],
        "the status stays uploaded; the import changed other fields"
    );
}

async fn keeps_text_of_equal_json(fixture: &Fixture) {
    let store = fixture.open().await;
    fixture.database.register("a").await;
    let write = r#"UPDATE cloudflare_images SET variants = '[ "https://a.example/b" ]', metadata = '{ "b": 1, "a": 2 }'"#;
    fixture.database.execute_script(write).await;
    let columns = "SELECT CAST(variants AS text) || CAST(metadata AS text) FROM cloudflare_images";
    let before = fixture.database.texts(columns).await;
    let mut equal = image("a");
    equal.details.variants = Some(json_of(r#"["https://a.example/b"]"#));
    equal.app_columns.metadata = Some(json_of(r#"{"a":2,"b":1}"#));
    let mut other = equal.clone();
    other.details.filename = Some("cat.jpg".to_owned());

    let equal = import(&store, &[equal], 100).await;
    let other = import(&store, &[other], 100).await;

    assert_eq!(
        (equal[0], other[0]),
        (ImportEffect::Unchanged, ImportEffect::Updated)
    );
    assert_eq!(fixture.database.texts(columns).await, before);
}

async fn repeated_import_changes_nothing(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;
    let images = [full_image("a"), image("b")];
    import(&store, &images, 100).await;
    let rows = fixture.database.images_and_logs().await;
    let events = fixture.database.events().await;

    let effects = import(&store, &images, 200).await;

    assert_eq!(effects, [ImportEffect::Unchanged; 2]);
    assert_eq!(fixture.database.images_and_logs().await, rows);
    assert_eq!(fixture.database.events().await, events);
}

async fn never_replaces_newer_status(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;
    record(&store, [uploaded("a", 30), uploaded("b", 30)]).await;
    let failed = |id: &str, seconds| ImportedImage {
        status: Some(StatusColumns {
            status: Status::Failed,
            status_at: Some(at(seconds)),
            uploaded_at: None,
            error: "too large".to_owned(),
        }),
        ..image(id)
    };

    let effects = import(&store, &[failed("a", 29), failed("b", 31)], 100).await;

    assert_eq!(effects, [ImportEffect::Unchanged, ImportEffect::Updated]);
    assert_eq!(fixture.database.image("a").await["status"], "uploaded");
    assert_eq!(fixture.database.image("b").await["error"], "too large");
    let log = fixture.database.logs().await.remove(2);
    assert_eq!(
        log["message"],
        "the import changed the status from uploaded to failed"
    );
}

async fn taken_row_id_is_not_imported(fixture: &Fixture) {
    let store = fixture.open().await;
    import(&store, &[full_image("a")], 100).await;
    let other = ImportedImage {
        id: Some(Uuid::from_u128(7)),
        ..image("b")
    };

    let effects = import(&store, &[image("c"), other], 100).await;

    assert_eq!(effects, [ImportEffect::Inserted, ImportEffect::RowIdTaken]);
    let ids = "SELECT cloudflare_id FROM cloudflare_images ORDER BY cloudflare_id";
    assert_eq!(fixture.database.texts(ids).await, ["a", "c"]);
}

async fn suppressed_rows_fail_import(fixture: &Fixture) {
    let store = fixture.open().await;
    import(&store, &[image("a")], 100).await;
    let before = fixture.database.images_and_logs().await;
    let mut changed = image("a");
    changed.details.filename = Some("cat.jpg".to_owned());
    let images = [changed, image("b")];
    for suppression in [
        Suppression::of_inserts_when("cloudflare_images", "NEW.cloudflare_id = 'b'"),
        Suppression::of_updates_when("cloudflare_images", "NEW.cloudflare_id = 'a'"),
        Suppression::of_inserts("cloudflare_image_logs"),
    ] {
        suppression.start(&fixture.database).await;

        let result = store.image_transfer.import(&images, at(200)).await;

        let is_suppression = |error: &StoreError| error.is_suppression();
        assert!(result.as_ref().is_err_and(is_suppression), "{result:?}");
        assert_eq!(fixture.database.images_and_logs().await, before);
        suppression.stop(&fixture.database).await;
    }
}

async fn publishes_inserted_and_updated_rows(fixture: &Fixture) {
    let subscription = Subscription {
        endpoint: "app".to_owned(),
        kinds: EventKind::ALL.to_vec(),
        models: Model::ALL.to_vec(),
        ordered: false,
    };
    let subscriptions = Subscriptions {
        endpoints: vec![subscription],
        channel: None,
    };
    let store = fixture
        .open_with(UnknownImages::Reject, subscriptions)
        .await;
    let mut changed = image("a");
    changed.details.creator = Some("ben".to_owned());
    changed.app_columns.user_id = Some(6);
    changed.app_columns.expires_at = Some(at(2000));

    import(&store, &[full_image("a")], 100).await;
    import(&store, &[changed, image("b")], 200).await;

    let events = fixture.database.events().await;
    let payloads: Vec<serde_json::Value> = events
        .iter()
        .map(|event| serde_json::from_str(event["payload"].as_str().expect("text")).expect("JSON"))
        .collect();
    let names = payloads.iter().map(|payload| {
        let (event, object) = (&payload["event"], &payload["object"]);
        json!([
            event,
            object["cloudflare_id"],
            object["updated_at"],
            object["event_type"]
        ])
    });
    let (second, hundred, later) = (at(2).to_string(), at(100), at(200).to_string());
    assert_eq!(
        names.collect::<Vec<_>>(),
        [
            json!(["created", "a", second, null]),
            json!(["created", "a", null, "imported"]),
            json!(["updated", "a", later, null]),
            json!(["created", "a", null, "imported"]),
            json!(["created", "b", later, null]),
            json!(["created", "b", null, "imported"]),
        ]
    );
    assert_eq!(payloads[0]["timestamp"], hundred.to_string());
    assert_eq!(payloads[2]["object"]["user_id"], 6);
    // The creator was reported by a notification, so the file's value without a time does not count.
    assert_eq!(
        payloads[2]["changes"],
        json!({
            "user_id": {"old": 5, "new": 6},
            "expires_at": {"old": at(1000).to_string(), "new": at(2000).to_string()},
        })
    );
}

async fn exports_pages_in_order(fixture: &Fixture) {
    let store = fixture.open().await;
    let images: Vec<ImportedImage> = (1..=7)
        .map(|number| ImportedImage {
            id: Some(Uuid::from_u128(8 - number)),
            ..image(&number.to_string())
        })
        .collect();
    import(&store, &images, 100).await;

    let all = export(&store, 3).await;

    let ids: Vec<String> = all
        .iter()
        .map(|exported| exported.image.cloudflare_id.to_string())
        .collect();
    assert_eq!(ids, ["7", "6", "5", "4", "3", "2", "1"]);
    assert_eq!(export(&store, 7).await.len(), 7);
    assert_eq!(export(&store, 100).await.len(), 7);
}

async fn ends_page_of_large_images_early(fixture: &Fixture) {
    let store = fixture.open().await;
    let metadata = json_of(&format!(r#"{{"a":"{}"}}"#, "x".repeat(3 * 1024 * 1024)));
    for id in ["a", "b", "c"] {
        let mut large = image(id);
        large.app_columns.metadata = Some(metadata.clone());
        import(&store, &[large], 100).await;
    }

    let page = store.image_transfer.export_page(None, 100).await;
    let page = page.expect("the query succeeds");

    assert_eq!(page.images.len(), 2);
    let last = store.image_transfer.export_page(page.next.as_ref(), 100);
    let last = last.await.expect("the query succeeds");
    assert_eq!((last.images.len(), last.next), (1, None));
}

async fn names_row_with_invalid_app_column(fixture: &Fixture) {
    let store = fixture.open().await;
    fixture.database.register("a").await;
    let invalid = "UPDATE cloudflare_images SET last_referenced_at = 'infinity'";
    fixture.database.execute_script(invalid).await;

    let result = store.image_transfer.export_page(None, 100).await;

    let error = result.expect_err("the time is invalid").to_string();
    let ids = "SELECT CAST(id AS text) FROM cloudflare_images";
    let id = fixture.database.texts(ids).await.remove(0);
    let expected = format!("cloudflare_images.last_referenced_at of row {id} ");
    assert!(error.starts_with(&expected), "{error}");
}

async fn import(store: &Store, images: &[ImportedImage], seconds: i64) -> Vec<ImportEffect> {
    let importing = store.image_transfer.import(images, at(seconds)).await;
    importing.expect("the batch is imported")
}

/// Returns all images, read in pages of this size.
async fn export(store: &Store, limit: u32) -> Vec<ExportedImage> {
    let (mut images, mut position) = (Vec::new(), None);
    loop {
        let page = store.image_transfer.export_page(position.as_ref(), limit);
        let page = page.await.expect("the query succeeds");
        images.extend(page.images);
        position = page.next;
        if position.is_none() {
            return images;
        }
    }
}
