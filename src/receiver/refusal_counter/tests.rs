//! The counter without a database. `tests/spec` tests the stored rows.

use std::net::Ipv4Addr;

use super::*;
use crate::clock::ManualClock;

fn counter() -> RefusalCounter {
    RefusalCounter::new(Arc::new(ManualClock::at(at(0))))
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(seconds).expect("a time")
}

fn counts(counter: &RefusalCounter) -> Vec<(i64, String, i64)> {
    let counts = counter.counts.lock().expect("no panic");
    let mut counts: Vec<_> = counts
        .by_key
        .iter()
        .map(|(key, count)| (key.minute, key.network.clone(), *count))
        .collect();
    counts.sort();
    counts
}

fn refuse(counter: &RefusalCounter, second: i64, client: Option<IpAddr>) {
    counter.count(RejectionReason::Unauthenticated, at(second), None, client);
}

/// Counts one refusal from each of this many networks.
fn flood(counter: &RefusalCounter, second: i64, networks: u32) {
    for network in 0..networks {
        refuse(
            counter,
            second,
            Some(Ipv4Addr::from_bits(network << 8).into()),
        );
    }
}

#[test]
fn counts_clients_of_one_network_together() {
    for (one, other, together) in [
        ("203.0.113.7", "203.0.113.200", "203.0.113.0/24"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.7", "203.0.113.9", "203.0.113.0/24"),
    ] {
        let counter = counter();

        for client in [one, other] {
            refuse(&counter, 61, client.parse().ok());
        }

        assert_eq!(counts(&counter), [(60, together.to_owned(), 2)]);
    }
}

#[test]
fn limits_networks_without_losing_counts() {
    let counter = counter();

    flood(&counter, 5, 100_000);

    let counts = counts(&counter);
    assert_eq!(counts.len(), MAX_NETWORK_ROWS + 1);
    assert_eq!(
        counts.iter().map(|(_, _, count)| count).sum::<i64>(),
        100_000
    );
    assert!(counts.contains(&(0, OTHER_NETWORKS.to_owned(), 99_002)));
}

#[test]
fn long_flood_adds_few_rows_per_minute() {
    let counter = counter();

    for minute in 0..10 {
        flood(&counter, 60 * minute, 2000);
        let before = 60 * (minute + 1);
        let mut counts = counter.lock();
        let rows = counts
            .by_key
            .extract_if(|key, _| key.minute < before)
            .count();

        let own_rows = if minute == 0 {
            MAX_NETWORK_ROWS
        } else {
            NETWORK_ROWS_PER_MINUTE
        };
        assert_eq!(rows, own_rows + 1, "minute {minute}");
    }
}

#[test]
fn quiet_hour_restores_network_budget() {
    let counter = counter();

    for minute in [0, 1, 61] {
        flood(&counter, 60 * minute, 2000);
        let rows = counter.lock().by_key.drain().count();

        let own_rows = if minute == 1 {
            NETWORK_ROWS_PER_MINUTE
        } else {
            MAX_NETWORK_ROWS
        };
        assert_eq!(rows, own_rows + 1, "minute {minute}");
    }
}
