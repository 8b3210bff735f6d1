//! The connections on which batches are recorded, kept from one batch to the next. The pool pings each connection that is returned
//! to it, and a busy writer would pay for that after every commit.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::Postgres as Database;
use tokio::time::Instant;

use crate::store::session::GuardedConnection;

/// A connection that was acquired longer ago returns to the pool, which limits how long one may live.
const MAX_AGE: Duration = Duration::from_mins(1);

/// Connections whose last use ended well.
pub(super) struct ConnectionCache {
    capacity: usize,
    /// A connection that was idle for longer is returned to the pool, which pings it before its next use.
    max_idle: Duration,
    cached: Mutex<Vec<CacheEntry>>,
}

struct CacheEntry {
    connection: GuardedConnection<Database>,
    used_at: Instant,
}

impl ConnectionCache {
    pub(super) fn new(capacity: usize, max_idle: Duration) -> Self {
        Self {
            capacity,
            max_idle,
            cached: Mutex::default(),
        }
    }

    /// Returns the connection that was used last, unless it was idle for too long.
    pub(super) fn take(&self) -> Option<GuardedConnection<Database>> {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(last) = cached.pop() {
            if last.used_at.elapsed() < self.max_idle {
                return Some(last.connection);
            }
            last.connection.release();
        }
        None
    }

    /// Keeps a connection whose work ended well, or returns it to the pool.
    pub(super) fn put(&self, connection: GuardedConnection<Database>) {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.len() < self.capacity && connection.acquired_at.elapsed() < MAX_AGE {
            cached.push(CacheEntry {
                connection,
                used_at: Instant::now(),
            });
        } else {
            connection.release();
        }
    }

    /// Returns all connections to the pool.
    pub(super) fn clear(&self) {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        cached
            .drain(..)
            .for_each(|entry| entry.connection.release());
    }
}
