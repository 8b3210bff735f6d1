//! The clock of Cloudflare, as the header `Date` of its answers shows it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use reqwest::header::{DATE, HeaderMap};
use tokio::time::Instant;

use crate::domain::timestamp::Timestamp;

/// The time of the last answer.
#[derive(Default)]
pub(super) struct ServerClock {
    last: Mutex<Option<(Timestamp, Instant)>>,
}

impl ServerClock {
    /// Takes the time from the headers of an answer that just arrived. An answer without a valid date changes nothing.
    pub(super) fn read(&self, headers: &HeaderMap) {
        if let Some(date) = date(headers) {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            *last = Some((date, Instant::now()));
        }
    }

    /// Returns the present time by Cloudflare's clock, to the second. `None`: no answer had a date.
    pub(super) fn now(&self) -> Option<Timestamp> {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (date, received) = last?;
        Some(date.saturating_add(received.elapsed()))
    }
}

fn date(headers: &HeaderMap) -> Option<Timestamp> {
    let date = headers.get(DATE)?.to_str().ok()?;
    let since_1970: Duration = httpdate::parse_http_date(date)
        .ok()?
        .duration_since(UNIX_EPOCH)
        .ok()?;
    let seconds = i64::try_from(since_1970.as_secs()).ok()?;
    Timestamp::from_unix_seconds(seconds).ok()
}
