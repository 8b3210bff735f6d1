//! Sends webhooks with wrk and returns its figures.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;

/// The time for the last responses to arrive.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The figures of one run of wrk.
pub(crate) struct Sent {
    /// The number of webhooks that were answered with 2xx.
    pub(crate) acknowledged: u64,
    /// The number of webhooks that were answered with another status.
    pub(crate) refused: u64,
    /// Responses per second.
    pub(crate) rate: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    /// The CPU time of wrk.
    pub(crate) cpu: Duration,
}

/// The line that `wrk.lua` prints at the end.
#[derive(Deserialize)]
struct Summary {
    answered: u64,
    refused: u64,
    failed: u64,
    unsent: u64,
    p50_us: u64,
    p99_us: u64,
}

/// The action after all webhooks of the file are sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenExhausted {
    /// Sends the file again.
    Repeat,
    /// Fails the benchmark, because the file is too short.
    Fail,
}

/// Sends the webhooks of a file over `connections` connections for `duration`.
pub(crate) fn send(
    url: &str,
    webhooks: &Path,
    connections: usize,
    duration: Duration,
    when_exhausted: WhenExhausted,
) -> Sent {
    // One thread of wrk sends more than a service on the same machine can answer.
    let threads = 1;
    let output = Command::new("sh")
        // `times` prints the shell's CPU time, then on a second line that of wrk.
        .args(["-c", "wrk \"$@\" && times", "wrk"])
        .args(["-t", &threads.to_string(), "-c", &connections.to_string()])
        .args([
            "-d",
            &format!("{}s", (duration + RESPONSE_TIMEOUT).as_secs()),
        ])
        .args([
            "-s",
            concat!(env!("CARGO_MANIFEST_DIR"), "/bench/load/wrk.lua"),
            url,
            "--",
        ])
        .arg(webhooks)
        .args([&duration.as_secs().to_string(), &threads.to_string()])
        .arg(if when_exhausted == WhenExhausted::Repeat {
            "repeat"
        } else {
            "once"
        })
        .output()
        .expect("wrk is installed: apt-get install wrk");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let summary = stdout
        .lines()
        .find(|line| line.starts_with('{'))
        .unwrap_or_else(|| {
            panic!(
                "wrk printed no summary: {stdout}{}",
                String::from_utf8_lossy(&output.stderr)
            )
        });
    let summary: Summary = serde_json::from_str(summary).expect("the summary of wrk.lua");

    assert_eq!(
        summary.failed, 0,
        "connections failed, or responses took more than 2 s: {stdout}"
    );
    assert_eq!(
        summary.unsent, 0,
        "all {} webhooks were sent before the time was up. Write more webhooks into the file.",
        summary.answered
    );
    #[expect(clippy::cast_precision_loss, reason = "the counts are below 2^52")]
    Sent {
        acknowledged: summary.answered - summary.refused,
        refused: summary.refused,
        rate: summary.answered as f64 / duration.as_secs_f64(),
        p50: Duration::from_micros(summary.p50_us),
        p99: Duration::from_micros(summary.p99_us),
        cpu: stdout.lines().last().map_or(Duration::ZERO, parse_cpu_time),
    }
}

/// Parses a line of the shell's `times`, such as `0m1.50s 0m2.25s`.
fn parse_cpu_time(line: &str) -> Duration {
    let times = line.split_whitespace().map(|time| {
        let (minutes, seconds) = time.trim_end_matches('s').split_once('m').expect("a time");
        let minutes: u64 = minutes.parse().expect("minutes");
        Duration::from_mins(minutes) + Duration::from_secs_f64(seconds.parse().expect("seconds"))
    });
    times.sum()
}
