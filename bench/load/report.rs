//! The table, what was to be reached, and where both are kept.

use std::fmt::Write;
use std::fs;
use std::process::Command;
use std::time::Duration;

use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;

use crate::Received;
use crate::flood::Flood;
use crate::relay::Relayed;
use crate::webhooks::Shape;
use crate::wrk::Sent;

/// One measured row, and what was measured beside it.
pub(crate) struct Row {
    pub(crate) database: &'static str,
    pub(crate) connections: usize,
    pub(crate) images: usize,
    pub(crate) shape: Shape,
    pub(crate) sent: Sent,
    pub(crate) ceiling: Sent,
    /// Events a second with 1 and with 32 clients; on Postgres.
    pub(crate) pgbench: Vec<f64>,
    pub(crate) peak_memory: u64,
}

impl Row {
    fn of_ceiling(&self) -> f64 {
        self.sent.rate / self.ceiling.rate
    }

    fn of_pgbench(&self) -> Option<f64> {
        let best = self.pgbench.iter().copied().reduce(f64::max)?;
        Some(self.sent.rate / best)
    }

    fn p99_by_p50(&self) -> f64 {
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
            self.of_pgbench()
                .map_or_else(String::new, |ratio| format!("{ratio:.2}")),
            mebibytes(self.peak_memory),
        ]
    }
}

