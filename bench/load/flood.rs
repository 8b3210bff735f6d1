//! The cost of a flood: valid webhooks while many requests with wrong signatures arrive.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::ROW_DURATION;
use crate::support::program::Service;
use crate::wrk::{WhenExhausted, send};

/// The connections of the valid webhooks, and those of the flood.
const CONNECTIONS: usize = 64;

/// The clock ticks of one second in `/proc` (Linux, `USER_HZ`).
const TICKS_PER_SECOND: u64 = 100;

/// The result of the measurement.
pub(crate) struct FloodResult {
    /// Valid webhooks per second without a flood: the higher rate of before and after it.
    pub(crate) baseline_rate: f64,
    /// Valid webhooks per second during the flood.
    pub(crate) rate_during_flood: f64,
    /// Requests of the flood per second.
    pub(crate) flood_rate: f64,
    /// The flood's share of the CPU time, from 0 to 1: its sender, and the service's work for it.
    pub(crate) cpu_share: f64,
    /// The number of acknowledged webhooks in all three measurements.
    pub(crate) acknowledged: u64,
}

impl FloodResult {
    /// Returns the share of the baseline that remains during the flood.
    pub(crate) fn remaining(&self) -> f64 {
        self.rate_during_flood / self.baseline_rate
    }
}

/// Sends valid webhooks alone, during a flood, and alone again. Each time has its own file of webhooks.
pub(crate) fn measure(service: &Service, valid: [&Path; 3], invalid: &Path) -> FloodResult {
    let url = service.url();
    let valid = valid.map(|file| {
        let url = &url;
        move || send(url, file, CONNECTIONS, ROW_DURATION, WhenExhausted::Fail)
    });
    let flood = || {
        send(
            &url,
            invalid,
            CONNECTIONS,
            ROW_DURATION,
            WhenExhausted::Repeat,
        )
    };

    let before = valid[0]();
    let cpu_before = cpu_time(service);
    let flood_alone = flood();
    let service_cpu = cpu_time(service).saturating_sub(cpu_before);
    let (during_flood, flood) = std::thread::scope(|scope| {
        let flood = scope.spawn(flood);
        (valid[1](), flood.join().expect("the sender does not panic"))
    });
    let after = valid[2]();

    for sent in [&flood_alone, &flood] {
        assert_eq!(
            sent.acknowledged, 0,
            "requests with a wrong signature are refused"
        );
    }
    for sent in [&before, &during_flood, &after] {
        assert_eq!(sent.refused, 0, "every valid webhook is acknowledged");
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    #[expect(clippy::cast_precision_loss, reason = "the counts are below 2^52")]
    let cpu_share = {
        let cpu_per_request = service_cpu.as_secs_f64() / flood_alone.refused as f64;
        let flood_cpu = flood.cpu.as_secs_f64() + cpu_per_request * flood.refused as f64;
        flood_cpu / (cores as f64 * ROW_DURATION.as_secs_f64())
    };
    FloodResult {
        baseline_rate: before.rate.max(after.rate),
        rate_during_flood: during_flood.rate,
        flood_rate: flood.rate,
        cpu_share,
        acknowledged: before.acknowledged + during_flood.acknowledged + after.acknowledged,
    }
}

/// Returns the CPU time of the service since its start.
fn cpu_time(service: &Service) -> Duration {
    let stat =
        fs::read_to_string(format!("/proc/{}/stat", service.id())).expect("the service runs");
    // proc(5): utime and stime are fields 14 and 15. Field 2 is a name in parentheses.
    let (_, after_name) = stat.rsplit_once(')').expect("a name in parentheses");
    let ticks: u64 = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().expect("a number"))
        .sum();
    Duration::from_millis(1000 * ticks / TICKS_PER_SECOND)
}
