//! Notifications that do not say which image they are about, or what became of it.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::on_both_databases;
use crate::support::app::{TestResponse, client, response_to};
use crate::support::cloudflare::Cloudflare;
use crate::support::database::Database;
use crate::support::program::{Service, run, stderr};
use crate::support::wait;

on_both_databases!(
    string_in_data_identifies_image,
    word_of_text_identifies_image,
    text_alone_identifies_image,
    unknown_word_is_looked_up,
    words_for_failure_need_no_lookup,
    several_matches_are_refused,
    no_match_is_refused,
    settled_image_is_duplicate,
    expired_image_is_looked_up,
    named_image_waits_for_its_row,
    without_account_body_is_refused,
    without_secret_nothing_is_looked_up,
    reprocessing_resolves_stored_notification,
);

/// The secret of the webhooks.
const SECRET: &str = "a-secret-of-the-tests-0123456789";

/// A running service, and Cloudflare.
struct Setup {
    cloudflare: Cloudflare,
    database: Database,
    folder: TempDir,
    variables: Vec<(&'static str, String)>,
    service: Service,
}

impl Setup {
    /// Starts a service with an account at Cloudflare and a secret.
    async fn start(database: Database) -> Self {
        Self::start_with(database, true, true).await
    }

    async fn start_with(database: Database, has_account: bool, has_secret: bool) -> Self {
        let cloudflare = Cloudflare::start().await;
        let folder = TempDir::new().expect("a folder");
        let mut variables = vec![("DATABASE_URL", database.url.clone())];
        if has_account {
            variables.extend(cloudflare.variables());
        }
        if has_secret {
            variables.push(("CLOUDFLARE_WEBHOOK_SECRET", SECRET.to_owned()));
        }
        let mut service = Service::start(folder.path(), &as_strs(&variables));
        service.wait_until_ready();
        Self {
            cloudflare,
            database,
            folder,
            variables,
            service,
        }
    }

    async fn post(&self, body: &Value) -> TestResponse {
        let request = client().post(self.service.url());
        let request = request.header("cf-webhook-auth", SECRET);
        response_to(request.body(body.to_string())).await
    }

    /// Registers an image whose upload has ended at Cloudflare.
    async fn register_uploaded(&self, id: &str) {
        self.database.register(id).await;
        self.cloudflare.add_image(id, false);
    }

    async fn status(&self, id: &str) -> String {
        let row = self.database.image(id).await;
        row["status"].as_str().expect("a status").to_owned()
    }

    async fn wait_for_status(&self, id: &str, status: &str) {
        wait::until_async("the image is looked up", async || {
            self.status(id).await == status
        })
        .await;
    }

    async fn assert_is_resolved(&self, id: &str, body: &Value) {
        let answer = self.post(body).await;
        assert_eq!(answer.outcome(), (200, "accepted"), "{body}");
        self.wait_for_status(id, "uploaded").await;
        let types = self.database.log_types().await;
        assert_eq!(types, ["webhook_accepted", "reconciled"]);
    }

    async fn assert_is_refused(&self, body: &Value) {
        let answer = self.post(body).await;
        assert_eq!(answer.outcome(), (400, "invalid-payload"), "{body}");
        let rejections = self.database.rejections().await;
        let last = rejections.last().expect("a rejection");
        assert_eq!(last["reason"], "invalid-payload");
        assert!(self.cloudflare.calls().is_empty());
    }
}

fn as_strs<'a>(variables: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    let variables = variables.iter();
    variables.map(|(name, value)| (*name, &**value)).collect()
}

fn envelope(text: &str, data: &Value) -> Value {
    json!({
        "name": "Images", "text": text, "ts": 1_767_323_046, "account_id": "a",
        "alert_type": "image_notification", "data": data,
    })
}

async fn string_in_data_identifies_image(database: Database) {
    let setup = Setup::start(database).await;
    setup.register_uploaded("users/7/cat.jpg").await;
    let data = json!({"uploads": [{"key": "users/7/cat.jpg", "state": "other"}]});

    setup
        .assert_is_resolved("users/7/cat.jpg", &envelope("An image", &data))
        .await;
}

async fn word_of_text_identifies_image(database: Database) {
    let setup = Setup::start(database).await;
    setup.register_uploaded("cat-1").await;

    let body = envelope("The image \"cat-1\" was uploaded.", &json!({}));
    setup.assert_is_resolved("cat-1", &body).await;
}

async fn text_alone_identifies_image(database: Database) {
    let setup = Setup::start(database).await;
    setup.register_uploaded("cat-1").await;

    let body = json!({"text": "Image cat-1: upload finished"});
    setup.assert_is_resolved("cat-1", &body).await;
}

async fn unknown_word_is_looked_up(database: Database) {
    let setup = Setup::start(database).await;
    setup.register_uploaded("cat-1").await;
    let data = json!({"image": {"id": "cat-1", "status": "completed"}});

    setup
        .assert_is_resolved("cat-1", &envelope("An image", &data))
        .await;
}

