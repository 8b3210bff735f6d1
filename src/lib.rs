//! Receives Cloudflare Images webhooks, proves their sender, and writes each image's status into tables that any app can query.

pub mod app;
pub mod clock;
pub mod config;
pub mod domain;
pub mod ops;
pub mod receiver;
pub mod setting;
pub mod shutdown;
pub mod store;
pub mod telemetry;
pub mod web;
