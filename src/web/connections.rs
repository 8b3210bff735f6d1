//! The open connections of a listener. Limits them for each client, and finds the one that has been idle for the longest time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::client::client_key;

/// The open connections of a listener.
#[derive(Default)]
pub(super) struct Connections {
    table: Mutex<Table>,
    /// Counts the moments at which a connection becomes idle. It orders these moments.
    idle_moments: AtomicU64,
}

#[derive(Default)]
struct Table {
    by_id: HashMap<u64, Arc<Activity>>,
    clients: HashMap<u128, usize>,
    last_id: u64,
}

/// An open connection. Dropping it removes the connection from the table.
pub(super) struct OpenConnection {
    connections: Arc<Connections>,
    id: u64,
    client: IpAddr,
    activity: Arc<Activity>,
}

/// The requests of a connection.
#[derive(Default)]
pub(super) struct Activity {
    started: AtomicU64,
    ended: AtomicU64,
    /// The moment at which the connection became idle, or was opened.
    idle_since: AtomicU64,
    /// Cancelled to make room for another connection.
    closing: CancellationToken,
}

impl Connections {
    /// Opens a connection. Returns `None` if the client already has `client_limit` connections.
    pub(super) fn open(
        self: &Arc<Self>,
        client: IpAddr,
        client_limit: Option<usize>,
    ) -> Option<OpenConnection> {
        let activity = Arc::new(Activity::default());
        activity.set_idle(self);
        let mut table = self.lock();
        let of_client = table.clients.entry(client_key(client)).or_default();
        if client_limit.is_some_and(|limit| *of_client >= limit) {
            return None;
        }
        *of_client += 1;
        table.last_id += 1;
        let id = table.last_id;
        table.by_id.insert(id, Arc::clone(&activity));
        Some(OpenConnection {
            connections: Arc::clone(self),
            id,
            client,
            activity,
        })
    }

    /// Asks the connection that has been idle for the longest time to close. Returns whether there is one.
    pub(super) fn close_longest_idle(&self) -> bool {
        let table = self.lock();
        let idle = table.by_id.values().filter(|activity| activity.is_idle());
        let longest = idle.min_by_key(|activity| activity.idle_since.load(Ordering::Relaxed));
        if let Some(longest) = longest {
            longest.closing.cancel();
        }
        longest.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenConnection {
    pub(super) fn activity(&self) -> &Activity {
        &self.activity
    }

    /// Counts a request until the returned value is dropped.
    pub(super) fn start_request(&self) -> InFlight {
        self.activity.started.fetch_add(1, Ordering::Release);
        InFlight {
            connections: Arc::clone(&self.connections),
            activity: Arc::clone(&self.activity),
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let mut table = self.connections.lock();
        table.by_id.remove(&self.id);
        let key = client_key(self.client);
        if let Some(of_client) = table.clients.get_mut(&key) {
            *of_client -= 1;
            if *of_client == 0 {
                table.clients.remove(&key);
            }
        }
    }
}

impl Activity {
    /// Returns the number of started requests. Returns `None` if no request is in flight and none has started since `last_count`.
    pub(super) fn started_after(&self, last_count: u64) -> Option<u64> {
        let (ended, started) = (
            self.ended.load(Ordering::Acquire),
            self.started.load(Ordering::Acquire),
        );
        (started > last_count || started > ended).then_some(started)
    }

    /// Returns whether a request is in flight.
    pub(super) fn is_busy(&self) -> bool {
        self.ended.load(Ordering::Acquire) < self.started.load(Ordering::Acquire)
    }

    /// Waits until the connection must make room for another one.
    pub(super) async fn closing(&self) {
        self.closing.cancelled().await;
    }

    /// Returns whether no request is in flight, and the connection was not yet asked to close.
    pub(super) fn is_idle(&self) -> bool {
        !self.is_busy() && !self.closing.is_cancelled()
    }

    fn set_idle(&self, connections: &Connections) {
        let moment = connections.idle_moments.fetch_add(1, Ordering::Relaxed);
        self.idle_since.store(moment, Ordering::Relaxed);
    }
}

/// A request in flight. Dropping it counts the request as ended, with or without a response.
pub(super) struct InFlight {
    connections: Arc<Connections>,
    activity: Arc<Activity>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.activity.set_idle(&self.connections);
        self.activity.ended.fetch_add(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn closes_longest_idle_connection() {
        let connections = Arc::new(Connections::default());
        let open = |_| connections.open(ip("192.0.2.1"), None).expect("no limit");
        let [busy, active, idle] = [0, 1, 2].map(open);
        let request = busy.start_request();
        drop(active.start_request());
        let closing = || {
            let is_closing =
                |connection: &OpenConnection| connection.activity.closing.is_cancelled();
            [&busy, &active, &idle].map(is_closing)
        };

        assert!(connections.close_longest_idle());
        assert_eq!(closing(), [false, false, true]);
        assert!(connections.close_longest_idle());
        assert_eq!(closing(), [false, true, true]);
        assert!(!connections.close_longest_idle(), "the last one is busy");
        drop(request);
        assert!(connections.close_longest_idle());
    }

    #[test]
    fn limits_connections_per_client() {
        let connections = Arc::new(Connections::default());
        let open = |client: &str| connections.open(ip(client), Some(2));

        let first = open("2001:db8::1").expect("below the limit");
        let _second = open("2001:db8::2").expect("at the limit");
        assert!(open("2001:db8::3").is_none(), "it is the same /64 network");
        assert!(open("2001:db8:1::1").is_some(), "it is another client");
        drop(first);
        assert!(open("2001:db8::3").is_some());
    }
}
