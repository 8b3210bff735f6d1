//! The results of the scenarios, as a table.

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};

use super::expectations::Comparison;
use super::fault::Fault;

/// The memory limit of a service, including thousands of half-open requests and a full queue.
const MAX_MEMORY_KIB: u64 = 256 * 1024;

/// The result of one fault on one database.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) database: &'static str,
    pub(crate) fault: Fault,
    /// The number of injections.
    pub(crate) rounds: u64,
    pub(crate) comparison: Comparison,
    /// The number of restarts after a deliberate kill or stop.
    pub(crate) restarts: u64,
    pub(crate) peak_memory_kib: u64,
    /// The number of open files before the first load.
    pub(crate) files_at_start: usize,
    pub(crate) files_at_end: usize,
    pub(crate) tasks_at_start: usize,
    pub(crate) tasks_at_end: usize,
    /// Whether the open files and tasks returned to the baseline, apart from pooled connections.
    pub(crate) is_at_baseline: bool,
}

impl Row {
    /// Returns the row as text, to show while other faults run.
    pub(crate) fn line(&self) -> String {
        self.cells(self.fault.name()).join(" | ")
    }

    /// Returns whether all checks passed.
    pub(crate) fn is_good(&self) -> bool {
        self.comparison.is_good() && self.is_at_baseline && self.peak_memory_kib <= MAX_MEMORY_KIB
    }

    fn and(self, later: &Self) -> Self {
        Self {
            rounds: self.rounds + later.rounds,
            comparison: self.comparison.and(later.comparison),
            restarts: self.restarts + later.restarts,
            peak_memory_kib: self.peak_memory_kib.max(later.peak_memory_kib),
            files_at_end: later.files_at_end,
            tasks_at_end: later.tasks_at_end,
            is_at_baseline: self.is_at_baseline && later.is_at_baseline,
            ..self
        }
    }

    fn cells(&self, name: &str) -> Vec<String> {
        let Comparison {
            requests,
            acknowledged,
            response_lost,
            lost,
            duplicated,
            regressed,
        } = self.comparison;
        let mut cells = vec![self.database.to_owned(), name.to_owned()];
        let counts = [
            self.rounds,
            requests,
            acknowledged,
            response_lost,
            lost,
            duplicated,
            regressed,
            self.restarts,
        ];
        cells.extend(counts.iter().map(u64::to_string));
        cells.push(self.peak_memory_kib.div_ceil(1024).to_string());
        let baseline = [
            self.files_at_start,
            self.files_at_end,
            self.tasks_at_start,
            self.tasks_at_end,
        ];
        cells.extend(baseline.iter().map(usize::to_string));
        cells
    }
}

/// Returns a table with a line for each database and fault, and the totals.
pub(crate) fn table(rows: &[Row]) -> Table {
    let mut lines: Vec<Row> = Vec::new();
    for row in rows {
        let same = lines
            .iter()
            .position(|line| (line.database, line.fault) == (row.database, row.fault));
        match same {
            Some(index) => lines[index] = lines[index].clone().and(row),
            None => lines.push(row.clone()),
        }
    }
    let sum = lines.iter().cloned().reduce(|sum, line| Row {
        database: "total",
        ..sum.and(&line)
    });

    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header([
        "database",
        "fault",
        "rounds",
        "requests",
        "acknowledged",
        "response lost",
        "lost",
        "duplicated",
        "regressed",
        "restarts",
        "peak MiB",
        "files at start",
        "at end",
        "tasks at start",
        "at end",
    ]);
    for line in &lines {
        table.add_row(line.cells(line.fault.name()));
    }
    if let Some(sum) = sum {
        table.add_row(sum.cells(""));
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
