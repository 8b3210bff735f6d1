//! jq programs that use up time, memory or the stack. They cost one message, never the service.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;

use crate::on_both_databases;
use crate::relay_delivery::{
    IMAGES, errors_by_image, start, upload, uploaded, wait_until_none_due,
};
use crate::support::app::{client, response_to};
use crate::support::database::Database;
use crate::support::program::{Service, run, stderr, stdout};
use crate::support::signing::SECRET;
use crate::support::subscriber::{RELAY_SECRET, Subscriber};
use crate::support::wait;

on_both_databases!(
    hostile_program_fails_only_its_message,
    killed_worker_costs_at_most_a_retry,
    worker_ends_with_killed_service,
    program_runs_without_environment,
);

/// Programs that would end the service or never end, with the error of their delivery.
const HOSTILE: [(&str, &str); 4] = [
    (
        "[range(1e12)]",
        "the jq program needed too much memory or recursion, and its process ended",
    ),
    (
        "def f: 1 + f; f",
        "the jq program needed too much memory or recursion, and its process ended",
    ),
    ("reduce range(1e15) as $i (0; . + 1)", TIMED_OUT),
    (
        "\"x\" * 2000000",
        "`transform` produced more than 1048576 bytes",
    ),
];

/// The error of a program that reaches the time limit. On a busy machine, any hostile program may reach it first.
const TIMED_OUT: &str = "the jq program took longer than 5 s";

async fn hostile_program_fails_only_its_message(database: Database) {
    let subscriber = Subscriber::start().await;
    let hostile = HOSTILE.iter().enumerate().map(|(number, (program, _))| {
        format!("if .object.cloudflare_id == \"bad-{number}\" then ({program}) else . end")
    });
    let transform = hostile.collect::<Vec<_>>().join(" | ");
    let app = start(
        database,
        &subscriber,
        json!({"when": "true", "transform": transform, "retry": {"max_retries": 0}}),
    )
    .await;

    upload(&app, "good-before").await;
    for number in 0..HOSTILE.len() {
        upload(&app, &format!("bad-{number}")).await;
        upload(&app, &format!("good-{number}")).await;
        // One process runs all programs of the endpoint, and a message waits only for a limited time.
        wait_until_none_due(&app.database).await;
    }

    let errors = errors_by_image(&app.database).await;
    for (number, (_, error)) in HOSTILE.iter().enumerate() {
        let expected = [error, TIMED_OUT].map(|error| format!("bad-{number}: {error}"));
        let is_expected = |line: &String| expected.contains(line);
        assert!(errors.iter().any(is_expected), "bad-{number}: {errors:?}");
        assert!(errors.contains(&format!("good-{number}: ")), "{errors:?}");
    }
    let deliveries = 1 + 2 * HOSTILE.len();
    assert_eq!(errors.len(), deliveries);
    assert_eq!(
        app.database.attempts().await.len(),
        deliveries,
        "each delivery has one attempt"
    );
    assert_eq!(subscriber.received().len(), 1 + HOSTILE.len());
}

/// A process of the service with an endpoint that has programs.
struct RelayingProcess {
    service: Service,
    subscriber: Subscriber,
    database: Database,
    _folder: TempDir,
}

impl RelayingProcess {
    async fn start(database: Database, transform: &str) -> Self {
        let subscriber = Subscriber::start().await;
        let folder = TempDir::new().expect("a folder");
        let endpoints = json!([{
            "name": "app", "url": subscriber.url(), "secret": RELAY_SECRET, "include_models": [IMAGES],
            "transform": transform, "retry": {"delay_secs": 0},
        }])
        .to_string();
        let variables = [
            ("DATABASE_URL", database.url.as_str()),
            ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
            ("APP__RELAY__ENDPOINTS", &endpoints),
        ];
        let service = Service::start(folder.path(), &variables);
        Self {
            service,
            subscriber,
            database,
            _folder: folder,
        }
    }

    async fn upload(&self, id: &str) {
        self.database.register(id).await;
        let request = client().post(self.service.url()).body(uploaded(id));
        let response = response_to(request.header("cf-webhook-auth", SECRET)).await;
        assert_eq!(response.outcome(), (200, "applied"));
    }

