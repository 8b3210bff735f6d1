//! The checks of the database. They never create it, and never migrate its tables.

use super::activity;
use super::check::{Check, CheckName, skipped};
use super::installation::Installation;
use super::limits::Limits;
use crate::store::{DatabaseUrl, Pooling, Store};

const AFTER_DATABASE: [CheckName; 3] = [
    CheckName::Tables,
    CheckName::DatabaseWrite,
    CheckName::ConnectionPooler,
];

pub(super) async fn check(installation: &Installation<'_>, limits: Limits) -> Vec<Check> {
    let database = &installation.database.url;
    if let DatabaseUrl::Sqlite(url) = database
        && !url.path.exists()
    {
        let missing = Check::error(
            CheckName::Database,
            format!("there is no database at {}", url.path.display()),
            "Start the service, or run `migrate`: both create it. If it is elsewhere, set database.url (DATABASE_URL).",
        );
        return without_database(missing);
    }
    let opening = Store::open(
        installation.database,
        installation.webhook.unknown_images(),
        installation.subscriptions.clone(),
    );
    let store = match limits.run(opening).await {
        Ok(store) => store,
        Err(problem) => return without_database(unreachable(problem)),
    };
    let checks = check_store(&store, installation, limits).await;
    let closing = async {
        store.close().await;
        Ok::<_, std::convert::Infallible>(())
    };
    // The process ends anyway.
    let _unclosed = limits.run(closing).await;
    checks
}

fn unreachable(problem: String) -> Check {
    Check::error(
        CheckName::Database,
        problem,
        "Check database.url (DATABASE_URL), and that the database runs.",
    )
}

fn without_database(failed: Check) -> Vec<Check> {
    let mut checks = vec![failed];
    let reason = "the database cannot be used";
    checks.extend(skipped(AFTER_DATABASE, reason));
    checks.extend(skipped(activity::NAMES, reason));
    checks
}

async fn check_store(store: &Store, installation: &Installation<'_>, limits: Limits) -> Vec<Check> {
    let pending = match limits.run(store.schema.pending()).await {
        Ok(pending) => pending,
        Err(problem) => return without_database(unreachable(problem)),
    };
    let is_current = pending.is_empty();
    let reachable = format!("{:?} answers", installation.database.url);
    let mut checks = vec![
        Check::ok(CheckName::Database, reachable),
        judge_tables(&pending),
        check_writable(store, is_current, limits).await,
        check_pooler(store, limits).await,
    ];
    if is_current {
        let activity = Box::pin(activity::check(store, installation, limits));
        checks.extend(activity.await);
    } else {
        checks.extend(skipped(activity::NAMES, "the tables are not up to date"));
    }
    checks
}

fn judge_tables(pending: &[i64]) -> Check {
    if pending.is_empty() {
        return Check::ok(CheckName::Tables, "all migrations have run");
    }
    Check::error(
        CheckName::Tables,
        format!("pending migrations: {pending:?}"),
        "Run `migrate`, or start this version of the service with database.migrate_on_start.",
    )
}

/// Also tries an entry of the audit log, and rolls it back.
async fn check_writable(store: &Store, is_current: bool, limits: Limits) -> Check {
    let name = CheckName::DatabaseWrite;
    let failed = |problem: String| {
        Check::error(
            name,
            problem,
            "Check the permissions of the file or the user, and on Postgres default_transaction_read_only.",
        )
    };
    if let Err(problem) = limits.run(store.schema.check_writable()).await {
        return failed(problem);
    }
    if !is_current {
        return Check::ok(name, "the database can be written");
    }
    match limits.run(store.schema.try_audit_log()).await {
        Ok(()) => Check::ok(name, "the audit log can be written"),
        Err(problem) => failed(problem),
    }
}

async fn check_pooler(store: &Store, limits: Limits) -> Check {
    let name = CheckName::ConnectionPooler;
    let unclear = |found: String| {
        Check::warning(
            name,
            found,
            "Set database.pooler to none, session or transaction.",
        )
    };
    match limits.run(store.pooling()).await {
        Ok(Pooling::Absent) => Check::ok(name, "SQLite needs none"),
        Ok(Pooling::Session) => Check::ok(name, "each connection has a server session of its own"),
        Ok(Pooling::Transaction) => Check::ok(
            name,
            "a pooler shares server sessions between transactions; statements are not prepared in advance",
        ),
        Ok(Pooling::Unclear) => {
            unclear("it cannot be detected whether a pooler shares server sessions".to_owned())
        }
        Err(problem) => unclear(problem),
    }
}
