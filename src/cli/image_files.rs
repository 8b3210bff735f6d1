//! `images import`, `images export`.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};

use super::cloudflare::client;
use super::database::{OpenMode, with_store};
use super::output::{escape_control, print_line, print_text};
use super::progress::Progress;
use crate::application::transfer::{
    Format, ImportObserver, ImportTotals, InvalidLine, Origin, Source, export, import,
};
use crate::application::{Context, rejections};
use crate::cloudflare::Client;
use crate::config::Loaded;

/// The most invalid lines that are printed. All are counted.
const MAX_PRINTED_LINES: u64 = 100;

/// The arguments of `images import`.
#[derive(Debug, clap::Args)]
pub(super) struct Import {
    /// CSV or JSON Lines file; - is the standard input
    #[arg(required_unless_present = "from_cloudflare")]
    file: Option<PathBuf>,
    /// Import all images of the account at Cloudflare
    #[arg(long, conflicts_with = "file")]
    from_cloudflare: bool,
}

/// The arguments of `images export`.
#[derive(Debug, clap::Args)]
pub(super) struct Export {
    /// Format of the output
    #[arg(long, default_value = "csv", value_parser = Format::ALL.map(Format::name))]
    format: String,
}

impl Import {
    pub(super) async fn run(self, loaded: &Loaded) -> anyhow::Result<ExitCode> {
        let input = match &self.file {
            Some(file) => Input::open(file)?,
            None => Input::Account(client(loaded)?),
        };
        let totals = with_store(loaded, OpenMode::Create, async |context| {
            let (origin, size) = (input.origin(), input.size());
            let source = input.source(context);
            let mut report = Report::new(origin, size);
            let totals = import(context, source, &mut report).await;
            report.finish();
            let totals = totals?;
            print_totals(totals);
            apply_parked(context, totals).await?;
            Ok(totals)
        })
        .await?;
        Ok(ExitCode::from(u8::from(totals.invalid > 0)))
    }
}

/// The images to import.
enum Input {
    Stdin,
    /// A file, and its size if it is known.
    File(File, Option<u64>),
    Account(Client),
}

impl Input {
    fn open(path: &Path) -> anyhow::Result<Self> {
        if path.as_os_str() == "-" {
            return Ok(Self::Stdin);
        }
        let name = path.display();
        let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
        let metadata = file.metadata();
        let metadata = metadata.with_context(|| format!("cannot open {name}"))?;
        if metadata.is_dir() {
            return Err(anyhow!("{name} is a folder"));
        }
        let size = metadata.is_file().then_some(metadata.len());
        Ok(Self::File(file, size))
    }

    fn origin(&self) -> Origin {
        match self {
            Self::Stdin | Self::File(..) => Origin::File,
            Self::Account(_) => Origin::Account,
        }
    }

    fn size(&self) -> Option<u64> {
        match self {
            Self::File(_, size) => *size,
            Self::Stdin | Self::Account(_) => None,
        }
    }

    fn source(self, context: &Context) -> Source {
        match self {
            Self::Stdin => Source::of_file(io::stdin()),
            Self::File(file, _) => Source::of_file(file),
            Self::Account(client) => Source::of_account(context, client),
        }
    }
}

/// Prints the invalid lines and the progress of an import.
struct Report {
    origin: Origin,
    progress: Progress,
    invalid: u64,
}

impl Report {
    fn new(origin: Origin, size: Option<u64>) -> Self {
        Self {
            origin,
            progress: Progress::new(size),
            invalid: 0,
        }
    }

    fn finish(mut self) {
        self.progress.clear();
        if let more @ 1.. = self.invalid.saturating_sub(MAX_PRINTED_LINES) {
            let unit = self.origin.unit();
            self.progress
                .print_line(&format!("and {more} more {unit}s"));
        }
    }
}

impl ImportObserver for Report {
    fn invalid_line(&mut self, number: u64, reason: &InvalidLine) {
        self.invalid += 1;
        if self.invalid <= MAX_PRINTED_LINES {
            let reason = escape_control(&reason.to_string());
            let unit = self.origin.unit();
            self.progress
                .print_line(&format!("{unit} {number}: {reason}"));
        }
    }

    fn committed(&mut self, totals: &ImportTotals, bytes_read: u64) {
        self.progress.show(
            bytes_read,
            &format!("{} {}s", totals.lines(), self.origin.unit()),
        );
    }
}

fn print_totals(totals: ImportTotals) {
    let ImportTotals {
        inserted,
        updated,
        unchanged,
        invalid,
    } = totals;
    print_line(&format!(
        "{inserted} inserted, {updated} updated, {unchanged} unchanged, {invalid} not imported"
    ));
}

/// Applies parked notifications of the new images at once. So it works without a running service.
async fn apply_parked(context: &Context, totals: ImportTotals) -> anyhow::Result<()> {
    if totals.inserted == 0 {
        return Ok(());
    }
    let applied = rejections::apply_parked(context).await?;
    if applied > 0 {
        print_line(&format!("parked notifications applied: {applied}"));
    }
    Ok(())
}

impl Export {
    pub(super) async fn run(self, loaded: &Loaded) -> anyhow::Result<ExitCode> {
        let format = Format::from_name(&self.format).context("the format is known")?;
        with_store(loaded, OpenMode::Existing, async |context| {
            Ok(export(context, format, print_text).await?)
        })
        .await?;
        Ok(ExitCode::SUCCESS)
    }
}
