//! The report: tables of the results, the goals, and RESULTS.md.

use std::fmt::Write;
use std::fs;
use std::process::Command;
use std::time::Duration;

use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;

use crate::PublishingCost;
use crate::flood::FloodResult;
use crate::relay::{JqResult, RelayResult};
use crate::webhooks::Shape;
use crate::wrk::Sent;

/// A measured row with its references.
pub(crate) struct Row {
    pub(crate) database: &'static str,
    pub(crate) connections: usize,
    pub(crate) images: usize,
    pub(crate) shape: Shape,
    pub(crate) sent: Sent,
    pub(crate) ceiling: Sent,
    /// Transactions per second with 1 and with 32 clients. Empty on SQLite.
    pub(crate) pgbench: Vec<f64>,
    pub(crate) peak_memory: u64,
}

impl Row {
    /// Returns the rate as a share of the ceiling.
    fn of_ceiling(&self) -> f64 {
        self.sent.rate / self.ceiling.rate
    }

    /// Returns the rate as a multiple of the best rate of pgbench.
    fn times_pgbench(&self) -> Option<f64> {
        let best = self.pgbench.iter().copied().reduce(f64::max)?;
        Some(self.sent.rate / best)
    }

    fn p99_to_p50(&self) -> f64 {
        self.sent.p99.as_secs_f64() / self.sent.p50.as_secs_f64()
    }

    fn cells(&self) -> Vec<String> {
        let pgbench = |client: usize| {
            self.pgbench
                .get(client)
                .map_or_else(String::new, |rate| format!("{rate:.0}"))
        };
        vec![
            self.database.to_owned(),
            self.connections.to_string(),
            self.images.to_string(),
            self.shape.name().to_owned(),
            format!("{:.0}", self.sent.rate),
            milliseconds(self.sent.p50),
            milliseconds(self.sent.p99),
            format!("{:.0}", self.ceiling.rate),
            format!("{:.0} %", 100.0 * self.of_ceiling()),
            pgbench(0),
            pgbench(1),
            self.times_pgbench()
                .map_or_else(String::new, |ratio| format!("{ratio:.2}")),
            mebibytes(self.peak_memory),
        ]
    }
}

fn flood_cells(database: &str, flood: &FloodResult) -> Vec<String> {
    vec![
        database.to_owned(),
        format!("{:.0}", flood.baseline_rate),
        format!("{:.0}", flood.rate_during_flood),
        format!("{:.0}", flood.flood_rate),
        format!("{:.0} %", 100.0 * flood.remaining()),
        format!("{:.0} %", 100.0 * flood.cpu_share),
    ]
}

const HEADER: [&str; 13] = [
    "database",
    "connections",
    "images",
    "shape",
    "webhooks/s",
    "p50 ms",
    "p99 ms",
    "ceiling/s",
    "of ceiling",
    "pgbench -c 1",
    "pgbench -c 32",
    "times pgbench",
    "peak MiB",
];

/// The median time for recording one webhook, without concurrency.
#[derive(Clone, Copy)]
pub(crate) struct SequentialResult {
    pub(crate) plain: Duration,
    pub(crate) grouped: Duration,
}

impl SequentialResult {
    fn ratio(self) -> f64 {
        self.grouped.as_secs_f64() / self.plain.as_secs_f64()
    }
}

