//! A cache of the connections that record batches. The pool pings each connection that returns to it. With the cache, a busy
//! writer does not pay for a ping after every commit.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::connection::Connection;

/// The longest time that a connection stays out of the pool. Then it returns, because only the pool closes connections that are
/// older than the pool's maximum lifetime.
const MAX_AGE: Duration = Duration::from_mins(1);

/// A cache of connections whose last use succeeded.
pub(super) struct ConnectionCache {
    capacity: usize,
    /// The longest idle time of a cached connection. [`ConnectionCache::take`] returns a connection that was idle for longer to
    /// the pool, which pings it.
    max_idle: Duration,
    cached: Mutex<Vec<CacheEntry>>,
}

struct CacheEntry {
    connection: Connection,
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

    /// Takes the connection that was used last, unless it was idle for too long.
    pub(super) fn take(&self) -> Option<Connection> {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(last) = cached.pop() {
            if last.used_at.elapsed() < self.max_idle {
                return Some(last.connection);
            }
            last.connection.release();
        }
        None
    }

    /// Caches a connection after successful use. Returns it to the pool if the cache is full or the connection is old.
    pub(super) fn put(&self, connection: Connection) {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.len() < self.capacity && connection.acquired_at().elapsed() < MAX_AGE {
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
