//! Test support: databases, the service, clients, subscribers and the contents of tables.

pub(crate) mod app;
pub(crate) mod certificates;
pub(crate) mod cloudflare;
pub(crate) mod cluster;
pub(crate) mod database;
#[expect(unreachable_pub, reason = "the fuzzer has it in a library")]
#[path = "../../fuzz/src/config.rs"]
pub(crate) mod fuzz_config;
#[expect(unreachable_pub, reason = "the fuzzer has it in a library")]
#[path = "../../fuzz/src/database_url.rs"]
pub(crate) mod fuzz_database_url;
#[expect(unreachable_pub, reason = "the fuzzer has it in a library")]
#[path = "../../fuzz/src/headers.rs"]
pub(crate) mod fuzz_headers;
#[expect(unreachable_pub, reason = "the fuzzer has it in a library")]
#[path = "../../fuzz/src/message.rs"]
pub(crate) mod fuzz_message;
#[expect(unreachable_pub, reason = "the fuzzer has it in a library")]
#[path = "../../fuzz/src/nesting.rs"]
pub(crate) mod fuzz_nesting;
#[expect(unreachable_pub, reason = "the fuzzer has it in a library")]
#[path = "../../fuzz/src/secrets.rs"]
pub(crate) mod fuzz_secrets;
#[expect(unreachable_pub, reason = "the fuzzer has it in a library")]
#[path = "../../fuzz/src/webhook.rs"]
pub(crate) mod fuzz_webhook;
// `fuzz_headers` uses it by its name in the fuzzer.
use fuzz_webhook as webhook;
pub(crate) mod header_flood;
pub(crate) mod inbox;
pub(crate) mod mutation;
pub(crate) mod nats;
pub(crate) mod nats_accounts;
pub(crate) mod outbound_proxies;
pub(crate) mod plain_user;
pub(crate) mod pooler;
pub(crate) mod ports;
pub(crate) mod program;
pub(crate) mod proxy;
pub(crate) mod signing;
pub(crate) mod subscriber;
pub(crate) mod suppression;
pub(crate) mod token_server;
pub(crate) mod transfer;
pub(crate) mod wait;

/// Reads an environment variable of the test run.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where the tests read environment variables"
)]
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Defines two tests for each listed function: `name::on_sqlite` and `name::on_postgres`.
///
/// The functions are outside the macro, because rustfmt does not format the body of a macro. The
/// compiler reports an unlisted function as dead code.
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