    /// Returns the id of the worker. Waits until there is one.
    fn worker(&self) -> u32 {
        let mut workers = Vec::new();
        wait::until("the service has a worker", || {
            workers = children(self.service.id());
            !workers.is_empty()
        });
        assert_eq!(workers.len(), 1, "one endpoint has one worker");
        workers[0]
    }
}

fn process_folder(process: u32) -> PathBuf {
    Path::new("/proc").join(process.to_string())
}

/// Returns a field of `/proc/PID/stat`, counted from the state, the third one.
fn stat(process: u32, field: usize) -> Option<String> {
    let stat = fs::read_to_string(process_folder(process).join("stat")).ok()?;
    // The second field is a name in parentheses.
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split(' ').nth(field - 3).map(str::to_owned)
}

fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("/proc");
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|process| stat(*process, 4) == Some(parent.to_string()))
        .collect()
}

fn is_running(process: u32) -> bool {
    stat(process, 3).is_some_and(|state| state != "Z")
}

fn kill(process: u32) {
    let killed = Command::new("kill")
        .args(["-KILL", &process.to_string()])
        .status();
    assert!(killed.expect("kill runs").success());
}

async fn killed_worker_costs_at_most_a_retry(database: Database) {
    let relay = RelayingProcess::start(database, ".").await;
    relay.upload("first").await;
    relay.subscriber.wait_for(1).await;
    let killed = relay.worker();

    kill(killed);
    relay.upload("second").await;

    relay.subscriber.wait_for(2).await;
    assert_ne!(relay.worker(), killed);
    let attempts = relay.database.attempts().await;
    assert!(attempts.len() <= 3, "{attempts:?}");
}

async fn worker_ends_with_killed_service(database: Database) {
    let mut relay = RelayingProcess::start(database, "last(range(1e15))").await;
    relay.upload("image").await;
    // The worker runs the program, so it does not notice the end of its standard input.
    let worker = relay.worker();

    relay.service.signal("-KILL");
    relay.service.wait();

    wait::until("the worker has ended", || !is_running(worker));
}

async fn program_runs_without_environment(database: Database) {
    let relay = RelayingProcess::start(database, ".").await;
    relay.upload("image").await;
    relay.subscriber.wait_for(1).await;
    let worker = relay.worker();
    let folder = process_folder(worker);

    let environment = fs::read_to_string(folder.join("environ")).expect("the environment");
    assert_eq!(
        environment, "MIMALLOC_ARENA_RESERVE=64MiB\0",
        "it has only a setting of the allocator"
    );
    let working_directory = fs::read_link(folder.join("cwd")).expect("a link");
    assert_eq!(working_directory, Path::new("/"));
    assert_eq!(
        stat(worker, 5),
        Some(worker.to_string()),
        "Ctrl-C in a terminal ends only the service's process group"
    );
    let limits = fs::read_to_string(folder.join("limits")).expect("the limits");
    let hard_limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name));
        let limit = line.and_then(|line| line[name.len()..].split_whitespace().nth(1));
        limit.and_then(|limit| limit.parse::<u64>().ok())
    };
    assert_eq!(hard_limit("Max core file size"), Some(0));
    assert_eq!(hard_limit("Max open files"), Some(8));
    let address_space = hard_limit("Max address space").expect("a limit");
    assert!(address_space < 1 << 30, "{address_space} bytes");
}

#[test]
fn program_too_deep_to_compile_is_refused() {
    let folder = TempDir::new().expect("a folder");
    for (program, expected) in [
        (
            format!("{}.{}", "(".repeat(30_000), ")".repeat(30_000)),
            "endpoint \"app\": `when` is not a valid jq program: it is nested too deeply or too large",
        ),
        (
            format!("\"{}\"", "x".repeat(64 * 1024)),
            "endpoint \"app\": `when` is longer than 65536 bytes",
        ),
    ] {
        let endpoints = json!([{"name": "app", "url": "http://app.example", "secret": RELAY_SECRET, "when": program}]);
        fs::write(folder.path().join("when"), &program).expect("a file");
        for command in ["check-config", "serve"] {
            let output = run(
                folder.path(),
                &[command],
                &[("APP__RELAY__ENDPOINTS", &endpoints.to_string())],
            );

            assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
            assert!(stderr(&output).contains(expected), "{}", stderr(&output));
        }
    }
}
