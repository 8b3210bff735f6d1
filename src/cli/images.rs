//! `images add`, `images delete`, `images show`, `images list`: the table of images, for people and for programs.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Subcommand;

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::output::{format_time, print_line, table};
use super::{open_existing_store, open_store, require_tables};
use crate::clock::{Clock, SystemClock};
use crate::config::{Loaded, Settings};
use crate::domain::id::CloudflareId;
use crate::domain::image::{Image, NewImage, Status};
use crate::domain::json::Json;
use crate::receiver::Parking;
use crate::setting::Switch;
use crate::store::{DeleteOutcome, InsertOutcome, Store};

#[derive(Debug, Subcommand)]
pub(super) enum Images {
    /// Register an upload, as an app does when it has made the upload URL
    Add(Add),
    /// Delete an image's row; its entries in the audit trail stay, and what Cloudflare has of it, too
    Delete {
        /// Cloudflare's id of the image
        id: String,
    },
    /// Show one image
    Show {
        /// Cloudflare's id of the image
        id: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List the images that were changed last
    List {
        /// Only those of this status: pending, draft, uploaded, failed or expired
        #[arg(long)]
        status: Option<Status>,
        /// How many at most
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Add {
    /// Cloudflare's id of the image
    id: String,
    /// The file's name
    #[arg(long, default_value = "")]
    filename: String,
    /// Who uploads it
    #[arg(long, default_value = "")]
    creator: String,
    /// The app's own metadata, a JSON object
    #[arg(long, default_value = "{}", value_name = "JSON")]
    metadata: String,
}

impl Images {
    pub(super) async fn run(self, loaded: &Loaded) -> anyhow::Result<ExitCode> {
        let store = match self {
            Self::Add(_) => open_store(loaded).await?,
            Self::Delete { .. } | Self::Show { .. } | Self::List { .. } => {
                open_existing_store(loaded).await?
            }
        };
        let result = match self {
            Self::Add(image) => add(&store, image.parse()?, &loaded.settings).await,
            Self::Delete { id } => delete(&store, &parse_id(&id)?).await,
            Self::Show { id, json } => show(&store, &parse_id(&id)?, json).await,
            Self::List {
                status,
                limit,
                json,
            } => list(&store, status, limit, json).await,
        };
        store.close().await;
        result.map(|()| ExitCode::SUCCESS)
    }
}

impl Add {
    fn parse(self) -> anyhow::Result<NewImage> {
        let cloudflare_id = parse_id(&self.id)?;
        if !cloudflare_id.fits_an_index() {
            bail!("the id is too long to be stored under a unique index");
        }
        let metadata: serde_json::Value =
            serde_json::from_str(&self.metadata).context("--metadata must be JSON")?;
        if !metadata.is_object() {
            bail!("--metadata must be a JSON object");
        }
        if contains_nul(&metadata) {
            bail!("--metadata must not contain U+0000, since no database can store it");
        }
        Ok(NewImage {
            cloudflare_id,
            filename: self.filename,
            creator: self.creator,
            metadata: Json::from_canonical(metadata.to_string()),
        })
    }
}

/// No database stores U+0000 in text.
fn contains_nul(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::String(text) => text.contains('\0'),
        serde_json::Value::Array(values) => values.iter().any(contains_nul),
        serde_json::Value::Object(fields) => fields
            .iter()
            .any(|(name, value)| name.contains('\0') || contains_nul(value)),
        serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {
            false
        }
    }
}

fn parse_id(id: &str) -> anyhow::Result<CloudflareId> {
    CloudflareId::parse(id).map_err(|error| anyhow::anyhow!("the id {error}"))
}

async fn add(store: &Store, image: NewImage, settings: &Settings) -> anyhow::Result<()> {
    match settings.database.migrate_on_start {
        // Whoever tries things out registers an image before ever having started the service.
        Switch::On => store.schema.migrate().await?,
        Switch::Off => require_tables(store).await?,
    }
    match store.catalog.add(&image, SystemClock.now()).await? {
        InsertOutcome::Inserted => {
            print_line(&format!("registered {}", image.cloudflare_id));
            apply_parked(store, settings).await
        }
        InsertOutcome::Exists => bail!(
            "the image {} is registered already; see `images show`",
            image.cloudflare_id
        ),
    }
}

/// What came before its row is applied at once, whether or not a service runs.
async fn apply_parked(store: &Store, settings: &Settings) -> anyhow::Result<()> {
    let parking = Parking::new(
        store.rejections.clone(),
        &settings.webhook,
        Arc::new(SystemClock),
    );
    let applied = parking
        .sweep()
        .await
        .context("what came for it before could not be applied; a running service tries again")?;
    if applied > 0 {
        print_line(&format!("applied {applied} that had come before"));
    }
    Ok(())
}

async fn delete(store: &Store, id: &CloudflareId) -> anyhow::Result<()> {
    require_tables(store).await?;
    match store.catalog.delete(id, SystemClock.now()).await? {
        DeleteOutcome::Deleted => {
            print_line(&format!("deleted {id}"));
            Ok(())
        }
        DeleteOutcome::NotFound => bail!("there is no image {id}, so there is nothing to delete"),
    }
}

async fn show(store: &Store, id: &CloudflareId, json: bool) -> anyhow::Result<()> {
    require_tables(store).await?;
    let image = store
        .catalog
        .find(id)
        .await?
        .with_context(|| format!("there is no image {id}; `images add` registers one"))?;
    if json {
        print_line(&serde_json::to_string_pretty(&ImageJson::of(&image))?);
        return Ok(());
    }
    let mut table = table();
    for (name, value) in rows(&image) {
        table.add_row([name, &value]);
    }
    print_line(&table.trim_fmt());
    Ok(())
}

async fn list(store: &Store, status: Option<Status>, limit: u32, json: bool) -> anyhow::Result<()> {
    require_tables(store).await?;
    let images = store.catalog.list(status, limit).await?;
    if json {
        let images: Vec<ImageJson> = images.iter().map(ImageJson::of).collect();
        print_line(&serde_json::to_string_pretty(&images)?);
        return Ok(());
    }
    if images.is_empty() {
        print_line("no images");
        return Ok(());
    }
    let mut table = table();
    table.set_header(["ID", "STATUS", "SINCE", "FILENAME", "CREATOR", "ERROR"]);
    for image in &images {
        let state = &image.state;
        table.add_row([
            image.cloudflare_id.as_str(),
            state.status.as_str(),
            &format_time(state.status_at),
            &state.details.filename.value,
            &state.details.creator.value,
            &state.error,
        ]);
    }
    print_line(&table.trim_fmt());
    Ok(())
}

fn rows(image: &Image) -> [(&'static str, String); 14] {
    let state = &image.state;
    [
        ("cloudflare_id", image.cloudflare_id.to_string()),
        ("id", image.id.to_string()),
        ("status", state.status.to_string()),
        ("status_at", format_time(state.status_at)),
        ("uploaded_at", format_time(state.uploaded_at)),
        ("error", state.error.clone()),
        ("filename", state.details.filename.value.clone()),
        ("creator", state.details.creator.value.clone()),
        (
            "require_signed_urls",
            state.details.require_signed_urls.value.to_string(),
        ),
        ("variants", state.details.variants.value.as_str().to_owned()),
        (
            "cloudflare_metadata",
            state.details.cloudflare_metadata.value.as_str().to_owned(),
        ),
        ("metadata", image.metadata.as_str().to_owned()),
        ("created_at", image.created_at.to_string()),
        ("updated_at", image.updated_at.to_string()),
    ]
}

/// An image for programs, under the names of its columns.
#[derive(Serialize)]
struct ImageJson<'a> {
    cloudflare_id: &'a str,
    id: String,
    status: &'static str,
    status_at: Option<String>,
    uploaded_at: Option<String>,
    error: &'a str,
    filename: &'a str,
    creator: &'a str,
    require_signed_urls: bool,
    variants: Box<RawValue>,
    cloudflare_metadata: Box<RawValue>,
    metadata: Box<RawValue>,
    created_at: String,
    updated_at: String,
}

impl<'a> ImageJson<'a> {
    fn of(image: &'a Image) -> Self {
        let state = &image.state;
        Self {
            cloudflare_id: image.cloudflare_id.as_str(),
            id: image.id.to_string(),
            status: state.status.as_str(),
            status_at: state.status_at.map(|time| time.to_string()),
            uploaded_at: state.uploaded_at.map(|time| time.to_string()),
            error: &state.error,
            filename: &state.details.filename.value,
            creator: &state.details.creator.value,
            require_signed_urls: state.details.require_signed_urls.value,
            variants: raw(&state.details.variants.value),
            cloudflare_metadata: raw(&state.details.cloudflare_metadata.value),
            metadata: raw(&image.metadata),
            created_at: image.created_at.to_string(),
            updated_at: image.updated_at.to_string(),
        }
    }
}

/// SQLite lets an app write anything into a column of JSON; what is none is shown as text.
fn raw(json: &Json) -> Box<RawValue> {
    let text = json.as_str();
    RawValue::from_string(text.to_owned())
        .or_else(|_| to_raw_value(text))
        .expect("a text is JSON once it is written as such")
}
