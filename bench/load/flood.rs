//! What a flood of wrong signatures costs good webhooks: its share of the processors, and no more.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::TIME;
use crate::support::program::Service;
use crate::wrk::{AtTheEnd, send};

/// Over how many connections either of them comes.
const CONNECTIONS: usize = 64;

/// How many clock ticks a second has in `/proc` (Linux, `USER_HZ`).
const TICKS_PER_SECOND: u64 = 100;

/// What was measured.
pub(crate) struct Flood {
    /// Good webhooks a second while there was no flood: the higher of before and after it.
    pub(crate) alone: f64,
    /// Good webhooks a second while there was.
    pub(crate) beside: f64,
    /// Wrong ones a second.
    pub(crate) wrong: f64,
    /// Which part of the processors' time the flood took: its sender, and the service for it.
    pub(crate) share: f64,
    /// How many good ones were acknowledged in all.
    pub(crate) acknowledged: u64,
}

impl Flood {
    /// Which part of the good webhooks was left.
    pub(crate) fn left(&self) -> f64 {
        self.beside / self.alone
    }
}

/// Sends good webhooks alone, beside a flood, and alone again: each of these files in its turn.
pub(crate) fn measure(service: &Service, good: [&Path; 3], wrong: &Path) -> Flood {
    let url = service.url();
    let good = good.map(|file| {
        let url = &url;
        move || send(url, file, CONNECTIONS, TIME, AtTheEnd::Fail)
    });
    let flood = || send(&url, wrong, CONNECTIONS, TIME, AtTheEnd::Again);

    let before = good[0]();
    let cpu_before = cpu(service);
    let by_itself = flood();
    let cpu_of_service = cpu(service).saturating_sub(cpu_before);
    let (beside, at_once) = std::thread::scope(|scope| {
        let flood = scope.spawn(flood);
        (good[1](), flood.join().expect("it is sent"))
    });
    let after = good[2]();

    for sent in [&by_itself, &at_once] {
        assert_eq!(
            sent.acknowledged, 0,
            "nobody without the secret changes anything"
        );
    }
    for sent in [&before, &beside, &after] {
        assert_eq!(sent.refused, 0, "every good webhook is acknowledged");
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    #[expect(clippy::cast_precision_loss, reason = "there are less than 2^52")]
    let share = {
        let of_each = cpu_of_service.as_secs_f64() / by_itself.refused as f64;
        let of_flood = at_once.cpu.as_secs_f64() + of_each * at_once.refused as f64;
        of_flood / (cores as f64 * TIME.as_secs_f64())
    };
    Flood {
        alone: before.rate.max(after.rate),
        beside: beside.rate,
        wrong: at_once.rate,
        share,
        acknowledged: before.acknowledged + beside.acknowledged + after.acknowledged,
    }
}

/// How much of the processors' time the service has had.
fn cpu(service: &Service) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", service.id())).expect("it runs");
    // proc(5): utime and stime are the 14th and the 15th; the 2nd is a name in brackets.
    let (_, after_name) = stat.rsplit_once(')').expect("a name");
    let ticks: u64 = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().expect("a number"))
        .sum();
    Duration::from_millis(1000 * ticks / TICKS_PER_SECOND)
}
