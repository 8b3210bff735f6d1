//! The specification: what the service guarantees over HTTP and the wire, on both databases.

#![expect(
    clippy::too_many_lines,
    reason = "a test that is a table of cases is as long as the table"
)]

#[path = "../support/mod.rs"]
mod support;

#[path = "../faults/mod.rs"]
mod faults;

mod authentication;
mod certificates;
mod client_addresses;
mod cloudflare_setup;
mod command_line;
mod configuration;
mod connection_limits;
mod connection_poolers;
mod database_outages;
mod database_urls;
mod delivery_commands;
mod deployment;
mod django_adoption;
mod doctor;
mod endpoint_configuration;
mod failure_alerts;
mod fuzz_corpus;
mod group_commit;
mod health_endpoints;
mod http_responses;
mod idempotency_keys;
mod ignored_details;
mod image_deletion;
mod image_export;
mod image_import;
mod image_import_from_cloudflare;
mod image_transitions;
mod inbox_batches;
mod invalid_payloads;
mod jq_programs;
mod listeners;
mod log_outputs;
mod logs;
mod migrations;
mod nested_payloads;
mod oauth2_tokens;
mod outbound_proxy;
mod parked_notifications;
mod partitioned_log;
mod pasted_secrets;
mod payload_shapes;
mod postgres_notify;
mod query_plans;
mod rate_limits;
mod reconciliation;
mod rejection_log;
mod relay_circuit_breaker;
mod relay_delivery;
mod relay_nats;
mod relay_payloads;
mod relay_restarts;
mod relay_retries;
mod relay_signatures;
mod replica_clocks;
mod reprocessing;
mod request_limits;
mod retention;
mod shutdown;
mod sqlite_files;
mod suppressed_rows;
mod table_adoption;
mod unread_notifications;
mod upload_url_api;
mod upload_urls;
mod verify_command;
