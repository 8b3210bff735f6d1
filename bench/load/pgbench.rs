//! One event in one transaction, by Postgres's own benchmark.

use std::time::Duration;

use crate::support::cluster::program;

/// Transactions a second.
pub(crate) fn rate(url: &str, images: usize, clients: usize, time: Duration) -> f64 {
    let threads = clients.min(2);
    let output = program("pgbench")
        .args(["--no-vacuum", "--protocol=prepared"])
        .args([
            "-c",
            &clients.to_string(),
            "-j",
            &threads.to_string(),
            "-T",
            &time.as_secs().to_string(),
        ])
        .args([
            "-D",
            &format!("images={images}"),
            "-D",
            &format!("clients={clients}"),
            "-D",
            "turn=0",
        ])
        .args([
            "-f",
            concat!(env!("CARGO_MANIFEST_DIR"), "/bench/load/event.sql"),
            url,
        ])
        .stdout(std::process::Stdio::piped())
        .output()
        .expect("pgbench runs");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let rate = stdout.lines().find_map(|line| {
        let rate = line.strip_prefix("tps = ")?;
        rate.split(' ').next()?.parse().ok()
    });
    rate.unwrap_or_else(|| {
        panic!(
            "pgbench says: {stdout}{}",
            String::from_utf8_lossy(&output.stderr)
        )
    })
}