fn flood_cells(database: &str, flood: &Flood) -> Vec<String> {
    vec![
        database.to_owned(),
        format!("{:.0}", flood.alone),
        format!("{:.0}", flood.beside),
        format!("{:.0}", flood.wrong),
        format!("{:.0} %", 100.0 * flood.left()),
        format!("{:.0} %", 100.0 * flood.share),
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
    "of pgbench",
    "peak MiB",
];

/// The median time of recording one webhook after another.
#[derive(Clone, Copy)]
pub(crate) struct Single {
    pub(crate) plain: Duration,
    pub(crate) grouped: Duration,
}

impl Single {
    fn ratio(self) -> f64 {
        self.grouped.as_secs_f64() / self.plain.as_secs_f64()
    }
}

/// Everything that was measured.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
    single: Vec<(&'static str, Single)>,
    floods: Vec<(&'static str, Flood)>,
    relays: Vec<(&'static str, Relayed, Received)>,
}

impl Report {
    /// Adds a row, and shows it at once.
    pub(crate) fn row(&mut self, row: Row) {
        say(&row.cells().join(" | "));
        self.rows.push(row);
    }

    /// Adds the cost of group commit where there is nothing to group.
    pub(crate) fn single(&mut self, database: &'static str, single: Single) {
        say(&format!(
            "{database}, one after another: {:?} plain, {:?} grouped",
            single.plain, single.grouped
        ));
        self.single.push((database, single));
    }

    /// Adds what a flood costs.
    pub(crate) fn flood(&mut self, database: &'static str, flood: Flood) {
        say(&format!(
            "{database}, a flood: {}",
            flood_cells(database, &flood).join(" | ")
        ));
        self.floods.push((database, flood));
    }

    /// Adds what telling other apps takes, and which part of the webhooks is still received meanwhile.
    pub(crate) fn relay(&mut self, database: &'static str, relayed: Relayed, received: Received) {
        say(&format!(
            "{database}, telling: {}",
            relay_cells(database, &relayed, &received).join(" | ")
        ));
        self.relays.push((database, relayed, received));
    }

    /// Shows everything.
    pub(crate) fn print(&self) {
        say(&self.text());
    }

    /// Shows everything, and keeps it.
    pub(crate) fn write(&self) {
        let text = format!(
            "# What was measured\n\n`make bench` on {}, at commit {}, on {}.\n\n{}",
            said(Command::new("date").args(["-u", "+%Y-%m-%d"])),
            commit(),
            machine(),
            self.text()
        );
        fs::write(
            concat!(env!("CARGO_MANIFEST_DIR"), "/bench/RESULTS.md"),
            &text,
        )
        .expect("it can be written");
        say(&text);
    }

    fn text(&self) -> String {
        let mut rows = table(&HEADER);
        rows.add_rows(self.rows.iter().map(Row::cells));
        let mut single = table(&["database", "plain \u{b5}s", "group commit \u{b5}s", "ratio"]);
        single.add_rows(self.single.iter().map(|(database, single)| {
            [
                (*database).to_owned(),
                format!("{:.0}", single.plain.as_secs_f64() * 1e6),
                format!("{:.0}", single.grouped.as_secs_f64() * 1e6),
                format!("{:.2}", single.ratio()),
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
                .map(|(database, relayed, received)| relay_cells(database, relayed, received)),
        );
        let mut goals = table(&["to reach", "reached", ""]);
        goals.add_rows(self.goals());
        format!(
            "{EXPLANATION}\n{rows}\n\n{SINGLE_EXPLANATION}\n{single}\n\n{FLOOD_EXPLANATION}\n{floods}\n\n{RELAY_EXPLANATION}\n{relays}\n\n{GOALS_EXPLANATION}\n{goals}\n"
        )
    }

    fn find(&self, database: &str, connections: usize, images: usize) -> Option<&Row> {
        self.rows.iter().find(|row| {
            (row.database, row.connections, row.images, row.shape)
                == (database, connections, images, Shape::Envelope)
        })
    }

    /// Each with what was measured, and whether that is enough.
    fn goals(&self) -> Vec<[String; 3]> {
        let mut goals = Vec::new();
        let mut goal = |text: String, reached: Option<f64>, is_enough: &dyn Fn(f64) -> bool| {
            if let Some(reached) = reached {
                let verdict = if is_enough(reached) { "yes" } else { "**no**" };
                goals.push([text, format!("{reached:.2}"), verdict.to_owned()]);
            }
        };
        let postgres = self.find("postgres", 256, crate::IMAGES);
        goal(
            "Postgres, 256 connections: 2.5 times pgbench's best".to_owned(),
            postgres.and_then(Row::of_pgbench),
            &|ratio| ratio >= 2.5,
        );
        for (database, share) in [("postgres", 0.35), ("sqlite", 0.45)] {
            let row = self.find(database, 256, crate::IMAGES);
            goal(
                format!("{database}, 256 connections: {share} of the ceiling"),
                row.map(Row::of_ceiling),
                &|ratio| ratio >= share,
            );
        }
        for (database, single) in &self.single {
            goal(
                format!("{database}, one after another: at most 1.05 of the plain path"),
                Some(single.ratio()),
                &|ratio| ratio <= 1.05,
            );
        }
        for database in ["sqlite", "postgres"] {
            let row = self.find(database, 64, crate::IMAGES);
            goal(
                format!("{database}, 64 connections: p99 under 3 times p50"),
                row.map(Row::p99_by_p50),
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
                format!("{database}: 1,000,000 images within 15 % of 10,000"),
                ratio,
                &|ratio| ratio >= 0.85,
            );
        }
        for (database, flood) in &self.floods {
            goal(
                format!(
                    "{database}: a flood costs no more than its share of the processors (left and share: at least 1)"
                ),
                Some(flood.left() + flood.share),
                &|sum| sum >= 1.0,
            );
        }
        for (database, relayed, received) in &self.relays {
            relay_goals(database, relayed, received, &mut goal);
        }
        let peak = self.rows.iter().map(|row| row.peak_memory).max();
        #[expect(clippy::cast_precision_loss, reason = "there are less than 2^52 bytes")]
        goal(
            "peak memory below 64 MiB".to_owned(),
            peak.map(|peak| peak as f64 / f64::from(1 << 20)),
            &|peak| peak < 64.0,
        );
        goals
    }
}

type Goal<'a> = dyn FnMut(String, Option<f64>, &dyn Fn(f64) -> bool) + 'a;

fn relay_goals(database: &str, relayed: &Relayed, received: &Received, goal: &mut Goal<'_>) {
    let wanted = if database == "postgres" {
        3000.0
    } else {
        2000.0
    };
    goal(
        format!("{database}: {wanted} deliveries/s to one endpoint"),
        Some(relayed.rate),
        &|rate| rate >= wanted,
    );
    goal(
        format!("{database}: with 100,000 waiting, 0.8 of that rate"),
        Some(relayed.long_rate / relayed.rate),
        &|ratio| ratio >= 0.8,
    );
    goal(
        format!("{database}: beside one that hangs and one that fails, 0.9 of the rate alone"),
        Some(relayed.beside_bad / relayed.alone.max(relayed.rate)),
        &|ratio| ratio >= 0.9,
    );
    goal(
        format!("{database}: at 200 webhooks/s, p95 from the answer to the delivery below 50 ms"),
        Some(relayed.p95.as_secs_f64() * 1e3),
        &|milliseconds| milliseconds < 50.0,
    );
    goal(
        format!("{database}: with an endpoint, 0.6 of the webhooks without one"),
        Some(received.told),
        &|ratio| ratio >= 0.6,
    );
}

fn relay_cells(database: &str, relayed: &Relayed, received: &Received) -> Vec<String> {
    let percent = |part: f64| format!("{:.0} %", 100.0 * part);
    vec![
        database.to_owned(),
        format!("{:.0}", relayed.rate),
        format!("{:.0}", relayed.long_rate),
        format!("{:.0}", relayed.beside_bad),
        format!("{:.0}", relayed.alone),
        milliseconds(relayed.p95),
        percent(received.told),
        received.said.map_or_else(|| "-".to_owned(), percent),
    ]
}

const EXPLANATION: &str = "\
Load generator (wrk, one thread), service and database share this machine. *shape*: `envelope` is what Cloudflare sends, the \
status alone; `flat` tells every detail. *ceiling*: the same requests with a wrong signature, so HTTP and HMAC without a \
database. *pgbench*: one event in one transaction and one statement on the same schema, prepared, `event.sql`. The ceiling and \
pgbench are measured right beside each row, since the machine is shared, and its speed changes by the minute. After each row, \
the audit trail held as many rows as webhooks were acknowledged. Latencies are as wrk reports them. The service logs warnings only. Peak \
memory is the service's.
";

const SINGLE_EXPLANATION: &str = "\
One webhook after another through the store, alternately as a plain transaction and through group commit; medians:
";

const FLOOD_EXPLANATION: &str = "\
Good webhooks over 64 connections while a flood of wrong signatures comes over 64 others as fast as it can. What is *left* of the good \
ones may be less by the flood's *share* of the processors' time, its sender (wrk) included; what the service needs for a wrong one is \
measured while nothing else comes:
";

const FLOOD_HEADER: [&str; 6] = [
    "database",
    "good/s alone",
    "good/s beside it",
    "wrong/s",
    "left",
    "share of the flood",
];

const RELAY_EXPLANATION: &str = "\
Telling other apps: deliveries a second to one endpoint, 64 calls at once, every attempt logged, from the start of the service to the last \
one settled, with 20,000 and with 100,000 waiting; with 20,000 waiting for each of three endpoints, one of which hangs and one of which \
answers 500, and alternately alone, the better of two each. *p95*: from the answer to a webhook to its delivery, at 200 webhooks a second. *received*: webhooks over 64 \
connections while one endpoint is told of each, beside what is received while nobody is, and *with a channel*, while \
Postgres says each on one, to a listener; the better of two each:
";

const RELAY_HEADER: [&str; 8] = [
    "database",
    "deliveries/s",
    "100,000 waiting",
    "beside two bad ones",
    "alone",
    "p95 ms",
    "received",
    "with a channel",
];

const GOALS_EXPLANATION: &str = "\
What was to be reached on two cores:
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

/// The processor, and how much there is of everything.
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
    let postgres = said(
        crate::support::cluster::program("postgres")
            .arg("--version")
            .stdout(std::process::Stdio::piped()),
    );
    format!("{cores} cores of {model}, {gibibytes} GiB, {postgres}")
}

fn commit() -> String {
    let mut commit = said(Command::new("git").args(["rev-parse", "--short", "HEAD"]));
    // The results themselves are no change to what is measured.
    let changes =
        said(Command::new("git").args(["status", "--porcelain", "--", ".", ":!bench/RESULTS.md"]));
    if !changes.is_empty() {
        let _a_string_takes_it = write!(commit, " with changes");
    }
    commit
}

fn said(command: &mut Command) -> String {
    let output = command.output();
    output.map_or_else(
        |error| error.to_string(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

#[expect(clippy::print_stdout, reason = "a benchmark tells its figures")]
fn say(text: &str) {
    println!("{text}");
}