/// All results.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
    sequential: Vec<(&'static str, SequentialResult)>,
    floods: Vec<(&'static str, FloodResult)>,
    relays: Vec<(&'static str, RelayResult, PublishingCost)>,
    jqs: Vec<(&'static str, JqResult)>,
}

impl Report {
    /// Adds a row and prints it.
    pub(crate) fn add_row(&mut self, row: Row) {
        print_line(&row.cells().join(" | "));
        self.rows.push(row);
    }

    /// Adds the overhead of group commit without concurrency, and prints it.
    pub(crate) fn add_sequential(&mut self, database: &'static str, result: SequentialResult) {
        print_line(&format!(
            "{database}, sequential: {:?} without group commit, {:?} with it",
            result.plain, result.grouped
        ));
        self.sequential.push((database, result));
    }

    /// Adds the cost of a flood and prints it.
    pub(crate) fn add_flood(&mut self, database: &'static str, flood: FloodResult) {
        print_line(&format!(
            "{database}, flood: {}",
            flood_cells(database, &flood).join(" | ")
        ));
        self.floods.push((database, flood));
    }

    /// Adds the speed of the relay and the cost of publishing, and prints them.
    pub(crate) fn add_relay(
        &mut self,
        database: &'static str,
        relay: RelayResult,
        cost: PublishingCost,
    ) {
        print_line(&format!(
            "{database}, relay: {}",
            relay_cells(database, &relay, &cost).join(" | ")
        ));
        self.relays.push((database, relay, cost));
    }

    /// Adds the cost of jq programs and prints it.
    pub(crate) fn add_jq(&mut self, database: &'static str, jq: JqResult) {
        print_line(&format!(
            "{database}, jq: {}",
            jq_cells(database, jq).join(" | ")
        ));
        self.jqs.push((database, jq));
    }

    /// Prints the report.
    pub(crate) fn print(&self) {
        print_line(&self.text());
    }

    /// Prints the report and writes it to RESULTS.md.
    pub(crate) fn write(&self) {
        let text = format!(
            "# Benchmark results\n\n`make bench` on {}, at commit {}, on {}.\n\n{}",
            output_of(Command::new("date").args(["-u", "+%Y-%m-%d"])),
            commit(),
            machine(),
            self.text()
        );
        fs::write(
            concat!(env!("CARGO_MANIFEST_DIR"), "/bench/RESULTS.md"),
            &text,
        )
        .expect("RESULTS.md can be written");
        print_line(&text);
    }

    fn text(&self) -> String {
        let mut rows = table(&HEADER);
        rows.add_rows(self.rows.iter().map(Row::cells));
        let mut sequential = table(&SEQUENTIAL_HEADER);
        sequential.add_rows(self.sequential.iter().map(|(database, result)| {
            [
                (*database).to_owned(),
                format!("{:.0}", result.plain.as_secs_f64() * 1e6),
                format!("{:.0}", result.grouped.as_secs_f64() * 1e6),
                format!("{:.2}", result.ratio()),
            ]
        }));
        let mut floods = table(&FLOOD_HEADER);
        floods.add_rows(
            self.floods
                .iter()
                .map(|(database, flood)| flood_cells(database, flood)),
        );
        let mut relays = table(&RELAY_HEADER);
        relays.add_rows(
            self.relays
                .iter()
                .map(|(database, relay, cost)| relay_cells(database, relay, cost)),
        );
        let mut jqs = table(&JQ_HEADER);
        jqs.add_rows(
            self.jqs
                .iter()
                .map(|(database, jq)| jq_cells(database, *jq)),
        );
        let mut goals = table(&["goal", "measured", "met"]);
        goals.add_rows(self.goals());
        format!(
            "{EXPLANATION}\n{rows}\n\n{SEQUENTIAL_EXPLANATION}\n{sequential}\n\n{FLOOD_EXPLANATION}\n{floods}\n\n{RELAY_EXPLANATION}\n{relays}\n\n{JQ_EXPLANATION}\n{jqs}\n\n{GOALS_EXPLANATION}\n{goals}\n"
        )
    }

    fn find(&self, database: &str, connections: usize, images: usize) -> Option<&Row> {
        self.rows.iter().find(|row| {
            (row.database, row.connections, row.images, row.shape)
                == (database, connections, images, Shape::Envelope)
        })
    }

    /// Returns each goal with the measured figure, and whether the goal is met.
    fn goals(&self) -> Vec<[String; 3]> {
        let mut goals = Vec::new();
        let mut goal = |text: String, measured: Option<f64>, is_met: &dyn Fn(f64) -> bool| {
            if let Some(measured) = measured {
                let verdict = if is_met(measured) { "yes" } else { "**no**" };
                goals.push([text, format!("{measured:.2}"), verdict.to_owned()]);
            }
        };
        let postgres = self.find("postgres", 256, crate::IMAGES);
        goal(
            "postgres, 256 connections: at least 2.5 times the best of pgbench".to_owned(),
            postgres.and_then(Row::times_pgbench),
            &|ratio| ratio >= 2.5,
        );
        for (database, share) in [("postgres", 0.35), ("sqlite", 0.45)] {
            let row = self.find(database, 256, crate::IMAGES);
            goal(
                format!("{database}, 256 connections: at least {share} of the ceiling"),
                row.map(Row::of_ceiling),
                &|ratio| ratio >= share,
            );
        }
        for (database, result) in &self.sequential {
            goal(
                format!("{database}, sequential: group commit takes at most 1.05 times as long"),
                Some(result.ratio()),
                &|ratio| ratio <= 1.05,
            );
        }
        for database in ["sqlite", "postgres"] {
            self.scaling_goals(database, &mut goal);
        }
        for (database, flood) in &self.floods {
            goal(
                format!(
                    "{database}: a flood costs at most its share of the CPUs (remaining + share at least 1)"
                ),
                Some(flood.remaining() + flood.cpu_share),
                &|sum| sum >= 1.0,
            );
        }
        for (database, relay, cost) in &self.relays {
            relay_goals(database, relay, cost, &mut goal);
        }
        for (database, jq) in &self.jqs {
            goal(
                format!(
                    "{database}: with `when` and `transform`, at least 0.6 of the deliveries/s without"
                ),
                Some(jq.rate / jq.baseline_rate),
                &|ratio| ratio >= 0.6,
            );
        }
        let peak = self.rows.iter().map(|row| row.peak_memory).max();
        #[expect(clippy::cast_precision_loss, reason = "the bytes are below 2^52")]
        goal(
            "peak memory below 64 MiB".to_owned(),
            peak.map(|peak| peak as f64 / f64::from(1 << 20)),
            &|peak| peak < 64.0,
        );
        goals
    }

    /// Adds the goals for 64 connections: the spread of the latency, and the rate with many images.
    fn scaling_goals(&self, database: &str, goal: &mut AddGoal<'_>) {
        let row = self.find(database, 64, crate::IMAGES);
        goal(
            format!("{database}, 64 connections: p99 below 3 times p50"),
            row.map(Row::p99_to_p50),
            &|ratio| ratio < 3.0,
        );
        let (few, many) = (
            self.find(database, 64, 10_000),
            self.find(database, 64, 1_000_000),
        );
        let ratio = few
            .zip(many)
            .map(|(few, many)| many.sent.rate / few.sent.rate);
        goal(
            format!("{database}: with 1,000,000 images, at least 0.85 of the rate with 10,000"),
            ratio,
            &|ratio| ratio >= 0.85,
        );
    }
}

/// The function that adds a goal: its text, the measured figure, and the condition.
type AddGoal<'a> = dyn FnMut(String, Option<f64>, &dyn Fn(f64) -> bool) + 'a;

fn relay_goals(database: &str, relay: &RelayResult, cost: &PublishingCost, goal: &mut AddGoal<'_>) {
    let min_rate = if database == "postgres" {
        3000.0
    } else {
        2000.0
    };
    goal(
        format!("{database}: at least {min_rate} deliveries/s to one endpoint"),
        Some(relay.rate),
        &|rate| rate >= min_rate,
    );
    goal(
        format!("{database}: with 100,000 waiting, at least 0.8 of that rate"),
        Some(relay.long_backlog_rate / relay.rate),
        &|ratio| ratio >= 0.8,
    );
    goal(
        format!(
            "{database}: with a hanging and a failing endpoint, at least 0.9 of the rate alone"
        ),
        Some(relay.rate_with_bad / relay.baseline_rate.max(relay.rate)),
        &|ratio| ratio >= 0.9,
    );
    goal(
        format!("{database}: at 200 webhooks/s, p95 from response to delivery below 50 ms"),
        Some(relay.p95.as_secs_f64() * 1e3),
        &|milliseconds| milliseconds < 50.0,
    );
    goal(
        format!("{database}: with one endpoint, at least 0.6 of the webhooks without one"),
        Some(cost.with_endpoint),
        &|ratio| ratio >= 0.6,
    );
}

fn relay_cells(database: &str, relay: &RelayResult, cost: &PublishingCost) -> Vec<String> {
    let percent = |share: f64| format!("{:.0} %", 100.0 * share);
    vec![
        database.to_owned(),
        format!("{:.0}", relay.rate),
        format!("{:.0}", relay.long_backlog_rate),
        format!("{:.0}", relay.rate_with_bad),
        format!("{:.0}", relay.baseline_rate),
        milliseconds(relay.p95),
        percent(cost.with_endpoint),
        cost.with_channel.map_or_else(|| "-".to_owned(), percent),
    ]
}

const EXPLANATION: &str = "\
## Receiving

The load generator (wrk, one thread), the service and the database share this machine. The service logs only warnings.

- *shape*: `envelope` is the payload that Cloudflare sends, with only the status. `flat` has every detail.
- *ceiling/s*: requests per second with a wrong signature: HTTP and HMAC without a database.
- *pgbench*: transactions per second of `event.sql`: the work of one webhook as one prepared statement on the same tables.
- *peak MiB*: the peak memory of the service.

The ceiling and pgbench are measured next to each row, because other load on the machine changes its speed by the minute. \
After each row, the audit log had one entry for each acknowledged webhook. wrk reports the latencies.
";

const SEQUENTIAL_EXPLANATION: &str = "\
## Group commit without concurrency

The time for one webhook in the store, with and without group commit in turns. The figures are medians.
";

const SEQUENTIAL_HEADER: [&str; 4] = [
    "database",
    "without group commit \u{b5}s",
    "with group commit \u{b5}s",
    "ratio",
];

const FLOOD_EXPLANATION: &str = "\
## Flood

Valid webhooks arrive over 64 connections. Another 64 connections send wrong signatures as fast as they can.

- *remaining*: the rate of valid webhooks during the flood, divided by the rate without it.
- *CPU share of the flood*: includes the sender (wrk). The service's work for one request is measured while the flood is alone.
";

const FLOOD_HEADER: [&str; 6] = [
    "database",
    "valid/s alone",
    "valid/s during flood",
    "wrong/s",
    "remaining",
    "CPU share of the flood",
];

const RELAY_EXPLANATION: &str = "\
## Relay

- *deliveries/s*: to one endpoint, with 64 attempts in progress and 20,000 waiting deliveries. The time is from the start of \
the service until the last delivery is settled. Every attempt is stored.
- *100,000 waiting*: the same with 100,000 waiting deliveries.
- *with two bad endpoints*: 20,000 deliveries also wait for an endpoint that hangs and for one that answers 500. *alone*: \
without these endpoints, measured in turns. Each figure is the better one of two.
- *p95 ms*: from the response to a webhook until its delivery, at 200 webhooks per second.
- *received*: webhooks over 64 connections with one endpoint, compared with none. *with a channel*: the same with a Postgres \
channel and one listener. Each figure is the better one of two.
";

const RELAY_HEADER: [&str; 8] = [
    "database",
    "deliveries/s",
    "100,000 waiting",
    "with two bad endpoints",
    "alone",
    "p95 ms",
    "received",
    "with a channel",
];

fn jq_cells(database: &str, jq: JqResult) -> Vec<String> {
    vec![
        database.to_owned(),
        format!("{:.0}", jq.rate),
        format!("{:.0}", jq.baseline_rate),
        format!("{:.2}", jq.rate / jq.baseline_rate),
    ]
}

const JQ_EXPLANATION: &str = "\
## jq programs

Deliveries per second as above, with `when` and `transform` and without them, in turns. Each figure is the better one of two.
";

const JQ_HEADER: [&str; 4] = ["database", "with programs", "without", "ratio"];

const GOALS_EXPLANATION: &str = "\
## Goals on two cores
";

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header(header.to_vec());
    table
}

fn milliseconds(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64() * 1e3)
}

fn mebibytes(bytes: u64) -> String {
    (bytes >> 20).to_string()
}

/// Describes the machine: its processor, its memory, and its version of Postgres.
fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("an unknown processor", |(_, model)| model);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes = memory.lines().find_map(|line| {
        line.strip_prefix("MemTotal:")?
            .trim()
            .strip_suffix(" kB")?
            .parse::<u64>()
            .ok()
    });
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let gibibytes = kibibytes.unwrap_or_default() >> 20;
    let postgres = output_of(
        crate::support::cluster::postgres_program("postgres")
            .arg("--version")
            .stdout(std::process::Stdio::piped()),
    );
    format!("{cores} cores of {model}, {gibibytes} GiB, {postgres}")
}

/// Returns the commit, and whether the files differ from it.
fn commit() -> String {
    let mut commit = output_of(Command::new("git").args(["rev-parse", "--short", "HEAD"]));
    // A new RESULTS.md does not change the program that is measured.
    let changes = output_of(Command::new("git").args([
        "status",
        "--porcelain",
        "--",
        ".",
        ":!bench/RESULTS.md",
    ]));
    if !changes.is_empty() {
        let _never_fails = write!(commit, " with changes");
    }
    commit
}

/// Returns what a command prints, or the error if it cannot run.
fn output_of(command: &mut Command) -> String {
    let output = command.output();
    output.map_or_else(
        |error| error.to_string(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

#[expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
fn print_line(text: &str) {
    println!("{text}");
}
