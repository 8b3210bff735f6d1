//! The comparison of the responses with the tables: nothing is lost, duplicated or moved back.

use std::collections::HashMap;

use serde_json::Value;

use crate::support::database::Database;

/// An image of the load with its notifications.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) id: String,
    /// The status after the latest notification.
    pub(crate) last_status: &'static str,
    pub(crate) sent: Vec<Sent>,
}

/// A notification, and the result of each attempt to send it.
#[derive(Debug)]
pub(crate) struct Sent {
    /// Identifies the notification among those of its image.
    pub(crate) note: &'static str,
    /// The body, without the number of the attempt.
    pub(crate) notification: Value,
    /// The result of each attempt.
    pub(crate) attempts: Vec<SendResult>,
}

/// The result of an attempt to send a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SendResult {
    /// Response 200: the notification is committed.
    Acknowledged,
    /// Response 404: the notification is parked until the row exists.
    Parked,
    /// An error or no response: the notification may be committed or not.
    Unknown,
}

impl Sent {
    /// Returns a notification that has not been sent.
    pub(crate) fn new(note: &'static str, notification: Value) -> Self {
        Self {
            note,
            notification,
            attempts: Vec::new(),
        }
    }

    /// Returns whether an attempt was answered with 404. The service must then apply the
    /// notification without a redelivery.
    pub(crate) fn is_parked(&self) -> bool {
        self.attempts.contains(&SendResult::Parked)
    }
}

/// The comparison of the responses with the tables.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Comparison {
    /// Requests sent.
    pub(crate) requests: u64,
    /// Requests answered with 200, or with 404 and parked.
    pub(crate) acknowledged: u64,
    /// Requests committed whose response was lost.
    pub(crate) response_lost: u64,
    /// Acknowledged requests without an entry in the audit log, and images without a row.
    pub(crate) lost: u64,
    /// Requests with more than one entry in the audit log, and notifications applied more than
    /// once.
    pub(crate) duplicated: u64,
    /// Images whose status is not that of their latest notification, and updates that moved
    /// `status_at` back.
    pub(crate) regressed: u64,
}

impl Comparison {
    /// Adds the counts of two comparisons.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            acknowledged: self.acknowledged + other.acknowledged,
            response_lost: self.response_lost + other.response_lost,
            lost: self.lost + other.lost,
            duplicated: self.duplicated + other.duplicated,
            regressed: self.regressed + other.regressed,
        }
    }

    /// Returns whether nothing was lost, duplicated or regressed.
    pub(crate) fn is_good(self) -> bool {
        (self.lost, self.duplicated, self.regressed) == (0, 0, 0)
    }

    /// Adds one attempt and the number of its entries in the audit log.
    fn add_attempt(&mut self, result: SendResult, logged: u64) {
        self.requests += 1;
        self.duplicated += logged.saturating_sub(1);
        match result {
            SendResult::Acknowledged | SendResult::Parked => {
                self.acknowledged += 1;
                self.lost += u64::from(logged == 0);
            }
            SendResult::Unknown => self.response_lost += logged.min(1),
        }
    }
}

/// The number of entries in the audit log for an attempt.
#[derive(Default)]
struct Logged {
    applied: u64,
    total: u64,
}

/// Returns the text that identifies an attempt in its payload.
pub(crate) fn attempt_note(note: &str, number: usize) -> String {
    format!("{note}-{number}")
}

/// Compares the results with the tables. The prefix selects the images of this load.
pub(crate) async fn compare(database: &Database, images: &[Image], prefix: &str) -> Comparison {
    let statuses = statuses(database, prefix).await;
    let logs = logs(database, prefix).await;
    let regressions = format!(
        "SELECT count(*) FROM regressions WHERE {}",
        with_prefix("cloudflare_id", prefix)
    );

    let mut comparison = Comparison {
        regressed: database.count(&regressions).await.unsigned_abs(),
        ..Comparison::default()
    };
    for image in images {
        match statuses.get(&image.id) {
            None => comparison.lost += 1,
            Some(status) => comparison.regressed += u64::from(status != image.last_status),
        }
        for sent in &image.sent {
            let mut applied = 0;
            for (number, result) in sent.attempts.iter().enumerate() {
                let logged = logs.get(&(image.id.clone(), attempt_note(sent.note, number)));
                let logged = logged.unwrap_or(&Logged {
                    applied: 0,
                    total: 0,
                });
                comparison.add_attempt(*result, logged.total);
                applied += logged.applied;
            }
            // Every attempt reports the same time, so only the first committed one may apply.
            comparison.duplicated += applied.saturating_sub(1);
        }
    }
    comparison
}

/// Returns a condition that selects ids by prefix. It uses the index on both databases, because
/// text is ordered by bytes.
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
            panic!("expected three words, found {row}");
        };
        let logged = logs.entry((id.to_owned(), note.to_owned())).or_default();
        logged.total += 1;
        logged.applied += u64::from(event_type == "webhook_received");
    }
    logs
}
