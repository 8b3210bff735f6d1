//! What came of it, as a table.

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};

use super::expectations::Verdict;
use super::fault::Fault;

/// The most memory that a service may ever have had: thousands of half-open requests and a full queue included.
const MOST_MEMORY_KIB: u64 = 256 * 1024;

/// What came of one fault on one database.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) database: &'static str,
    pub(crate) fault: Fault,
    /// How often it struck.
    pub(crate) rounds: u64,
    pub(crate) verdict: Verdict,
    /// How often a service was started again, because it was killed on purpose.
    pub(crate) restarts: u64,
    pub(crate) peak_memory_kib: u64,
    /// When nothing had gone on yet.
    pub(crate) files_at_first: usize,
    pub(crate) files_at_end: usize,
    pub(crate) tasks_at_first: usize,
    pub(crate) tasks_at_end: usize,
    /// Whether the files and the tasks became as few as at first, but for the pools' connections.
    pub(crate) has_settled: bool,
}

impl Row {
    /// What it says of itself while the others go on.
    pub(crate) fn line(&self) -> String {
        self.cells(self.fault.name()).join(" | ")
    }

    /// Whether every promise was kept.
    pub(crate) fn is_good(&self) -> bool {
        self.verdict.is_good() && self.has_settled && self.peak_memory_kib <= MOST_MEMORY_KIB
    }

    fn and(self, later: &Self) -> Self {
        Self {
            rounds: self.rounds + later.rounds,
            verdict: self.verdict.and(later.verdict),
            restarts: self.restarts + later.restarts,
            peak_memory_kib: self.peak_memory_kib.max(later.peak_memory_kib),
            files_at_end: later.files_at_end,
            tasks_at_end: later.tasks_at_end,
            has_settled: self.has_settled && later.has_settled,
            ..self
        }
    }

    fn cells(&self, name: &str) -> Vec<String> {
        let Verdict {
            requests,
            acknowledged,
            unheard,
            lost,
            duplicated,
            regressed,
        } = self.verdict;
        let mut cells = vec![self.database.to_owned(), name.to_owned()];
        let counts = [
            self.rounds,
            requests,
            acknowledged,
            unheard,
            lost,
            duplicated,
            regressed,
            self.restarts,
        ];
        cells.extend(counts.iter().map(u64::to_string));
        cells.push(self.peak_memory_kib.div_ceil(1024).to_string());
        let few = [
            self.files_at_first,
            self.files_at_end,
            self.tasks_at_first,
            self.tasks_at_end,
        ];
        cells.extend(few.iter().map(usize::to_string));
        cells
    }
}

/// A line for each fault on each database, in the order in which they first struck, and the sum.
pub(crate) fn table(rows: &[Row]) -> Table {
    let mut lines: Vec<Row> = Vec::new();
    for row in rows {
        let same = lines
            .iter()
            .position(|line| (line.database, line.fault) == (row.database, row.fault));
        match same {
            Some(place) => lines[place] = lines[place].clone().and(row),
            None => lines.push(row.clone()),
        }
    }
    let sum = lines.iter().cloned().reduce(|sum, line| Row {
        database: "together",
        ..sum.and(&line)
    });

    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header([
        "database",
        "what breaks",
        "times",
        "requests",
        "acknowledged",
        "unheard",
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
