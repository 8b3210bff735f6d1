//! This suite runs every SQL statement of the store.
//!
//! sqlx logs each statement after it ran, in the span of its caller. The span separates the
//! statements of this test from those of concurrent tests.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, Once};

use tracing::field::{Field, Visit};
use tracing::{Event, Instrument, Metadata, Span, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use crate::fixture::Backend;
use crate::{
    catalog, deliveries, diagnostics, inbox, lookups, ordering, outbox, pauses, rejection_catalog,
    rejections, retention, schema, suppression, transfer, upload_requests,
};

mod every_statement_runs {
    use crate::fixture::Backend;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn on_sqlite() {
        super::every_statement_runs(Backend::Sqlite).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn on_postgres() {
        super::every_statement_runs(Backend::Postgres).await;
    }
}

async fn every_statement_runs(backend: Backend) {
    start_recording();
    let statements = statements_of_sources(backend);
    let span = span(backend);

    run_all(backend).instrument(span.clone()).await;

    let recorded = statements_in(&span);
    let missing: Vec<_> = statements
        .iter()
        .filter(|statement| !recorded.iter().any(|sql| sql.starts_with(*statement)))
        .collect();
    assert!(
        missing.is_empty(),
        "no test runs these statements on {backend:?}: {missing:#?}"
    );
}

async fn run_all(backend: Backend) {
    inbox::run_all(backend).await;
    rejections::run_all(backend).await;
    rejection_catalog::run_all(backend).await;
    outbox::run_all(backend).await;
    ordering::run_all(backend).await;
    pauses::run_all(backend).await;
    deliveries::run_all(backend).await;
    diagnostics::run_all(backend).await;
    catalog::run_all(backend).await;
    lookups::run_all(backend).await;
    retention::run_all(backend).await;
    schema::run_all(backend).await;
    suppression::run_all(backend).await;
    transfer::run_all(backend).await;
    upload_requests::run_all(backend).await;
}

/// Returns the start of each statement of a backend: its first string literal, with single spaces.
/// Each statement begins with a SQL comment that names it.
fn statements_of_sources(backend: Backend) -> Vec<String> {
    let backend_folder = match backend {
        Backend::Sqlite => "sqlite",
        Backend::Postgres | Backend::Pooler => "postgres",
    };
    let store = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store");
    let mut statements = Vec::new();
    for folder in ["shared", backend_folder] {
        let before = statements.len();
        for file in fs::read_dir(store.join(folder)).expect("a folder") {
            let code = fs::read_to_string(file.expect("a file").path()).expect("text");
            let literals = code.split("\"-- ").skip(1);
            statements.extend(literals.map(|text| {
                let (literal, _) = text.split_once('"').expect("the literal ends");
                in_single_spaces(&format!("-- {literal}"))
            }));
        }
        assert!(statements.len() > before + 15, "{folder} has statements");
    }
    statements
}

fn in_single_spaces(sql: &str) -> String {
    let words: Vec<_> = sql.split_whitespace().collect();
    words.join(" ")
}

/// Pairs of a span's name and a statement that ran in the span.
static RECORDED: Mutex<BTreeSet<(&str, String)>> = Mutex::new(BTreeSet::new());

fn span(backend: Backend) -> Span {
    match backend {
        Backend::Sqlite => tracing::info_span!("conformance_on_sqlite"),
        Backend::Postgres | Backend::Pooler => tracing::info_span!("conformance_on_postgres"),
    }
}

fn statements_in(span: &Span) -> Vec<String> {
    let name = span.metadata().expect("the span is enabled").name();
    let recorded = RECORDED.lock().expect("no panic");
    let in_span = recorded.iter().filter(|(span, _)| *span == name);
    in_span.map(|(_, sql)| sql.clone()).collect()
}

fn start_recording() {
    static STARTED: Once = Once::new();

    STARTED.call_once(|| {
        let subscriber = tracing_subscriber::registry().with(StatementRecorder);
        tracing::subscriber::set_global_default(subscriber).expect("no other subscriber is set");
    });
}

/// Records the statements that run inside a span.
struct StatementRecorder;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for StatementRecorder {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.is_span() || metadata.target() == "sqlx::query"
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let Some(scope) = context.event_scope(event) else {
            return;
        };
        let mut statement = Statement(None);
        event.record(&mut statement);
        let Some(sql) = statement.0 else {
            return;
        };
        let mut recorded = RECORDED.lock().expect("no panic");
        recorded.extend(scope.map(|span| (span.metadata().name(), sql.clone())));
    }
}

/// The statement in an event of sqlx.
struct Statement(Option<String>);

impl Visit for Statement {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "db.statement" {
            self.0 = Some(in_single_spaces(value));
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}