async fn words_for_failure_need_no_lookup(database: Database) {
    let setup = Setup::start(database).await;
    for (id, image) in [
        ("a", json!({"id": "a", "status": "failed"})),
        (
            "b",
            json!({"id": "b", "status": "quarantined", "error": "bad content"}),
        ),
    ] {
        setup.database.register(id).await;
        let answer = setup.post(&envelope("t", &json!({"image": image}))).await;
        assert_eq!(answer.outcome(), (200, "applied"), "{id}");
        assert_eq!(setup.status(id).await, "failed");
    }
    assert!(setup.cloudflare.calls().is_empty());
}

async fn several_matches_are_refused(database: Database) {
    let setup = Setup::start(database).await;
    for id in ["cat-1", "cat-2"] {
        setup.register_uploaded(id).await;
    }

    let body = envelope("cat-1 replaces cat-2", &json!({}));
    setup.assert_is_refused(&body).await;
    assert_eq!(setup.status("cat-1").await, "pending");
}

async fn no_match_is_refused(database: Database) {
    let setup = Setup::start(database).await;
    setup.register_uploaded("cat-1").await;

    for body in [
        envelope("Something happened", &json!({"x": ["dog-1", 7, null]})),
        json!({"text": "Something happened"}),
        json!({"text": ""}),
    ] {
        setup.assert_is_refused(&body).await;
    }
}

async fn settled_image_is_duplicate(database: Database) {
    let setup = Setup::start(database).await;
    setup.database.register("cat-1").await;
    let data = json!({"image": {"id": "cat-1", "status": "success"}});
    let uploaded = setup.post(&envelope("t", &data)).await;
    assert_eq!(uploaded.outcome(), (200, "applied"));

    let answer = setup.post(&envelope("cat-1 is there", &json!({}))).await;

    assert_eq!(answer.outcome(), (200, "duplicate"));
    assert!(setup.cloudflare.calls().is_empty());
}

async fn expired_image_is_looked_up(database: Database) {
    let setup = Setup::start(database).await;
    setup.register_uploaded("cat-1").await;
    let expire = "UPDATE cloudflare_images SET status = 'expired'";
    setup.database.execute_script(expire).await;

    let body = envelope("cat-1 is there", &json!({}));
    setup.assert_is_resolved("cat-1", &body).await;
}

async fn named_image_waits_for_its_row(database: Database) {
    let setup = Setup::start(database).await;
    let body = envelope(
        "t",
        &json!({"image": {"id": "cat-1", "status": "completed"}}),
    );

    let answer = setup.post(&body).await;
    assert_eq!(answer.outcome(), (404, "unknown-image"));
    setup.register_uploaded("cat-1").await;

    setup.wait_for_status("cat-1", "uploaded").await;
    let rejections = setup.database.rejections().await;
    assert_eq!(rejections[0]["state"], "applied");
    assert_eq!(rejections[0]["outcome"], "accepted");
}

async fn without_account_body_is_refused(database: Database) {
    let setup = Setup::start_with(database, false, true).await;
    setup.register_uploaded("cat-1").await;

    setup
        .assert_is_refused(&envelope("cat-1 is there", &json!({})))
        .await;
    setup
        .assert_is_refused(&json!({"text": "cat-1 is there"}))
        .await;
    wait::until("the log says what to set", || {
        let log = setup.service.log().join("\n");
        log.contains("set cloudflare.account_id and cloudflare.api_token")
    });
    let data = json!({"image": {"id": "cat-1", "status": "completed"}});
    let answer = setup.post(&envelope("t", &data)).await;
    assert_eq!(answer.outcome(), (200, "applied"));
    assert_eq!(setup.status("cat-1").await, "failed");
}

async fn without_secret_nothing_is_looked_up(database: Database) {
    let setup = Setup::start_with(database, true, false).await;
    setup.register_uploaded("cat-1").await;

    setup
        .assert_is_refused(&envelope("cat-1 is there", &json!({})))
        .await;
}

async fn reprocessing_resolves_stored_notification(database: Database) {
    let mut setup = Setup::start_with(database, false, true).await;
    setup.register_uploaded("cat-1").await;
    setup
        .assert_is_refused(&envelope("cat-1 is there", &json!({})))
        .await;
    setup.variables.extend(setup.cloudflare.variables());
    let (folder, variables) = (setup.folder.path().to_owned(), setup.variables.clone());
    let run = move |arguments: &[&str]| {
        let output = run(&folder, arguments, &as_strs(&variables));
        assert!(output.status.success(), "{}", stderr(&output));
    };

    tokio::task::spawn_blocking(move || run(&["rejections", "reprocess", "1"]))
        .await
        .expect("it ends");

    let types = setup.database.log_types().await;
    assert_eq!(types, ["webhook_accepted"]);
    let queued = "SELECT count(*) FROM cloudflare_image_lookups";
    assert_eq!(setup.database.count(queued).await, 1);
}
