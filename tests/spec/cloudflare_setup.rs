//! `cloudflare setup`, `cloudflare status` and `cloudflare teardown`.

use std::collections::HashSet;
use std::process::Output;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::app::{client, response_to};
use crate::support::cloudflare::{ApiFault, Cloudflare, ListChange, TOKEN};
use crate::support::program::{Service, run, stderr, stdout};
use crate::support::signing::SECRET;

const NAME: &str = "cloudflare-images-webhook";

/// A service, and the Cloudflare that it uses.
struct Setup {
    cloudflare: Cloudflare,
    service: Service,
    folder: TempDir,
}

impl Setup {
    async fn start() -> Self {
        Self::start_with(&[("CLOUDFLARE_WEBHOOK_SECRET", SECRET)]).await
    }

    async fn start_with(variables: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().expect("a folder");
        Self {
            cloudflare: Cloudflare::start().await,
            service: Service::start(folder.path(), variables),
            folder,
        }
    }

    /// Runs a command with the secret of the service.
    async fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(arguments, &[("CLOUDFLARE_WEBHOOK_SECRET", SECRET)])
            .await
    }

    /// Runs a command with these variables, which win over those of Cloudflare.
    async fn run_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        let folder = self.folder.path().to_owned();
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        let mut all: Vec<(String, String)> = Vec::new();
        for (name, value) in self.cloudflare.variables() {
            all.push((name.to_owned(), value));
        }
        for (name, value) in variables {
            all.retain(|(known, _)| known != name);
            all.push(((*name).to_owned(), (*value).to_owned()));
        }
        let running = tokio::task::spawn_blocking(move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let all: Vec<(&str, &str)> = all.iter().map(|(n, v)| (&**n, &**v)).collect();
            run(&folder, &arguments, &all)
        });
        running.await.expect("it ends")
    }

    async fn set_up(&self, further: &[&str]) -> Output {
        let url = self.service.url();
        let mut arguments = vec!["cloudflare", "setup", "--url", &url];
        arguments.extend(further);
        self.run(&arguments).await
    }

    /// Returns the calls that change something.
    fn changes(&self) -> Vec<String> {
        let calls = self.cloudflare.calls().into_iter();
        calls.filter(|call| !call.starts_with("GET")).collect()
    }
}

/// Returns the printed lines without the warnings about the test's URL.
fn lines(output: &Output) -> Vec<String> {
    assert!(output.status.success(), "{}", stderr(output));
    let printed = stdout(output);
    let lines = printed.lines().filter(|line| !line.starts_with("warning:"));
    lines.map(str::to_owned).collect()
}

/// Returns the fields of an object that a user sees.
fn destination(object: &Value) -> (&str, &str) {
    let text = |name: &str| object[name].as_str().expect("text");
    (text("name"), text("url"))
}

#[tokio::test(flavor = "multi_thread")]
async fn setup_makes_cloudflare_send_webhooks() {
    let setup = Setup::start().await;
    setup.cloudflare.add_image("image-1", true);

    let printed = lines(&setup.set_up(&[]).await);

    let destinations = setup.cloudflare.destinations();
    let [only] = destinations.as_slice() else {
        panic!("{destinations:?}");
    };
    assert_eq!(destination(only), (NAME, &*setup.service.url()));
    let id = only["id"].as_str().expect("an id");
    assert_eq!(setup.cloudflare.secret_of(id).as_deref(), Some(SECRET));
    let policies = setup.cloudflare.policies();
    assert_eq!(policies.len(), 1);
    assert_eq!(policies[0]["alert_type"], "image_notification");
    assert_eq!(policies[0]["mechanisms"], json!({"webhooks": [{"id": id}]}));
    let policy_id = policies[0]["id"].as_str().expect("an id");
    assert_eq!(
        printed,
        [
            format!("created the webhook destination \"{NAME}\" ({id})"),
            format!("created the notification policy \"{NAME}\" ({policy_id})"),
            "Cloudflare sends the first secret of webhook.secrets".to_owned(),
        ]
    );
    // The image is unknown here, and the sender is proven.
    assert_eq!(setup.cloudflare.upload("image-1", "cat.jpg").await, [404]);
}

