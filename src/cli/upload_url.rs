//! `upload-url`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::cloudflare::client;
use super::database::{OpenMode, with_store};
use super::images::parse_id;
use super::output::print_view;
use crate::application::Context;
use crate::application::images::parse_metadata;
use crate::application::uploads::{self, Caller, UploadRequest};
use crate::config::Loaded;

/// The options of `upload-url`.
#[derive(Debug, Args)]
pub(super) struct UploadUrl {
    /// Id of the image [default: a new one]
    #[arg(long)]
    id: Option<String>,
    /// Name of the file, for the row
    #[arg(long, default_value = "")]
    filename: String,
    /// User who uploads the image
    #[arg(long, default_value = "")]
    creator: String,
    /// Metadata of the app, as a JSON object of at most 1024 bytes
    #[arg(long, default_value = "{}", value_name = "JSON")]
    metadata: String,
    /// Minutes for which the URL works, 2 to 360
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(2..=360))]
    expiry_minutes: u32,
    /// Show the image only with signed URLs; Cloudflare then makes the id
    #[arg(long, conflicts_with = "id")]
    require_signed_urls: bool,
    /// JSON object instead of a table
    #[arg(long)]
    json: bool,
}

impl UploadUrl {
    pub(super) async fn run(self, loaded: &Loaded) -> anyhow::Result<ExitCode> {
        let client = client(loaded)?;
        let request = UploadRequest {
            id: self.id.as_deref().map(parse_id).transpose()?,
            filename: self.filename,
            creator: self.creator,
            metadata: parse_metadata(&self.metadata)
                .map_err(|error| anyhow!("--metadata {error}"))?,
            valid_for: Duration::from_mins(self.expiry_minutes.into()),
            require_signed_urls: self.require_signed_urls,
        };
        let create = async |context: &Context| {
            let cutoff = CancellationToken::new();
            let caller = Caller::new(context, &client, &cutoff);
            let upload = uploads::create(&caller, request).await?;
            print_view(&upload, self.json)
        };
        with_store(loaded, OpenMode::Create, create).await?;
        Ok(ExitCode::SUCCESS)
    }
}
