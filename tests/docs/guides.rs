//! The programs of the guides. Blocks with `run=NAME,file=PATH` are the files of a program. If they
//! contain no main program, it is in `tests/docs/programs/NAME`.

mod browser_uploads;
mod programs;
mod receivers;

use std::collections::BTreeSet;

use programs::Program;

use crate::pages::{BOOK, blocks, pages_below};
use crate::support::app::App;
use crate::support::database::Database;

const REGISTER_PAGE: &str = "docs/src/guides/register-images.md";

/// The names of the programs, each with a test.
const PROGRAM_NAMES: [&str; 8] = [
    "receive-node",
    "receive-python",
    "register-django",
    "register-go",
    "register-node",
    "register-rails",
    "upload-by-hand",
    "upload-python",
];

/// The languages whose blocks are programs.
const PROGRAM_LANGUAGES: [&str; 4] = ["python", "javascript", "go", "ruby"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn django_registers_on_sqlite() {
    registers_and_reads("register-django", Database::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn django_registers_on_postgres() {
    registers_and_reads("register-django", Database::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rails_registers_on_sqlite() {
    registers_and_reads("register-rails", Database::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rails_registers_on_postgres() {
    registers_and_reads("register-rails", Database::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_registers() {
    registers_and_reads("register-node", Database::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn go_registers() {
    registers_and_reads("register-go", Database::postgres().await).await;
}

/// Registers an image with the program, applies a webhook, and reads the status with the program.
async fn registers_and_reads(name: &str, database: Database) {
    let app = App::start(database).await;
    let program = Program::of_page(REGISTER_PAGE, name);

    let url = &app.database.url;
    program.run(&["register", "my-image", "cat.jpg"], url).await;
    let registered = app.database.image("my-image").await;
    let before = program.run(&["status", "my-image"], url).await;
    let webhook = r#"{"id":"my-image","uploaded":"2024-01-01T12:00:00Z"}"#;
    let answer = app.post_webhook(webhook).await;
    let after = program.run(&["status", "my-image"], url).await;

    assert_eq!(registered["status"], "pending");
    assert_eq!(registered["filename"], "cat.jpg");
    assert_eq!(answer.outcome(), (200, "applied"));
    assert_eq!((before.trim(), after.trim()), ("pending", "uploaded"));
}

#[test]
fn every_program_has_a_test() {
    let pages = pages_below(&format!("{BOOK}/guides"));
    let mut names = BTreeSet::new();
    for block in pages.iter().flat_map(|page| blocks(page)) {
        let is_program = PROGRAM_LANGUAGES.contains(&block.language.as_str());
        let name = block.value("run").map(str::to_owned);
        assert!(
            !is_program || name.is_some(),
            "{} has no run=NAME",
            block.place
        );
        names.extend(name);
    }

    assert_eq!(names.into_iter().collect::<Vec<_>>(), PROGRAM_NAMES);
}
