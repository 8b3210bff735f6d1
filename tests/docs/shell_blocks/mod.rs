//! The commands of README.md and of the start pages. Each page runs from top to bottom in a fresh
//! checkout.
//!
//! All blocks of a page share one terminal. An `sh` block must succeed. A `console` block shows
//! commands behind `$ ` and their output, which is compared. If the last command of a block starts
//! the service, the block runs in the background, as in a second terminal. The next such block
//! stops it, and so does the end of the page. `sh,background=9000` runs another program in the
//! background, `toml,file=my.toml` writes a file, and `sh,not-run` is skipped.

mod background;
mod checkout;
mod output;
mod terminal;

use std::fs;

use background::Background;
use checkout::Checkout;
use terminal::Terminal;

use crate::pages::{BOOK, Block, blocks, pages_below, read};

/// The pages, each with a test of its own below.
const PAGES: [&str; 5] = [
    "README.md",
    "docs/src/start/cloudflare.md",
    "docs/src/start/first-webhook.md",
    "docs/src/start/install.md",
    "docs/src/start/postgres.md",
];

/// The limit of blocks that no test can run. Such blocks need Docker, a network or Cloudflare.
const MAX_SKIPPED_BLOCKS: usize = 3;

#[test]
fn runs_readme() {
    Session::run_page(PAGES[0]);
}

#[test]
fn runs_cloudflare_page() {
    Session::run_page(PAGES[1]);
}

#[test]
fn runs_first_webhook_page() {
    Session::run_page(PAGES[2]);
}

#[test]
fn runs_install_page() {
    Session::run_page(PAGES[3]);
}

#[test]
fn runs_postgres_page() {
    Session::run_page(PAGES[4]);
}

#[test]
fn every_start_page_has_a_test() {
    let mut pages = vec!["README.md".to_owned()];
    pages.extend(pages_below(&format!("{BOOK}/start")));

    assert_eq!(pages, PAGES);
}

#[test]
fn skips_at_most_three_blocks() {
    let skipped = PAGES
        .iter()
        .flat_map(|page| blocks(page))
        .filter(|block| block.has("not-run"));

    assert!(skipped.count() <= MAX_SKIPPED_BLOCKS);
}

/// The state while the blocks of a page run.
struct Session {
    terminal: Terminal,
    service: Option<Background>,
    others: Vec<Background>,
    // Dropped last: the programs run in it.
    checkout: Checkout,
}

impl Session {
    fn run_page(page: &str) {
        let checkout = Checkout::new(read(page).contains("5432"));
        let mut session = Self {
            terminal: Terminal::open(&checkout),
            service: None,
            others: Vec::new(),
            checkout,
        };
        let mut count = 0;
        for block in blocks(page) {
            if !block.has("not-run") {
                count += usize::from(session.run(&block));
            }
        }
        assert!(count > 0, "{page} has commands");
        session.stop_service();
    }

    /// Returns whether the block had commands.
    fn run(&mut self, block: &Block) -> bool {
        let text = self.checkout.with_free_ports(&block.text);
        if let Some(file) = block.value("file") {
            let path = self.checkout.folder().join(file);
            fs::write(path, text).expect("the page's file can be written");
            return false;
        }
        match block.language.as_str() {
            "sh" => self.run_commands(block, &text),
            "console" => self.run_console(block, &text),
            _ => return false,
        }
        true
    }

    fn run_commands(&mut self, block: &Block, text: &str) {
        if starts_service(text) {
            self.stop_service();
            let mut service = Background::start(&mut self.terminal, text);
            service.wait_until_ready(&block.place, &self.checkout);
            self.service = Some(service);
        } else if let Some(port) = block.value("background") {
            let port = self.checkout.with_free_ports(port);
            let mut program = Background::start(&mut self.terminal, text);
            program.wait_for_port(&block.place, port.parse().expect("a port"));
            self.others.push(program);
        } else if let Err(output) = self.terminal.run(text) {
            panic!("{}: a command failed:\n{text}{output}", block.place);
        }
    }

    fn run_console(&mut self, block: &Block, text: &str) {
        for (command, shown) in output::commands(text) {
            let result = if shown.is_empty() {
                self.terminal.run(&command)
            } else {
                self.terminal.run_with_any_exit_code(&command)
            };
            let found = result.unwrap_or_else(|output| {
                panic!("{}: a command failed:\n{command}\n{output}", block.place)
            });
            assert!(
                output::is_alike(&shown, &found),
                "{}: {command}\nprints:\n{found}\nand not, as the page shows:\n{shown}",
                block.place
            );
        }
    }

    fn stop_service(&mut self) {
        if let Some(service) = self.service.take() {
            service.interrupt(&self.checkout);
        }
    }
}

/// Returns whether the last command of a block starts the service: `make run`, or the program with
/// no command or `serve`.
fn starts_service(text: &str) -> bool {
    let text = text.replace("\\\n", " ");
    let mut commands = text
        .lines()
        .map(|line| line.split(" #").next().unwrap_or_default().trim())
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let Some(last) = commands.next_back() else {
        return false;
    };
    let is_assignment = |word: &&str| word.contains('=');
    let words: Vec<&str> = last.split_whitespace().skip_while(is_assignment).collect();
    match words.as_slice() {
        ["make", "run"] => true,
        [program, "--config", _, rest @ ..] | [program, rest @ ..] => {
            program.ends_with("cloudflare-images-webhook") && matches!(rest, [] | ["serve"])
        }
        [] => false,
    }
}

#[test]
fn recognizes_commands_that_start_the_service() {
    for text in [
        "make run",
        "export A=1\nmake run    # builds the service",
        "PORT=1 target/release/cloudflare-images-webhook",
        "cloudflare-images-webhook --config my.toml serve",
    ] {
        assert!(starts_service(text), "{text}");
    }
    for text in [
        "make test",
        "cloudflare-images-webhook send x",
        "",
        "# Only this",
    ] {
        assert!(!starts_service(text), "{text}");
    }
}
