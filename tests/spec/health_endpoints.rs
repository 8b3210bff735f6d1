//! The ops listener: liveness and readiness.

use serde_json::json;

use crate::on_both_databases;
use crate::support::app::App;
use crate::support::database::Database;

on_both_databases!(
    migrated_service_is_live_and_ready,
    reports_missing_migrations,
    separates_webhook_and_ops_routes,
);

async fn migrated_service_is_live_and_ready(database: Database) {
    let app = App::start(database).await;

    let (liveness, readiness) = (app.get_ops("/livez").await, app.get_ops("/readyz").await);

    assert_eq!(
        (liveness.status.as_u16(), liveness.body),
        (200, json!("ok\n"))
    );
    assert_eq!(readiness.status, 200);
    assert_eq!(
        readiness.body,
        json!({"status": "ready", "database": {"ok": true}, "migrations": {"ok": true}})
    );
}

async fn reports_missing_migrations(database: Database) {
    let app = App::start_with(database, &[("APP__DATABASE__MIGRATE_ON_START", "false")]).await;

    let readiness = app.get_ops("/readyz").await;

    assert_eq!(readiness.status, 503);
    assert_eq!(
        (
            &readiness.body["status"],
            &readiness.body["database"]["ok"],
            &readiness.body["migrations"]["ok"]
        ),
        (&json!("not-ready"), &json!(true), &json!(false))
    );
    assert_eq!(
        readiness.body["migrations"]["problem"],
        "pending migrations: [1, 2, 3, 4, 5, 6, 7]; run `migrate`"
    );
}

async fn separates_webhook_and_ops_routes(database: Database) {
    let app = App::start(database).await;

    assert_eq!(
        app.get_ops(crate::support::app::PATH).await.outcome(),
        (404, "no-such-route")
    );
    assert_eq!(
        crate::support::app::response_to(app.client().get(format!("http://{}/livez", app.address)))
            .await
            .outcome(),
        (404, "no-such-route")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_names_missing_postgres_privilege() {
    let owner = App::start(Database::postgres_own_server().await).await;
    let database = &owner.database;
    // A Django toolkit's table may have a sequence of its own.
    database
        .execute_script(
            "CREATE ROLE app LOGIN;
             GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO app;
             ALTER TABLE cloudflare_image_logs ALTER id DROP IDENTITY;
             CREATE SEQUENCE log_ids OWNED BY cloudflare_image_logs.id;
             ALTER TABLE cloudflare_image_logs ALTER id SET DEFAULT nextval('log_ids');",
        )
        .await;
    let mut url = url::Url::parse(&database.url).expect("a URL");
    url.set_username("app").expect("it has a host");
    let limited = App::start_with(
        Database::at(url.as_str()),
        &[("APP__DATABASE__MIGRATE_ON_START", "false")],
    )
    .await;
    let problem = async || {
        let readiness = limited.get_ops("/readyz").await;
        let problem = readiness.body["database"]["problem"].as_str();
        (readiness.status.as_u16(), problem.map(ToOwned::to_owned))
    };

    let (status, sequence) = problem().await;
    assert_eq!(status, 503);
    let sequence = sequence.expect("a problem");
    let grant = "GRANT USAGE ON SEQUENCE public.log_ids TO app";
    assert!(sequence.contains(grant), "{sequence}");
    database.execute_script(grant).await;
    assert_eq!(problem().await, (200, None));

    for privilege in [
        "UPDATE ON cloudflare_images",
        "INSERT ON cloudflare_image_logs",
        "INSERT ON webhook_rejections",
        "UPDATE ON relay_deliveries",
    ] {
        database
            .execute_script(&format!("REVOKE {privilege} FROM app"))
            .await;
        let (status, missing) = problem().await;
        let missing = missing.expect("a problem");
        assert_eq!(status, 503, "{privilege}");
        assert!(
            missing.contains(&format!("GRANT {privilege} TO app")),
            "{missing}"
        );
        database
            .execute_script(&format!("GRANT {privilege} TO app"))
            .await;
    }
    // A privilege on the columns that the service writes is enough.
    database
        .execute_script(
            "REVOKE INSERT ON cloudflare_image_logs FROM app;
             GRANT INSERT (image_id, event_type, message, data, timestamp) ON cloudflare_image_logs TO app",
        )
        .await;
    assert_eq!(problem().await, (200, None));
}
