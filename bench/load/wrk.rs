//! Sending with wrk, and what it saw.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;

/// How long after the last webhook is sent the answers may take to come.
const PATIENCE: Duration = Duration::from_secs(2);

/// What came of sending for a while.
pub(crate) struct Sent {
    /// Answered with 2xx.
    pub(crate) acknowledged: u64,
    /// Answered otherwise.
    pub(crate) refused: u64,
    /// Answers a second.
    pub(crate) rate: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    /// How much of the processors' time the sender took.
    pub(crate) cpu: Duration,
}

#[derive(Deserialize)]
struct Summary {
    answered: u64,
    refused: u64,
    broken: u64,
    unsent: u64,
    p50_us: u64,
    p99_us: u64,
}

/// What to do when all webhooks of the file are sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtTheEnd {
    Again,
    Fail,
}

/// Sends the webhooks of a file over so many connections, for so long.
pub(crate) fn send(
    url: &str,
    webhooks: &Path,
    connections: usize,
    time: Duration,
    at_the_end: AtTheEnd,
) -> Sent {
    // One thread of wrk's is busy with more connections than a service on the same machine can answer.
    let threads = 1;
    let output = Command::new("sh")
        // The shell's own times, and on a second line those of what it ran.
        .args(["-c", "wrk \"$@\" && times", "wrk"])
        .args(["-t", &threads.to_string(), "-c", &connections.to_string()])
        .args(["-d", &format!("{}s", (time + PATIENCE).as_secs())])
        .args([
            "-s",
            concat!(env!("CARGO_MANIFEST_DIR"), "/bench/load/wrk.lua"),
            url,
            "--",
        ])
        .arg(webhooks)
        .args([&time.as_secs().to_string(), &threads.to_string()])
        .arg(if at_the_end == AtTheEnd::Again {
            "again"
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
                "wrk says: {stdout}{}",
                String::from_utf8_lossy(&output.stderr)
            )
        });
    let summary: Summary = serde_json::from_str(summary).expect("what the script wrote");

    assert_eq!(
        summary.broken, 0,
        "connections broke, or answers took more than 2 s: {stdout}"
    );
    assert_eq!(
        summary.unsent, 0,
        "all {} webhooks were sent before the time was up; prepare more",
        summary.answered
    );
    #[expect(clippy::cast_precision_loss, reason = "there are less than 2^52")]
    Sent {
        acknowledged: summary.answered - summary.refused,
        refused: summary.refused,
        rate: summary.answered as f64 / time.as_secs_f64(),
        p50: Duration::from_micros(summary.p50_us),
        p99: Duration::from_micros(summary.p99_us),
        cpu: stdout.lines().last().map_or(Duration::ZERO, cpu),
    }
}

/// What the shell's `times` says of it: `0m1.50s 0m2.25s`.
fn cpu(line: &str) -> Duration {
    let times = line.split_whitespace().map(|time| {
        let (minutes, seconds) = time.trim_end_matches('s').split_once('m').expect("a time");
        let minutes: u64 = minutes.parse().expect("minutes");
        Duration::from_mins(minutes) + Duration::from_secs_f64(seconds.parse().expect("seconds"))
    });
    times.sum()
}
