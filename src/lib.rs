//! Receives Cloudflare Images webhooks, proves their sender, and writes each image's status into tables that any app can query.
//!
//! The modules, from the top down. An import goes only downwards, and never between modules of one line, but that `config` sums
//! up the settings of those below it; `tests/architecture.rs` holds this.
//!
//! ```text
//! main
//! cli          the commands
//! app          the composition root: run(loaded, clock, listeners, shutdown)
//! application  the actions of an operator, for every surface
//! config       the settings, from files and the environment        shutdown    signals, deadlines, exit codes
//! receiver     Cloudflare to us                                    ops         the platform to us
//! relay        us to other apps
//! retention    deletes what is old
//! store        the only place for SQL
//! web          what our HTTP surfaces share
//! telemetry    logging and counting                                clock       where the time comes from
//! random       random numbers and unique ids
//! signing      proofs that a sender knows a secret, checked and made
//! config_types the types of settings' values
//! events       events as other apps receive them
//! domain       the rules, pure
//! ```

pub mod app;
pub(crate) mod application;
pub mod cli;
pub mod clock;
pub mod config;
pub mod config_types;
pub mod domain;
pub(crate) mod events;
pub(crate) mod ops;
pub mod random;
pub mod receiver;
pub(crate) mod relay;
pub mod retention;
pub mod shutdown;
pub mod signing;
pub mod store;
pub mod telemetry;
pub mod web;
