//! Imports the lines of a source.

use std::collections::HashSet;
use std::time::Duration;

use super::error::{ImportError, InvalidLine, Origin};
use super::source::{Batch, Line, Source};
use crate::application::Context;
use crate::domain::id::CloudflareId;
use crate::domain::import::ImportedImage;
use crate::store::{ImportEffect, StoreError};

/// The pause after each batch, so a running service gets SQLite's write lock.
const BATCH_PAUSE: Duration = Duration::from_millis(5);

/// The number of lines by their result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ImportTotals {
    pub(crate) inserted: u64,
    pub(crate) updated: u64,
    pub(crate) unchanged: u64,
    pub(crate) invalid: u64,
}

impl ImportTotals {
    /// Returns the number of all lines.
    pub(crate) fn lines(&self) -> u64 {
        self.inserted + self.updated + self.unchanged + self.invalid
    }
}

/// Observes an import.
pub(crate) trait ImportObserver {
    /// A line is not imported.
    fn invalid_line(&mut self, number: u64, reason: &InvalidLine);

    /// A batch is committed.
    fn committed(&mut self, totals: &ImportTotals, bytes_read: u64);
}

/// Imports all lines of a source, in batches. Each batch is one transaction.
///
/// A repeated import changes nothing that the first one has committed.
pub(crate) async fn import(
    context: &Context,
    source: Source,
    observer: &mut impl ImportObserver,
) -> Result<ImportTotals, ImportError> {
    let Source {
        mut batches,
        reading,
        origin,
    } = source;
    let mut import = Import {
        context,
        observer,
        totals: ImportTotals::default(),
        last_line: 0,
        origin,
    };
    while let Some(Batch { lines, bytes_read }) = batches.recv().await {
        import.write_batch(lines).await?;
        let totals = import.totals;
        import.observer.committed(&totals, bytes_read);
        tokio::time::sleep(BATCH_PAUSE).await;
    }
    reading.await.map_err(|_| ImportError::Panicked)??;
    Ok(import.totals)
}

/// The images of a transaction. No id occurs twice.
#[derive(Default)]
struct Pending {
    /// The line of each image.
    numbers: Vec<u64>,
    images: Vec<ImportedImage>,
    ids: HashSet<CloudflareId>,
}

struct Import<'a, O> {
    context: &'a Context,
    observer: &'a mut O,
    totals: ImportTotals,
    /// The last line up to which all lines are committed or invalid. 0 if there is none.
    last_line: u64,
    origin: Origin,
}

impl<O: ImportObserver> Import<'_, O> {
    /// Writes the lines of a batch. An image that occurs several times is written in several transactions.
    async fn write_batch(&mut self, lines: Vec<Line>) -> Result<(), ImportError> {
        let last_line = lines.last().map(|line| line.number);
        let mut pending = Pending::default();
        for Line { number, image } in lines {
            match image {
                Err(reason) => self.report(number, &reason),
                Ok(image) => {
                    if !pending.ids.insert(image.cloudflare_id.clone()) {
                        self.write(&pending).await?;
                        pending = Pending::default();
                        pending.ids.insert(image.cloudflare_id.clone());
                    }
                    pending.numbers.push(number);
                    pending.images.push(image);
                }
            }
        }
        self.write(&pending).await?;
        self.last_line = last_line.unwrap_or(self.last_line);
        Ok(())
    }

    /// Writes images in one transaction. If the database refuses it because of a row, writes each image alone.
    async fn write(&mut self, pending: &Pending) -> Result<(), ImportError> {
        let Pending {
            numbers, images, ..
        } = pending;
        match self.transaction(images).await {
            Ok(effects) => {
                for (number, effect) in numbers.iter().zip(effects) {
                    self.count(*number, effect);
                }
                return Ok(());
            }
            Err(error) if error.is_systemic() => return Err(self.stopped(error)),
            Err(_) => {}
        }
        for (number, image) in numbers.iter().zip(images) {
            match self.transaction(std::slice::from_ref(image)).await {
                Ok(effects) => {
                    for effect in effects {
                        self.count(*number, effect);
                    }
                }
                Err(error) if error.is_systemic() || error.is_transient() => {
                    return Err(self.stopped(error));
                }
                Err(error) => self.report(*number, &InvalidLine::Refused(error)),
            }
        }
        Ok(())
    }

    async fn transaction(&self, images: &[ImportedImage]) -> Result<Vec<ImportEffect>, StoreError> {
        let now = self.context.clock.now();
        self.context.store.image_transfer.import(images, now).await
    }

    fn count(&mut self, number: u64, effect: ImportEffect) {
        self.last_line = number;
        match effect {
            ImportEffect::Inserted => self.totals.inserted += 1,
            ImportEffect::Updated => self.totals.updated += 1,
            ImportEffect::Unchanged => self.totals.unchanged += 1,
            ImportEffect::RowIdTaken => self.report(number, &InvalidLine::RowIdTaken),
        }
    }

    fn report(&mut self, number: u64, reason: &InvalidLine) {
        self.totals.invalid += 1;
        self.observer.invalid_line(number, reason);
    }

    fn stopped(&self, source: StoreError) -> ImportError {
        ImportError::Stopped {
            origin: self.origin,
            last_line: self.last_line,
            source,
        }
    }
}
