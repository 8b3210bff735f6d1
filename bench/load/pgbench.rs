//! pgbench as a reference: the work of one webhook in one transaction, without the service.

use std::time::Duration;

use crate::support::cluster::postgres_program;

/// Runs `event.sql` and returns the transactions per second.
pub(crate) fn rate(url: &str, images: usize, clients: usize, duration: Duration) -> f64 {
    let threads = clients.min(2);
    let output = postgres_program("pgbench")
        .args(["--no-vacuum", "--protocol=prepared"])
        .args([
            "-c",
            &clients.to_string(),
            "-j",
            &threads.to_string(),
            "-T",
            &duration.as_secs().to_string(),
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
            "pgbench printed no rate: {stdout}{}",
            String::from_utf8_lossy(&output.stderr)
        )
    })
}
