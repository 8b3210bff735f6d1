//! The listener for the platform.

use serde_json::json;

use crate::on_both_databases;
use crate::support::app::App;
use crate::support::database::Database;

on_both_databases!(
    a_service_whose_database_is_up_to_date_is_live_and_ready,
    a_database_that_was_not_migrated_is_said_to_be_so,
    webhooks_are_not_received_where_the_platform_asks_nor_the_other_way_round,
);

async fn a_service_whose_database_is_up_to_date_is_live_and_ready(database: Database) {
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

async fn a_database_that_was_not_migrated_is_said_to_be_so(database: Database) {
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
        "these have not run: [1, 2, 3, 4]; run `migrate`"
    );
}

async fn webhooks_are_not_received_where_the_platform_asks_nor_the_other_way_round(
    database: Database,
) {
    let app = App::start(database).await;

    assert_eq!(
        app.get_ops(crate::support::app::PATH).await.outcome(),
        (404, "no-such-route")
    );
    assert_eq!(
        crate::support::app::answer(app.client().get(format!("http://{}/livez", app.address)))
            .await
            .outcome(),
        (404, "no-such-route")
    );
}
