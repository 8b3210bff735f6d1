//! What the tests share: real databases, the service itself, its senders, and what they find in the tables.

pub(crate) mod app;
pub(crate) mod cluster;
pub(crate) mod database;
#[expect(unreachable_pub, reason = "the fuzzer has it in a library")]
#[path = "../../fuzz/src/config.rs"]
pub(crate) mod fuzz_config;
#[expect(unreachable_pub, reason = "the fuzzer has it in a library")]
#[path = "../../fuzz/src/webhook.rs"]
pub(crate) mod fuzz_webhook;
pub(crate) mod inbox;
pub(crate) mod mutation;
pub(crate) mod nats;
pub(crate) mod program;
pub(crate) mod proxy;
pub(crate) mod signing;
pub(crate) mod subscriber;
pub(crate) mod token_server;
pub(crate) mod wait;

/// What whoever runs the tests has set.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where the tests read environment variables"
)]
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Makes two tests of each function that is listed: `name::on_sqlite` and `name::on_postgres`.
///
/// ```ignore
/// on_both_databases!(redelivery_changes_nothing, late_draft_is_stale);
///
/// async fn redelivery_changes_nothing(database: Database) { … }
///
/// async fn late_draft_is_stale(database: Database) { … }
/// ```
///
/// The functions stand outside the macro because rustfmt does not format what is inside. The compiler reports a function that is
/// not listed as dead code.
#[macro_export]
macro_rules! on_both_databases {
    ($($name:ident),+ $(,)?) => {
        $(
            mod $name {
                use $crate::support::database::Database;

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn on_sqlite() {
                    super::$name(Database::sqlite()).await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn on_postgres() {
                    super::$name(Database::postgres().await).await;
                }
            }
        )+
    };
}
