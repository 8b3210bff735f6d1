//! The product's specification: what it promises, through HTTP and the wire, on both databases.

#![expect(
    clippy::too_many_lines,
    reason = "a test that is a table of cases is as long as the table"
)]

#[path = "../support/mod.rs"]
mod support;

#[path = "../faults/mod.rs"]
mod faults;

mod admitting;
mod adopting_djangos_tables;
mod answering;
mod coming_too_early;
mod commands;
mod configuring;
mod configuring_endpoints;
mod deleting_images;
mod failing_to_tell;
mod fetching_tokens;
mod growing;
mod keeping_what_is_refused;
mod limiting_requests;
mod listening_on_postgres;
mod logging;
mod looking_after_deliveries;
mod losing_the_database;
mod migrating;
mod moving_images_forward;
mod probing;
mod proving_the_sender;
mod reading_the_four_shapes;
mod recording_batches;
mod refusing_bad_bodies;
mod reprocessing;
mod retaining;
mod sharing_commits;
mod signing_messages;
mod stopping;
mod streaming_to_nats;
mod surviving_any_input;
mod telling_other_apps;
mod verifying;
