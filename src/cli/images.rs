//! `images add`, `images delete`, `images show`, `images list`.

use std::process::ExitCode;

use anyhow::anyhow;
use clap::Subcommand;

use super::database::{Opening, with_store};
use super::output::{print_json, print_line, print_table, print_view};
use crate::application::images::{self, ImageView};
use crate::application::{Context, rejections};
use crate::config::Loaded;
use crate::domain::id::CloudflareId;
use crate::domain::image::{NewImage, Status};

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
        match self {
            Self::Add(image) => {
                let image = image.parse()?;
                with_store(loaded, Opening::Create, async |context| {
                    add(context, &image).await
                })
                .await?;
            }
            Self::Delete { id } => {
                let id = parse_id(&id)?;
                let delete = async |context: &Context| delete(context, &id).await;
                with_store(loaded, Opening::Existing, delete).await?;
            }
            Self::Show { id, json } => {
                let id = parse_id(&id)?;
                let show =
                    async |context: &Context| print_view(&images::show(context, &id).await?, json);
                with_store(loaded, Opening::Existing, show).await?;
            }
            Self::List {
                status,
                limit,
                json,
            } => {
                let list = async |context: &Context| list(context, status, limit, json).await;
                with_store(loaded, Opening::Existing, list).await?;
            }
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
        })
    }
}

fn parse_id(id: &str) -> anyhow::Result<CloudflareId> {
    CloudflareId::parse(id).map_err(|error| anyhow!("the id {error}"))
}

/// Registers an image. Then applies the notifications that are parked for it, even if no service runs.
async fn add(context: &Context, image: &NewImage) -> anyhow::Result<()> {
    images::add(context, image).await?;
    print_line(&format!("registered {}", image.cloudflare_id));
    let applied = rejections::apply_parked(context).await?;
    if applied > 0 {
        print_line(&format!("applied {applied} that had come before"));
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
        ["ID", "STATUS", "SINCE", "FILENAME", "CREATOR", "ERROR"],
        rows,
    );
}
