//! `upload-url`: an upload URL of Cloudflare, and the row of its image.

use std::process::Output;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::on_both_databases;
use crate::support::cloudflare::{ApiFault, Cloudflare};
use crate::support::database::Database;
use crate::support::program::{run, stderr, stdout};

on_both_databases!(
    creates_url_and_row,
    passes_id_metadata_and_creator_on,
    cloudflare_makes_id_for_signed_urls,
    refused_upload_leaves_no_row,
    lost_answer_leaves_pending_row,
    existing_id_is_refused,
);

/// Cloudflare, and the database of a service.
struct Setup {
    cloudflare: Cloudflare,
    database: Database,
    folder: TempDir,
}

impl Setup {
    async fn start(database: Database) -> Self {
        Self {
            cloudflare: Cloudflare::start().await,
            database,
            folder: TempDir::new().expect("a folder"),
        }
    }

    async fn run(&self, further: &[&str]) -> Output {
        let mut arguments = vec!["upload-url".to_owned(), "--json".to_owned()];
        arguments.extend(further.iter().map(|text| (*text).to_owned()));
        let mut variables = vec![("DATABASE_URL", self.database.url.clone())];
        variables.extend(self.cloudflare.variables());
        let folder = self.folder.path().to_owned();
        let running = tokio::task::spawn_blocking(move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let variables: Vec<(&str, &str)> = variables
                .iter()
                .map(|(name, value)| (*name, &**value))
                .collect();
            run(&folder, &arguments, &variables)
        });
        running.await.expect("it ends")
    }

    /// Returns the number of rows.
    async fn images(&self) -> i64 {
        self.database
            .count("SELECT count(*) FROM cloudflare_images")
            .await
    }
}

fn view(output: &Output) -> Value {
    assert!(output.status.success(), "{}", stderr(output));
    serde_json::from_str(&stdout(output)).expect("JSON")
}

async fn creates_url_and_row(database: Database) {
    let setup = Setup::start(database).await;

    let view = view(
        &setup
            .run(&["--filename", "cat.jpg", "--expiry-minutes", "2"])
            .await,
    );

    let id = view["id"].as_str().expect("an id");
    assert_eq!(setup.cloudflare.image_ids(), [id]);
    let row = setup.database.image(id).await;
    assert_eq!(row["status"], "pending");
    assert_eq!(row["filename"], "cat.jpg");
    assert_eq!(row["upload_url"], view["upload_url"]);
    assert_eq!(row["expires_at"], view["expires_at"]);
}

async fn passes_id_metadata_and_creator_on(database: Database) {
    let setup = Setup::start(database).await;
    let id = "users/7/größe 100%.jpg\"\r\n--x".replace(['\r', '\n'], "");
    let metadata = r#"{"album":"A \"quoted\" name"}"#;

    let view = view(
        &setup
            .run(&["--id", &id, "--metadata", metadata, "--creator", "user 7"])
            .await,
    );

    assert_eq!(view["id"], *id);
    let image = setup.cloudflare.image(&id).expect("it exists");
    assert!(image.is_draft);
    assert_eq!(image.metadata, Some(json!({"album": "A \"quoted\" name"})));
    assert_eq!(image.creator.as_deref(), Some("user 7"));
    assert_eq!(setup.database.image(&id).await["creator"], "user 7");
}

async fn cloudflare_makes_id_for_signed_urls(database: Database) {
    let setup = Setup::start(database).await;

    let view = view(&setup.run(&["--require-signed-urls"]).await);

    let id = view["id"].as_str().expect("an id");
    assert_eq!(id, "made-by-cloudflare-1");
    let image = setup.cloudflare.image(id).expect("it exists");
    assert!(image.require_signed_urls);
    let row = setup.database.image(id).await;
    assert_eq!(row["status"], "pending");
    assert_eq!(row["upload_url"], view["upload_url"]);
}

async fn refused_upload_leaves_no_row(database: Database) {
    let setup = Setup::start(database).await;
    setup.cloudflare.add_image("taken", false);
    for (fault, arguments, expected) in [
        (
            Some(ApiFault::Error(403, 10000, "Authentication error")),
            &[][..],
            "has no permission",
        ),
        (
            None,
            &["--id", "taken"],
            "Cloudflare already has this id (5409",
        ),
        // It is the last one, because all processes then make no call for a while.
        (
            Some(ApiFault::TooManyCalls(Some(60))),
            &[],
            "try again in 60 seconds",
        ),
    ] {
        setup.cloudflare.fail_always(fault);

        let output = setup.run(arguments).await;

        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
        assert_eq!(setup.images().await, 0, "{expected}");
    }
}

/// Cloudflare may have the image, so its row must stay. The request is not repeated, because it could create two images.
async fn lost_answer_leaves_pending_row(database: Database) {
    let setup = Setup::start(database).await;
    setup.cloudflare.fail_next(ApiFault::LostAnswer);

    let output = setup.run(&[]).await;

    assert_eq!(output.status.code(), Some(1));
    let ids = setup.cloudflare.image_ids();
    assert_eq!(ids.len(), 1);
    assert_eq!(setup.database.image(&ids[0]).await["status"], "pending");
    assert_eq!(setup.cloudflare.calls().len(), 1);
}

async fn existing_id_is_refused(database: Database) {
    let setup = Setup::start(database).await;
    view(&setup.run(&["--id", "mine"]).await);
    let before = setup.database.image("mine").await;

    let output = setup.run(&["--id", "mine"]).await;

    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("is already registered"),
        "{}",
        stderr(&output)
    );
    assert_eq!(setup.database.image("mine").await, before);
    assert_eq!(setup.cloudflare.calls().len(), 1, "Cloudflare is not asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_arguments_are_named() {
    let setup = Setup::start(Database::sqlite()).await;
    let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(1024));
    for (arguments, expected) in [
        (
            &["--metadata", "[]"][..],
            "--metadata must be a JSON object",
        ),
        (&["--metadata", &long], "at most 1024 bytes of metadata"),
        (&["--expiry-minutes", "1"], "2..=360"),
        (&["--id", "", "--filename", "x"], "the id must be text"),
        (
            &["--id", "x", "--require-signed-urls"],
            "cannot be used with",
        ),
        (
            &["--id", "01890a5d-ac96-774b-bcce-b302099a8057"],
            "accepts no id that is a UUID",
        ),
        (&["--id", "users/7/"], "slash at its beginning or its end"),
    ] {
        let output = setup.run(arguments).await;

        assert_ne!(output.status.code(), Some(0));
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
    assert_eq!(setup.cloudflare.calls(), Vec::<String>::new());
}
