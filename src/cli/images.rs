//! `images add`, `images delete`, `images show`, `images list`. The other subcommands are in [`image_files`](super::image_files).

use std::process::ExitCode;

use anyhow::anyhow;
use clap::Subcommand;

use super::database::{OpenMode, with_store};
use super::image_files::{Export, Import};
use super::output::{print_json, print_line, print_table, print_view};
use crate::application::images::{self, ImageView};
use crate::application::{Context, rejections};
use crate::config::Loaded;
use crate::domain::id::CloudflareId;
use crate::domain::image::{NewImage, Status};

/// The subcommands of `images`.
#[derive(Debug, Subcommand)]
pub(super) enum Images {
    /// Register an expected upload
    Add(Add),
    /// Delete the row of an image, but not its audit log or the image at Cloudflare
    Delete {
        /// Cloudflare id of the image
        id: String,
    },
    /// Show an image
    Show {
        /// Cloudflare id of the image
        id: String,
        /// JSON object instead of a table
        #[arg(long)]
        json: bool,
    },
    /// List the images that changed last
    List {
        /// Status of the images: pending, draft, uploaded, failed or expired [default: all]
        #[arg(long)]
        status: Option<Status>,
        /// Maximum number of images, 1 to 100000
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
        /// JSON array instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Insert and update images from a CSV or JSON Lines file, or from Cloudflare
    Import(Import),
    /// Print all images as CSV or JSON Lines
    Export(Export),
}

/// The arguments of `images add`.
#[derive(Debug, clap::Args)]
pub(super) struct Add {
    /// Cloudflare id of the image
    id: String,
    /// Name of the file
    #[arg(long, default_value = "")]
    filename: String,
    /// User who uploads the image
    #[arg(long, default_value = "")]
    creator: String,
    /// Metadata of the app, as a JSON object
    #[arg(long, default_value = "{}", value_name = "JSON")]
    metadata: String,
}

impl Images {
    pub(super) async fn run(self, loaded: &Loaded) -> anyhow::Result<ExitCode> {
        match self {
            Self::Add(image) => {
                let image = image.parse()?;
                with_store(loaded, OpenMode::Create, async |context| {
                    add(context, &image).await
                })
                .await?;
            }
            Self::Delete { id } => {
                let id = parse_id(&id)?;
                let delete = async |context: &Context| delete(context, &id).await;
                with_store(loaded, OpenMode::Existing, delete).await?;
            }
            Self::Show { id, json } => {
                let id = parse_id(&id)?;
                let show =
                    async |context: &Context| print_view(&images::show(context, &id).await?, json);
                with_store(loaded, OpenMode::Existing, show).await?;
            }
            Self::List {
                status,
                limit,
                json,
            } => {
                let list = async |context: &Context| list(context, status, limit, json).await;
                with_store(loaded, OpenMode::Existing, list).await?;
            }
            Self::Import(import) => return import.run(loaded).await,
            Self::Export(export) => return export.run(loaded).await,
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn delete(context: &Context, id: &CloudflareId) -> anyhow::Result<()> {
    images::delete(context, id).await?;
    print_line(&format!("deleted {id}"));
    Ok(())
}

async fn list(
    context: &Context,
    status: Option<Status>,
    limit: u32,
    json: bool,
) -> anyhow::Result<()> {
    let images = images::list(context, status, limit).await?;
    if json {
        return print_json(&images);
    }
    print_list(images);
    Ok(())
}

impl Add {
    fn parse(self) -> anyhow::Result<NewImage> {
        Ok(NewImage {
            cloudflare_id: parse_id(&self.id)?,
            filename: self.filename,
            creator: self.creator,
            metadata: images::parse_metadata(&self.metadata)
                .map_err(|error| anyhow!("--metadata {error}"))?,
            expires_at: None,
            require_signed_urls: false,
        })
    }
}

pub(super) fn parse_id(id: &str) -> anyhow::Result<CloudflareId> {
    CloudflareId::parse(id).map_err(|error| anyhow!("the id {error}"))
}

/// Registers an image, and applies parked notifications at once. So it works without a running service.
async fn add(context: &Context, image: &NewImage) -> anyhow::Result<()> {
    images::add(context, image).await?;
    print_line(&format!("registered {}", image.cloudflare_id));
    let applied = rejections::apply_parked(context).await?;
    if applied > 0 {
        print_line(&format!("parked notifications applied: {applied}"));
    }
    Ok(())
}

fn print_list(images: Vec<ImageView>) {
    if images.is_empty() {
        return print_line("no images");
    }
    let rows = images.into_iter().map(|image| {
        [
            image.cloudflare_id,
            image.status.to_owned(),
            image.status_at.unwrap_or_default(),
            image.details.0.filename.value,
            image.details.0.creator.value,
            image.error,
        ]
    });
    print_table(
        ["ID", "STATUS", "STATUS AT", "FILENAME", "CREATOR", "ERROR"],
        rows,
    );
}
