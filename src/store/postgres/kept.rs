//! The connections on which batches are recorded, kept from one batch to the next: the pool asks each connection that comes back
//! whether it lives, and a busy writer would pay for that after every commit.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::Postgres as Database;
use tokio::time::Instant;

use super::IDLE_BEFORE_CHECK;
use crate::store::Lent;

/// After this long a connection goes back to the pool, which has its own idea of how long one may live.
const LONGEST: Duration = Duration::from_mins(1);

/// Connections that were well when they were used last, and may be used again soon.
pub(super) struct Kept {
    most: usize,
    lent: Mutex<Vec<KeptOne>>,
}

struct KeptOne {
    lent: Lent<Database>,
    used_at: Instant,
}

impl Kept {
    /// Keeps so many at the most.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            lent: Mutex::default(),
        }
    }

    /// A connection that was used a moment ago. The others go back to the pool.
    pub(super) fn take(&self) -> Option<Lent<Database>> {
        let mut lent = self.lent.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(kept) = lent.pop() {
            if kept.used_at.elapsed() < IDLE_BEFORE_CHECK {
                return Some(kept.lent);
            }
            kept.lent.give_back();
        }
        None
    }

    /// Keeps a connection whose work ended well, or gives it back.
    pub(super) fn put(&self, lent: Lent<Database>) {
        let mut kept = self.lent.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < self.most && lent.since.elapsed() < LONGEST {
            kept.push(KeptOne {
                lent,
                used_at: Instant::now(),
            });
        } else {
            lent.give_back();
        }
    }

    /// Gives back what is kept.
    pub(super) fn give_back(&self) {
        let mut kept = self.lent.lock().unwrap_or_else(PoisonError::into_inner);
        kept.drain(..).for_each(|kept| kept.lent.give_back());
    }
}