#[tokio::test(flavor = "multi_thread")]
async fn second_setup_sends_only_the_secret() {
    let setup = Setup::start().await;
    setup.set_up(&[]).await;
    let before = setup.changes().len();

    let printed = lines(&setup.set_up(&[]).await);

    assert!(
        printed[0].starts_with("updated the webhook destination"),
        "{printed:?}"
    );
    assert!(
        printed[1].starts_with("kept the notification policy"),
        "{printed:?}"
    );
    let changes = setup.changes().split_off(before);
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert!(
        changes[0].starts_with("PUT /alerting/v3/destinations/webhooks/"),
        "{changes:?}"
    );
    assert_eq!(setup.cloudflare.destinations().len(), 1);
    assert_eq!(setup.cloudflare.policies().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn dry_run_changes_nothing() {
    let setup = Setup::start().await;

    let printed = lines(&setup.set_up(&["--dry-run"]).await);

    assert_eq!(setup.changes(), Vec::<String>::new());
    assert_eq!(
        printed,
        [
            format!("would create the webhook destination \"{NAME}\""),
            format!("would create the notification policy \"{NAME}\""),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn setup_repairs_disabled_policy() {
    let setup = Setup::start().await;
    let id = setup
        .cloudflare
        .add_destination("by hand", &setup.service.url());
    let policy = setup.cloudflare.add_policy(json!({
        "name": "by hand", "enabled": false, "alert_type": "image_notification",
        "description": "my own", "filters": {}, "mechanisms": {"webhooks": [{"id": id}], "email": [{"id": "me@x.example"}]},
    }));

    let printed = lines(&setup.set_up(&[]).await);

    assert!(
        printed[1].starts_with("enabled the notification policy \"by hand\""),
        "{printed:?}"
    );
    let policies = setup.cloudflare.policies();
    assert_eq!(policies.len(), 1);
    assert_eq!(policies[0]["id"], *policy);
    assert_eq!(policies[0]["enabled"], true);
    assert_eq!(policies[0]["description"], "my own", "other fields stay");
    assert_eq!(policies[0]["mechanisms"]["email"][0]["id"], "me@x.example");
    // What a person made is not deleted as if `setup` had made it.
    assert_eq!(setup.cloudflare.destinations()[0]["name"], "by hand");
    let url = setup.service.url();
    let teardown = ["cloudflare", "teardown", "--url", &url, "--yes"];
    setup.run(&teardown).await;
    assert_eq!(setup.cloudflare.destinations().len(), 1);
    assert_eq!(setup.cloudflare.policies().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn setup_reads_lists_to_their_end() {
    let setup = Setup::start().await;
    for number in 0..7 {
        let url = format!("https://other-{number}.example/hook");
        setup.cloudflare.add_destination("other", &url);
    }
    setup
        .cloudflare
        .add_destination("mine", &setup.service.url());
    setup.cloudflare.paginate(3);

    let printed = lines(&setup.set_up(&[]).await);

    assert!(
        printed[0].starts_with("updated the webhook destination"),
        "{printed:?}"
    );
    assert_eq!(setup.cloudflare.destinations().len(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn setup_without_secret_prints_new_one() {
    let setup = Setup::start_with(&[]).await;
    let url = setup.service.url();
    let arguments = ["cloudflare", "setup", "--url", &url];

    let printed = lines(&setup.run_with(&arguments, &[]).await);

    let line = printed.last().expect("a line");
    let secret = line
        .strip_prefix("CLOUDFLARE_WEBHOOK_SECRET=")
        .expect("the secret");
    assert_eq!(secret.len(), 64);
    let id = setup.cloudflare.destinations()[0]["id"].clone();
    let id = id.as_str().expect("an id");
    assert_eq!(setup.cloudflare.secret_of(id).as_deref(), Some(secret));
}

/// Cloudflare saves a destination only if its URL accepts a test message.
#[tokio::test(flavor = "multi_thread")]
async fn unreachable_service_is_named() {
    let setup = Setup::start().await;
    let arguments = [
        "cloudflare",
        "setup",
        "--url",
        "http://127.0.0.1:9/cloudflare-images/api/webhook/",
    ];

    let output = setup.run(&arguments).await;

    assert_eq!(output.status.code(), Some(1));
    let error = stderr(&output);
    assert!(error.contains("did not accept the test message"), "{error}");
    assert_eq!(setup.cloudflare.policies(), Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_setups_leave_one_destination() {
    for _ in 0..5 {
        let setup = Setup::start().await;

        let (first, second) = tokio::join!(setup.set_up(&[]), setup.set_up(&[]));

        assert!(first.status.success(), "{}", stderr(&first));
        assert!(second.status.success(), "{}", stderr(&second));
        let destinations = setup.cloudflare.destinations();
        assert_eq!(destinations.len(), 1, "{destinations:?}");
        let policies = setup.cloudflare.policies();
        assert_eq!(policies.len(), 1, "{policies:?}");
        assert_eq!(
            policies[0]["mechanisms"],
            json!({"webhooks": [{"id": destinations[0]["id"]}]})
        );
    }
}

/// The other run creates its destination between this run's list and its creation. Whichever id is smaller, the first one stays.
#[tokio::test(flavor = "multi_thread")]
async fn first_destination_stays() {
    let setup = Setup::start().await;
    setup
        .cloudflare
        .change_after_page(ListChange::Add(setup.service.url()));

    let printed = lines(&setup.set_up(&[]).await);

    let destinations = setup.cloudflare.destinations();
    assert_eq!(destinations.len(), 1, "{printed:?}");
    assert_eq!(destinations[0]["name"], "new", "it keeps its name");
    let policies = setup.cloudflare.policies();
    assert_eq!(
        policies[0]["mechanisms"],
        json!({"webhooks": [{"id": destinations[0]["id"]}]})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_what_concerns_service() {
    let setup = Setup::start().await;
    setup.set_up(&[]).await;
    setup
        .cloudflare
        .add_destination("foreign", "https://other.example/hook");
    setup.cloudflare.add_policy(json!({
        "name": "certificates", "enabled": true, "alert_type": "universal_ssl_event_type", "mechanisms": {},
    }));

    let table = stdout(&setup.run(&["cloudflare", "status"]).await);
    let json = stdout(&setup.run(&["cloudflare", "status", "--json"]).await);

    assert!(table.contains(&setup.service.url()), "{table}");
    assert!(table.contains("never"), "{table}");
    assert!(!table.contains("other.example"), "{table}");
    assert!(!table.contains("certificates"), "{table}");
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["destinations"][0]["name"], NAME);
    assert_eq!(json["policies"][0]["enabled"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn teardown_deletes_only_what_setup_made() {
    let setup = Setup::start().await;
    setup.set_up(&[]).await;
    let id = setup.cloudflare.destinations()[0]["id"].clone();
    let foreign = setup
        .cloudflare
        .add_destination("by hand", &setup.service.url());
    setup.cloudflare.add_policy(json!({
        "name": "by hand", "enabled": true, "alert_type": "image_notification",
        "mechanisms": {"webhooks": [{"id": foreign}, {"id": id}]},
    }));
    let url = setup.service.url();
    let arguments = ["cloudflare", "teardown", "--url", &url];

    let asked = setup.run(&arguments).await;
    let output = setup.run(&[&arguments[..], &["--yes"]].concat()).await;

    assert_eq!(
        asked.status.code(),
        Some(1),
        "there is no terminal to ask on"
    );
    let printed = lines(&output);
    assert!(
        printed[0].starts_with("left the webhook destination \"by hand\""),
        "{printed:?}"
    );
    let names = |objects: Vec<Value>| {
        objects
            .iter()
            .map(|object| object["name"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(setup.cloudflare.destinations()), ["by hand"]);
    assert_eq!(names(setup.cloudflare.policies()), ["by hand"]);
    let again = lines(&setup.run(&[&arguments[..], &["--yes"]].concat()).await);
    assert_eq!(
        again.last().map(String::as_str),
        Some("there is nothing to delete.")
    );
}

/// Each error says what failed, and what to do. None has the token.
#[tokio::test(flavor = "multi_thread")]
async fn api_errors_say_what_to_do() {
    let setup = Setup::start().await;
    for (fault, expected) in [
        (
            ApiFault::Error(401, 10000, "Authentication error"),
            "check cloudflare.api_token (10000: Authentication error)",
        ),
        (
            ApiFault::Error(400, 6003, "Invalid request headers"),
            "Cloudflare refused the token",
        ),
        (
            ApiFault::Error(403, 9109, "Unauthorized to access requested resource"),
            "the token has no permission for this account",
        ),
        (
            ApiFault::Error(404, 7003, "Could not route"),
            "check cloudflare.account_id and cloudflare.base_url",
        ),
        (
            ApiFault::Error(400, 1234, "Bad \u{1b}[31mthing"),
            "Cloudflare refused the request (1234: Bad  [31mthing)",
        ),
        (
            ApiFault::Error(
                400,
                1234,
                "Your token token-of-the-tests-with-all-permissions",
            ),
            "(1234: Your token ***)",
        ),
        (
            ApiFault::Error(503, 1, "Maintenance"),
            "Cloudflare is not available: it answered 503 Service Unavailable (1: Maintenance)",
        ),
        (ApiFault::Html(502), "it answered 502 Bad Gateway"),
        (
            ApiFault::Html(200),
            "unexpected answer of Cloudflare: 200 OK without JSON",
        ),
        (
            ApiFault::FailedSuccess,
            "it answered 500 Internal Server Error",
        ),
        (
            ApiFault::TooManyCalls(Some(7)),
            "too many calls to Cloudflare; try again in 7 seconds",
        ),
        (ApiFault::TooManyCalls(None), "try again in 300 seconds"),
        (
            ApiFault::Redirect,
            "a redirect (302 Found); check cloudflare.base_url",
        ),
        (ApiFault::TruncatedJson, "200 OK without JSON"),
        (ApiFault::HugeJson, "it has more than 4194304 bytes"),
        (ApiFault::OtherResult, "the result has another form"),
        (ApiFault::NoAnswer, "no complete answer within 4 seconds"),
        (ApiFault::NoBody, "no complete answer within 4 seconds"),
        (ApiFault::LostAnswer, "Cloudflare is not available"),
    ] {
        setup.cloudflare.fail_always(Some(fault.clone()));

        let output = setup
            .run_with(
                &["cloudflare", "status"],
                &[("APP__CLOUDFLARE__TIMEOUT_SECS", "4")],
            )
            .await;

        let error = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{fault:?}: {error}");
        assert!(error.contains(expected), "{fault:?}: {error}");
        assert!(
            error.contains("listing the webhook destinations"),
            "{error}"
        );
        assert!(!error.contains(TOKEN), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn token_without_permission_is_named() {
    let setup = Setup::start().await;
    setup.cloudflare.forbid("/alerting/v3/policies");

    let output = setup.set_up(&[]).await;

    let error = stderr(&output);
    assert!(
        error.contains("listing the notification policies: the token has no permission"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_without_effect_are_repeated() {
    let setup = Setup::start().await;
    setup
        .cloudflare
        .fail_next(ApiFault::Error(503, 1, "Maintenance"));
    setup.cloudflare.fail_next(ApiFault::TooManyCalls(Some(1)));

    let output = setup.run(&["cloudflare", "status"]).await;

    assert!(output.status.success(), "{}", stderr(&output));
    let calls = setup.cloudflare.calls();
    assert_eq!(calls.len(), 4, "{calls:?}");
}

/// Other people change the account at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn lists_may_change_while_they_are_read() {
    let setup = Setup::start().await;
    let own = setup.service.url();
    setup.cloudflare.paginate(2);
    for (change, expected) in [
        (ListChange::Add(own.clone()), 5),
        (ListChange::Remove("other-0"), 4),
    ] {
        for number in 0..5 {
            let name = format!("other-{number}");
            setup.cloudflare.add_destination(&name, &own);
        }
        setup.cloudflare.change_after_page(change);

        let output = setup.run(&["cloudflare", "status", "--json"]).await;

        let status: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
        let found = status["destinations"].as_array().expect("a list");
        let ids: HashSet<_> = found.iter().map(|found| found["id"].to_string()).collect();
        assert_eq!(ids.len(), found.len(), "each one once: {found:?}");
        assert!(found.len() >= expected, "{found:?}");
        setup.cloudflare.clear_destinations();
    }
}

/// A repeated creation would leave two destinations. The next run finds what the first one made.
#[tokio::test(flavor = "multi_thread")]
async fn lost_answer_leaves_one_destination() {
    let setup = Setup::start().await;
    let post = reqwest::Method::POST;
    setup.cloudflare.fail_next_with(post, ApiFault::LostAnswer);

    let failed = setup.set_up(&[]).await;
    let repeated = lines(&setup.set_up(&[]).await);

    assert_eq!(failed.status.code(), Some(1));
    let error = stderr(&failed);
    assert!(
        error.contains("creating the webhook destination: Cloudflare is not available"),
        "{error}"
    );
    assert!(
        repeated[0].starts_with("updated the webhook destination"),
        "{repeated:?}"
    );
    assert_eq!(setup.cloudflare.destinations().len(), 1);
    assert_eq!(setup.cloudflare.policies().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_credentials_are_named() {
    let setup = Setup::start().await;
    let status = ["cloudflare", "status"];

    let neither = setup
        .run_with(
            &status,
            &[("CLOUDFLARE_ACCOUNT_ID", ""), ("CLOUDFLARE_API_TOKEN", "")],
        )
        .await;
    let no_token = setup
        .run_with(&status, &[("CLOUDFLARE_API_TOKEN", "")])
        .await;
    let no_account = setup
        .run_with(&status, &[("CLOUDFLARE_ACCOUNT_ID", "")])
        .await;
    let bad_account = setup
        .run_with(&status, &[("CLOUDFLARE_ACCOUNT_ID", "../me")])
        .await;

    assert_eq!(neither.status.code(), Some(1));
    assert!(stderr(&neither).contains("Set CLOUDFLARE_ACCOUNT_ID and CLOUDFLARE_API_TOKEN"));
    let plain = "http://api.cloudflare.com/client/v4";
    let no_https = setup
        .run_with(&status, &[("APP__CLOUDFLARE__BASE_URL", plain)])
        .await;
    for (output, key) in [
        (no_https, "cloudflare.base_url"),
        (no_token, "cloudflare.api_token"),
        (no_account, "cloudflare.account_id"),
        (bad_account, "cloudflare.account_id"),
    ] {
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(stderr(&output).contains(key), "{}", stderr(&output));
    }
    let wrong = setup
        .run_with(&status, &[("CLOUDFLARE_API_TOKEN", "wrong-token")])
        .await;
    assert!(
        stderr(&wrong).contains("Cloudflare refused the token"),
        "{}",
        stderr(&wrong)
    );
    assert!(!stderr(&wrong).contains("wrong-token"));
    let health = response_to(client().get(setup.service.ops_url("/readyz"))).await;
    assert_eq!(health.status, 200);
}
