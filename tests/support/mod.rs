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

/// Runs one sentence of the specification on both databases.
///
/// ```ignore
/// on_both_databases! {
///     async fn a_redelivery_changes_nothing(database) { … }
/// }
/// ```
#[macro_export]
macro_rules! on_both_databases {
    ($($(#[$attribute:meta])* async fn $sentence:ident($database:ident) $body:block)*) => {
        $(
            $(#[$attribute])*
            mod $sentence {
                use super::*;

                async fn holds($database: $crate::support::database::Database) $body

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn on_sqlite() {
                    holds($crate::support::database::Database::sqlite()).await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn on_postgres() {
                    holds($crate::support::database::Database::postgres().await).await;
                }
            }
        )*
    };
}
