//! Receives Cloudflare Images webhooks, authenticates the sender, and writes the status of each image into tables. Any app can
//! query these tables.
//!
//! These are the modules, from top to bottom. A module imports only modules below it, and none on its own line. `config` also
//! combines the settings of the modules below it. `tests/architecture.rs` enforces this.
//!
//! ```text
//! main
//! cli          the commands
//! app          the composition root: run(loaded, clock, listeners, shutdown)
//! config       the settings, from files and the environment
//! api          the HTTP API for other programs                     shutdown    signals, deadlines, exit codes
//! application  the actions of an operator and of a client of the API
//! reconcile    looks up images at Cloudflare
//! receiver     receives webhooks from Cloudflare                   ops         probes and metrics
//! relay        delivers events to other apps
//! retention    deletes old rows
//! store        the tables; the only module with SQL
//! cloudflare   the client of Cloudflare's API
//! web          the common base of both HTTP listeners
//! outbound     the common base of connections to other servers
//! telemetry    logs and metrics                                    clock       the time
//! random       random numbers and unique ids
//! signing      authentication schemes: verifying and signing
//! config_types the types of the values of settings
//! events       the events that other apps receive
//! domain       the rules, without I/O
//! ```

pub mod api;
pub mod app;
pub(crate) mod application;
pub mod cli;
pub mod clock;
pub mod cloudflare;
pub mod config;
pub mod config_types;
pub mod domain;
pub(crate) mod events;
pub(crate) mod ops;
pub mod outbound;
pub mod random;
pub mod receiver;
pub mod reconcile;
pub mod relay;
pub mod retention;
pub mod shutdown;
pub mod signing;
pub mod store;
pub mod telemetry;
pub mod web;
