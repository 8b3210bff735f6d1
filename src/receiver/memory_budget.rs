//! The memory budget of unauthenticated requests: their heads, and their bodies as far as they have arrived.
//!
//! It is the part of `server.unauthenticated_memory_bytes` that the buffers of the connections do not need. These buffers have the
//! heads that have not arrived whole. After authentication, memory does not count here: the gate limits the bodies in flight.
//!
//! Anyone can send such requests. Without the budget, many slow requests could fill the memory. A request that waits for its body
//! also counts towards the share of its client, so one client cannot use up the budget.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::telemetry::metrics::WebhookMetrics;
use crate::web::{Problem, ProblemType, client_key};

/// The part of the budget that the waiting requests of one client may use: a quarter.
const CLIENT_SHARE: usize = 4;

/// A budget in bytes that concurrent requests share.
pub(super) struct MemoryBudget {
    limit: usize,
    used: AtomicUsize,
    /// The bytes of waiting requests, for each client.
    waiting: Mutex<HashMap<u128, usize>>,
    metrics: WebhookMetrics,
}

/// The bytes that one request uses. Dropping it returns them to the budget.
pub(super) struct Reservation<'a> {
    budget: &'a MemoryBudget,
    bytes: usize,
    /// The client, if its address is known.
    client: Option<u128>,
    /// Whether the bytes count towards the share of the client.
    is_waiting: bool,
}

/// The error if the budget or the share of the client has too few bytes left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unauthenticated requests use too much memory (server.unauthenticated_memory_bytes)")]
pub(super) struct BudgetExceeded;

impl From<BudgetExceeded> for Problem {
    fn from(exceeded: BudgetExceeded) -> Self {
        Self::of(ProblemType::Busy).caused_by(exceeded)
    }
}

impl MemoryBudget {
    pub(super) fn new(limit: usize, metrics: WebhookMetrics) -> Self {
        Self {
            limit,
            used: AtomicUsize::new(0),
            waiting: Mutex::default(),
            metrics,
        }
    }

    /// Reserves bytes for a new request of this client.
    pub(super) fn reserve(
        &self,
        client: Option<IpAddr>,
        bytes: usize,
    ) -> Result<Reservation<'_>, BudgetExceeded> {
        let mut reservation = Reservation {
            budget: self,
            bytes: 0,
            client: client.map(client_key),
            is_waiting: false,
        };
        reservation.grow(bytes)?;
        Ok(reservation)
    }

    /// Reserves bytes of a client's share.
    fn reserve_share(&self, client: u128, bytes: usize) -> Result<(), BudgetExceeded> {
        let mut waiting = self.waiting();
        let used = waiting.get(&client).copied().unwrap_or_default();
        if used + bytes > self.limit / CLIENT_SHARE {
            return Err(BudgetExceeded);
        }
        waiting.insert(client, used + bytes);
        Ok(())
    }

    fn return_share(&self, client: u128, bytes: usize) {
        let mut waiting = self.waiting();
        if let Some(used) = waiting.get_mut(&client) {
            *used -= bytes;
            if *used == 0 {
                waiting.remove(&client);
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u128, usize>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn exceeded(&self) -> BudgetExceeded {
        self.metrics.out_of_memory.inc();
        BudgetExceeded
    }
}

impl Reservation<'_> {
    /// Counts the request towards the share of its client, from now on. The request waits for its body.
    pub(super) fn wait(&mut self) -> Result<(), BudgetExceeded> {
        if let Some(client) = self.client
            && !self.is_waiting
        {
            let reserved = self.budget.reserve_share(client, self.bytes);
            reserved.map_err(|_| self.budget.exceeded())?;
            self.is_waiting = true;
        }
        Ok(())
    }

    /// Reserves further bytes for the same request.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), BudgetExceeded> {
        let used = self.budget.used.fetch_add(bytes, Ordering::Relaxed);
        let fits = used.saturating_add(bytes) <= self.budget.limit;
        let client = self.client.filter(|_| self.is_waiting);
        let reserved = client.map_or(Ok(()), |client| self.budget.reserve_share(client, bytes));
        if fits && reserved.is_ok() {
            self.bytes += bytes;
            return Ok(());
        }
        self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
        if let (Some(client), Ok(())) = (client, reserved) {
            self.budget.return_share(client, bytes);
        }
        Err(self.budget.exceeded())
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
        if let Some(client) = self.client.filter(|_| self.is_waiting) {
            self.budget.return_share(client, self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget() -> MemoryBudget {
        MemoryBudget::new(16, WebhookMetrics::default())
    }

    #[test]
    fn requests_share_the_limit() {
        let budget = budget();
        let mut first = budget.reserve(None, 6).expect("6 of 16 bytes");
        let second = budget.reserve(None, 9).expect("15 of 16 bytes");

        assert_eq!(first.grow(2), Err(BudgetExceeded));
        assert_eq!(first.grow(1), Ok(()));
        assert!(budget.reserve(None, 1).is_err());
        drop(second);
        assert_eq!(first.grow(9), Ok(()), "a failed attempt reserves nothing");
    }

    #[test]
    fn waiting_requests_of_client_share_a_quarter() {
        let budget = budget();
        let reserve =
            |client, bytes| budget.reserve(Some(IpAddr::from([192, 0, 2, client])), bytes);
        let mut first = reserve(1, 2).expect("2 of 16 bytes");
        let mut second = reserve(1, 2).expect("4 of 16 bytes");
        assert_eq!((first.wait(), second.wait()), (Ok(()), Ok(())));

        assert_eq!(first.grow(1), Err(BudgetExceeded));
        let mut third = reserve(1, 3).expect("it does not wait yet");
        assert_eq!(third.wait(), Err(BudgetExceeded));
        let mut other = reserve(2, 3).expect("10 of 16 bytes");
        assert_eq!(other.wait(), Ok(()));
        drop(second);
        assert_eq!(first.grow(2), Ok(()));
    }
}
