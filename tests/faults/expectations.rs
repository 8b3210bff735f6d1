//! What was sent, what was answered, and what is in the tables.

use std::collections::HashMap;

use serde_json::Value;

use crate::support::database::Database;

/// An image of the load, and what became of its notifications.
#[derive(Debug)]
pub(crate) struct Image {
    /// Its id.
    pub(crate) id: String,
    /// The status that the latest of its notifications tells.
    pub(crate) last_status: &'static str,
    /// Its notifications.
    pub(crate) sent: Vec<Sent>,
}

/// A notification, and what became of each try to send it.
#[derive(Debug)]
pub(crate) struct Sent {
    /// What tells it apart from the others of its image.
    pub(crate) note: &'static str,
    /// Its body, but for the number of the try.
    pub(crate) notification: Value,
    /// How it was answered, each time that it was sent.
    pub(crate) tries: Vec<Answered>,
}

/// How a try was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answered {
    /// With 200: it is committed.
    Acknowledged,
    /// With 404: it is kept, to be applied when there is a row.
    Parked,
    /// With an error or with nothing: it may be committed or not.
    Unknown,
}

impl Sent {
    /// One that has not been sent yet.
    pub(crate) fn of(note: &'static str, notification: Value) -> Self {
        Self {
            note,
            notification,
            tries: Vec::new(),
        }
    }

    /// Whether it is parked by its first answer, and so has to be applied without being sent again.
    pub(crate) fn is_parked(&self) -> bool {
        self.tries.contains(&Answered::Parked)
    }
}

/// What is in the tables, against what was answered.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Requests that were sent.
    pub(crate) requests: u64,
    /// Those that were answered with 200, or with 404 and kept.
    pub(crate) acknowledged: u64,
    /// Those that were committed, and whose answer was lost.
    pub(crate) unheard: u64,
    /// Acknowledged requests without a row of the audit trail, and images without a row.
    pub(crate) lost: u64,
    /// Requests with more than one row of the audit trail, and notifications that were applied more than once.
    pub(crate) duplicated: u64,
    /// Images that are not where the latest of their notifications puts them, and changes that moved one back in between.
    pub(crate) regressed: u64,
}

impl Verdict {
    /// Both.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            acknowledged: self.acknowledged + other.acknowledged,
            unheard: self.unheard + other.unheard,
            lost: self.lost + other.lost,
            duplicated: self.duplicated + other.duplicated,
            regressed: self.regressed + other.regressed,
        }
    }

    /// Whether every promise was kept.
    pub(crate) fn is_good(self) -> bool {
        (self.lost, self.duplicated, self.regressed) == (0, 0, 0)
    }

    /// What the audit trail has of one try.
    fn of_try(&mut self, answered: Answered, logged: u64) {
        self.requests += 1;
        self.duplicated += logged.saturating_sub(1);
        match answered {
            Answered::Acknowledged | Answered::Parked => {
                self.acknowledged += 1;
                self.lost += u64::from(logged == 0);
            }
            Answered::Unknown => self.unheard += logged.min(1),
        }
    }
}

/// How often a try is in the audit trail.
#[derive(Default)]
struct Logged {
    applied: u64,
    at_all: u64,
}

/// What a try says to be known by.
pub(crate) fn mark(note: &str, number: usize) -> String {
    format!("{note}-{number}")
}

/// Compares what was answered with the tables. The ids of the images all begin with this, and no others do.
pub(crate) async fn verdict(database: &Database, images: &[Image], prefix: &str) -> Verdict {
    let statuses = statuses(database, prefix).await;
    let logs = logs(database, prefix).await;
    let went_back = format!(
        "SELECT count(*) FROM went_back WHERE {}",
        with_prefix("cloudflare_id", prefix)
    );

    let mut verdict = Verdict {
        regressed: database.count(&went_back).await.unsigned_abs(),
        ..Verdict::default()
    };
    for image in images {
        match statuses.get(&image.id) {
            None => verdict.lost += 1,
            Some(status) => verdict.regressed += u64::from(status != image.last_status),
        }
        for sent in &image.sent {
            let mut applied = 0;
            for (number, answered) in sent.tries.iter().enumerate() {
                let logged = logs.get(&(image.id.clone(), mark(sent.note, number)));
                let logged = logged.unwrap_or(&Logged {
                    applied: 0,
                    at_all: 0,
                });
                verdict.of_try(*answered, logged.at_all);
                applied += logged.applied;
            }
            // Each try says the same at the same time, so that only the first that is committed changes anything.
            verdict.duplicated += applied.saturating_sub(1);
        }
    }
    verdict
}

/// A part of the rows by an index, on both databases: letters are ordered by their bytes.
fn with_prefix(column: &str, prefix: &str) -> String {
    format!("{column} >= '{prefix}-' AND {column} < '{prefix}.'")
}

async fn statuses(database: &Database, prefix: &str) -> HashMap<String, String> {
    let condition = with_prefix("cloudflare_id", prefix);
    let sql =
        format!("SELECT cloudflare_id || ' ' || status FROM cloudflare_images WHERE {condition}");
    let rows = database.texts(&sql).await;
    rows.iter()
        .map(|row| {
            let (id, status) = row.split_once(' ').expect("two words");
            (id.to_owned(), status.to_owned())
        })
        .collect()
}

async fn logs(database: &Database, prefix: &str) -> HashMap<(String, String), Logged> {
    let condition = with_prefix("image.cloudflare_id", prefix);
    let sql = format!(
        "SELECT image.cloudflare_id || ' ' || (log.data -> 'payload' ->> 'note') || ' ' || log.event_type
         FROM cloudflare_image_logs AS log JOIN cloudflare_images AS image ON image.id = log.image_id
         WHERE {condition} AND log.event_type IN ('webhook_received', 'webhook_duplicate', 'webhook_stale')"
    );
    let mut logs: HashMap<(String, String), Logged> = HashMap::new();
    for row in database.texts(&sql).await {
        let words: Vec<&str> = row.split(' ').collect();
        let [id, note, event_type] = words[..] else {
            panic!("not three words: {row}");
        };
        let logged = logs.entry((id.to_owned(), note.to_owned())).or_default();
        logged.at_all += 1;
        logged.applied += u64::from(event_type == "webhook_received");
    }
    logs
}
