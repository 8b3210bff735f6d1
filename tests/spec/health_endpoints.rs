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
        "pending migrations: [1, 2, 3, 4]; run `migrate`"
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
