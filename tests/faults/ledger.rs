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

/// A notification, and how often it was sent.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// What tells it apart from the others of its image.
    pub(crate) note: &'static str,
    /// Its body.
    pub(crate) notification: Value,
    /// How many times it was sent.
    pub(crate) attempts: u64,
    /// How many of those were answered with 200: committed.
    pub(crate) acknowledged: u64,
    /// How many were answered with 404: kept, to be applied when there is a row.
    pub(crate) parked: u64,
}

impl Sent {
    /// One that has not been sent yet.
    pub(crate) fn of(note: &'static str, notification: Value) -> Self {
        Self {
            note,
            notification,
            ..Self::default()
        }
    }
}

/// What is in the tables, against what was answered.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Requests that were sent.
    pub(crate) requests: u64,
    /// Those that were answered with 200, or with 404 and kept.
    pub(crate) acknowledged: u64,
    /// Acknowledged requests without a row of the audit trail, and images without a row.
    pub(crate) lost: u64,
    /// Notifications that were applied more than once, and rows of the audit trail for which there was no request.
    pub(crate) duplicated: u64,
    /// Images that are not where the latest of their notifications puts them.
    pub(crate) regressed: u64,
}

impl Verdict {
    /// Both.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            acknowledged: self.acknowledged + other.acknowledged,
            lost: self.lost + other.lost,
            duplicated: self.duplicated + other.duplicated,
            regressed: self.regressed + other.regressed,
        }
    }

    /// Whether every promise was kept.
    pub(crate) fn is_good(self) -> bool {
        (self.lost, self.duplicated, self.regressed) == (0, 0, 0)
    }
}

/// How often a notification is in the audit trail.
#[derive(Default)]
struct Logged {
    applied: u64,
    at_all: u64,
}

/// Compares what was answered with the tables. The ids of the images all begin with this, and no others do.
pub(crate) async fn verdict(database: &Database, images: &[Image], prefix: &str) -> Verdict {
    let statuses = statuses(database, prefix).await;
    let logs = logs(database, prefix).await;

    let mut verdict = Verdict::default();
    for image in images {
        let status = statuses.get(&image.id).map(String::as_str);
        if status.is_none() {
            verdict.lost += 1;
        } else if status != Some(image.last_status) {
            verdict.regressed += 1;
        }
        for sent in &image.sent {
            let nothing = Logged::default();
            let logged = logs.get(&(image.id.clone(), sent.note.to_owned()));
            let logged = logged.unwrap_or(&nothing);
            let promised = sent.acknowledged + sent.parked;
            verdict.requests += sent.attempts;
            verdict.acknowledged += promised;
            verdict.lost += promised.saturating_sub(logged.at_all);
            verdict.duplicated += logged.applied.saturating_sub(1);
            verdict.duplicated += logged.at_all.saturating_sub(sent.attempts);
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
        "SELECT image.cloudflare_id || ' ' || (log.data -> 'payload' ->> 'note') || ' ' || log.event_type || ' ' || count(*)
         FROM cloudflare_image_logs AS log JOIN cloudflare_images AS image ON image.id = log.image_id
         WHERE {condition} AND log.event_type IN ('webhook_received', 'webhook_duplicate', 'webhook_stale')
         GROUP BY image.cloudflare_id, log.data -> 'payload' ->> 'note', log.event_type"
    );
    let mut logs: HashMap<(String, String), Logged> = HashMap::new();
    for row in database.texts(&sql).await {
        let words: Vec<&str> = row.split(' ').collect();
        let [id, note, event_type, count] = words[..] else {
            panic!("not four words: {row}");
        };
        let count: u64 = count.parse().expect("a number");
        let logged = logs.entry((id.to_owned(), note.to_owned())).or_default();
        logged.at_all += count;
        if event_type == "webhook_received" {
            logged.applied += count;
        }
    }
    logs
}
