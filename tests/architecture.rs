//! The allowed imports between modules, and other rules for the source files.

#[path = "support/imports.rs"]
mod imports;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use cloudflare_images_webhook::config_types::is_secret;
use imports::Imports;

/// The modules, and the modules that each may import. Imports only go down.
const ALLOWED_IMPORTS: [(&str, &[&str]); 23] = [
    ("main", &["cli"]),
    (
        "cli",
        &[
            "signing",
            "app",
            "application",
            "config",
            "shutdown",
            "receiver",
            "relay",
            "ops",
            "store",
            "cloudflare",
            "telemetry",
            "clock",
            "random",
            "config_types",
            "domain",
        ],
    ),
    (
        "app",
        &[
            "config",
            "api",
            "application",
            "shutdown",
            "receiver",
            "relay",
            "retention",
            "ops",
            "store",
            "cloudflare",
            "web",
            "telemetry",
            "clock",
            "config_types",
            "domain",
            "reconcile",
        ],
    ),
    (
        "config",
        &[
            "api",
            "reconcile",
            "receiver",
            "relay",
            "retention",
            "ops",
            "store",
            "cloudflare",
            "web",
            "outbound",
            "telemetry",
            "shutdown",
            "config_types",
        ],
    ),
    (
        "api",
        &[
            "application",
            "cloudflare",
            "store",
            "web",
            "config_types",
            "domain",
        ],
    ),
    (
        "application",
        &[
            "receiver",
            "relay",
            "retention",
            "store",
            "cloudflare",
            "outbound",
            "events",
            "signing",
            "telemetry",
            "clock",
            "random",
            "config_types",
            "domain",
            "reconcile",
        ],
    ),
    ("shutdown", &["config_types"]),
    (
        "reconcile",
        &[
            "receiver",
            "store",
            "cloudflare",
            "telemetry",
            "clock",
            "config_types",
            "domain",
        ],
    ),
    (
        "receiver",
        &[
            "store",
            "web",
            "signing",
            "telemetry",
            "clock",
            "config_types",
            "domain",
        ],
    ),
    (
        "relay",
        &[
            "store",
            "outbound",
            "signing",
            "telemetry",
            "clock",
            "random",
            "config_types",
            "domain",
        ],
    ),
    (
        "retention",
        &["store", "telemetry", "clock", "config_types", "domain"],
    ),
    ("ops", &["store", "web", "telemetry", "config_types"]),
    (
        "store",
        &[
            "events",
            "telemetry",
            "clock",
            "config_types",
            "random",
            "domain",
        ],
    ),
    (
        "cloudflare",
        &["outbound", "telemetry", "random", "config_types", "domain"],
    ),
    ("web", &["telemetry", "config_types", "random", "domain"]),
    ("outbound", &["config_types"]),
    ("signing", &["domain"]),
    ("telemetry", &["config_types"]),
    ("clock", &["domain"]),
    ("events", &["random", "domain"]),
    ("random", &[]),
    ("config_types", &[]),
    ("domain", &[]),
];

/// The crates that only some modules may use. The command line sends webhooks, so it uses the HTTP
/// client.
const CONFINED_CRATES: [(&str, &[&str]); 26] = [
    ("async_nats", &["relay"]),
    ("csv_core", &["application"]),
    ("governor", &["receiver", "relay"]),
    ("fastrand", &["random"]),
    ("httpdate", &["cloudflare", "relay"]),
    ("ipnet", &["config_types"]),
    ("jaq_core", &["relay"]),
    ("jaq_json", &["relay"]),
    ("jaq_std", &["relay"]),
    ("mimalloc", &["main"]),
    ("nkeys", &["relay"]),
    ("percent_encoding", &["cloudflare", "relay", "store"]),
    ("prometheus_client", &["telemetry"]),
    ("sqlx", &["store"]),
    ("reqwest", &["cli", "cloudflare", "outbound", "relay"]),
    ("rustix", &["app", "relay", "store"]),
    ("rustls", &["cli", "outbound", "relay"]),
    ("rustls_native_certs", &["outbound"]),
    ("sd_notify", &["app"]),
    (
        "axum",
        &["web", "signing", "receiver", "api", "ops", "app", "cli"],
    ),
    ("hyper", &["web"]),
    ("clap", &["cli", "main"]),
    ("clap_complete", &["cli"]),
    ("clap_mangen", &["cli"]),
    ("anyhow", &["main", "cli", "app"]),
    (
        "serde",
        &[
            "cli",
            "config",
            "api",
            "application",
            "shutdown",
            "reconcile",
            "receiver",
            "relay",
            "retention",
            "ops",
            "store",
            "cloudflare",
            "events",
            "web",
            "outbound",
            "telemetry",
            "config_types",
        ],
    ),
];

/// The layers within a module, from top to bottom. A file may import from its own part and from
/// lower layers. `""` is the module's `mod.rs`.
type Layers = &'static [&'static [&'static str]];

const RELAY_LAYERS: Layers = &[
    &[""],
    &["dispatch", "tester"],
    &["endpoint"],
    &["payload", "transport"],
    &["settings", "deep_json"],
];

const STORE_LAYERS: Layers = &[
    &[""],
    &["postgres", "sqlite", "shared"],
    &["settings"],
    &["transfer"],
    &["inbox"],
    &[
        "adoption",
        "audit_log",
        "call_limit",
        "catalog",
        "diagnostics",
        "lookups",
        "outbox",
        "pooling",
        "rejections",
        "retention",
        "schema",
        "session",
        "upload_requests",
        "url",
    ],
    &["error", "server_error"],
];

struct Source {
    path: PathBuf,
    module: String,
    /// The text without comments.
    code: String,
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    collect(&root, &root, &mut sources);
    assert!(sources.len() > 30, "the sources were found");
    sources
}

fn collect(root: &Path, folder: &Path, sources: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(root, &path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let inside = path
                .strip_prefix(root)
                .expect("the path is inside the root");
            let module = inside
                .iter()
                .next()
                .expect("a name")
                .to_string_lossy()
                .trim_end_matches(".rs")
                .to_owned();
            let text = fs::read_to_string(&path).expect("text");
            let code = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .collect::<Vec<_>>()
                .join("\n");
            sources.push(Source {
                path,
                module,
                code,
                text,
            });
        }
    }
}

/// Returns the names after a prefix. A group in braces gives several.
fn names_after(code: &str, prefix: &str) -> Vec<String> {
    let name = |text: &str| {
        text.chars()
            .take_while(|character| character.is_alphanumeric() || *character == '_')
            .collect::<String>()
    };
    code.match_indices(prefix)
        .flat_map(|(at, _)| {
            let remaining = &code[at + prefix.len()..];
            match remaining.strip_prefix('{') {
                Some(group) => items_of_group(group)
                    .iter()
                    .map(|text| name(text))
                    .collect(),
                None => vec![name(remaining)],
            }
        })
        .collect()
}

/// Returns the items of a group in braces, without nested groups.
fn items_of_group(group: &str) -> Vec<&str> {
    let (mut depth, mut from, mut parts) = (0, 0, Vec::new());
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => {
                parts.push(group[from..at].trim());
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(group[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

/// Returns whether the code uses a crate in a path such as `serde::Serialize`.
fn uses_crate(code: &str, name: &str) -> bool {
    let path = format!("{name}::");
    code.match_indices(&path).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|character| {
            character.is_alphanumeric() || character == '_' || character == ':'
        })
    })
}

#[test]
fn modules_import_only_lower_modules() {
    let allowed: BTreeMap<_, _> = ALLOWED_IMPORTS.into_iter().collect();
    for source in sources() {
        if source.module == "lib" {
            continue;
        }
        let below = allowed
            .get(source.module.as_str())
            .unwrap_or_else(|| panic!("{} is missing in ALLOWED_IMPORTS", source.path.display()));
        let prefix = if source.module == "main" {
            "cloudflare_images_webhook::"
        } else {
            "crate::"
        };
        for name in names_after(&source.code, prefix) {
            assert!(
                name == source.module || below.contains(&name.as_str()),
                "{} imports {name}",
                source.path.display()
            );
        }
    }
}

#[test]
fn allowed_imports_have_no_cycle() {
    for (position, (module, below)) in ALLOWED_IMPORTS.iter().enumerate() {
        for name in *below {
            let Some(other) = ALLOWED_IMPORTS.iter().position(|(other, _)| other == name) else {
                panic!("{module} may import {name}, which does not exist")
            };
            assert!(
                other > position,
                "{module} may import {name}, which is above it"
            );
        }
    }
}

#[test]
fn relay_and_store_import_downwards() {
    let imports = Imports::of_sources();
    for (module, layers) in [("relay", RELAY_LAYERS), ("store", STORE_LAYERS)] {
        let within = imports.within(module);
        assert!(within.len() > 30, "the imports were found");
        for (importer, imported) in within {
            // `store/shared` is mounted into each backend: its `super` is the backend.
            if importer.join("::") == "store::shared" {
                continue;
            }
            let [above, below] = [importer, imported].map(|path| {
                let part = path.get(1).map_or("", String::as_str);
                let layer = layers.iter().position(|layer| layer.contains(&part));
                let layer = layer.unwrap_or_else(|| panic!("{module}::{part} has no layer"));
                (part, layer)
            });
            assert!(
                above.0 == below.0 || above.1 < below.1,
                "{} imports {}, which is not below it",
                importer.join("::"),
                imported.join("::")
            );
        }
    }
}

#[test]
fn files_have_no_import_cycles() {
    let imports = Imports::of_sources();
    for (module, _) in ALLOWED_IMPORTS {
        let cycle = imports.cycle_within(module);
        assert_eq!(cycle, None, "the files of {module} form a cycle");
    }
}

#[test]
fn confined_crates_stay_in_their_modules() {
    for source in sources() {
        for (name, modules) in CONFINED_CRATES {
            assert!(
                !uses_crate(&source.code, name) || modules.contains(&source.module.as_str()),
                "{} uses {name}, which only {modules:?} may use",
                source.path.display()
            );
        }
    }
}

#[test]
fn only_config_reads_environment_variables() {
    for source in sources() {
        let reads = ["env::var", "env::vars", "option_env!"]
            .into_iter()
            .any(|name| source.code.contains(name));
        assert!(
            !reads || source.module == "config",
            "{} reads the environment",
            source.path.display()
        );
    }
}

/// The name alone decides whether a setting is redacted and may be read from a file.
#[test]
fn secret_settings_have_secret_names() {
    let mut found = 0;
    for source in sources() {
        let is_settings = source.path.to_string_lossy().contains("settings");
        let lines = source
            .code
            .lines()
            .filter(|line| is_settings && line.ends_with(','));
        for (field, kind) in lines.filter_map(|line| line.split_once(": ")) {
            if ["Secret", "DatabaseUrl"]
                .iter()
                .any(|name| kind.contains(name))
            {
                let name = field.split_whitespace().next_back().unwrap_or_default();
                assert!(is_secret(name), "{}: {name}", source.path.display());
                found += 1;
            }
        }
    }
    assert!(found >= 10, "the settings were found");
}

#[test]
fn domain_uses_no_io_async_or_clock() {
    for source in sources()
        .into_iter()
        .filter(|source| source.module == "domain")
    {
        for impure in [
            "async ",
            "tokio",
            "std::fs",
            "std::net",
            "std::env",
            "tracing",
            "Instant::now",
            "now_utc",
        ] {
            assert!(
                !source.code.contains(impure),
                "{} has {impure}",
                source.path.display()
            );
        }
    }
}

#[test]
fn every_file_has_module_doc() {
    for source in sources() {
        assert!(
            source.text.starts_with("//! "),
            "{} has no module doc",
            source.path.display()
        );
    }
}

#[test]
fn files_have_at_most_300_code_lines() {
    for source in sources() {
        let lines = source
            .code
            .lines()
            .filter(|line| !line.trim().is_empty())
            .count();
        assert!(
            lines <= 300 || source.path.ends_with("tests.rs"),
            "{} has {lines} lines",
            source.path.display()
        );
    }
}

#[test]
fn both_databases_have_same_migrations() {
    let names = |database: &str| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("migrations")
            .join(database);
        let mut names: Vec<_> = fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        names.sort();
        names
    };

    assert!(!names("sqlite").is_empty());
    assert_eq!(names("sqlite"), names("postgres"));
}

#[test]
fn both_databases_have_same_statements() {
    let statements = |folder: &str| {
        let sources = sources()
            .into_iter()
            .filter(|source| source.path.to_string_lossy().contains(folder));
        let mut names: Vec<String> = sources
            .flat_map(|source| names_after(&source.code, "\"-- "))
            .collect();
        names.sort();
        names
    };
    // Only SQLite takes a lock to check whether the database is writable. Only Postgres has advisory locks, and tables that apps
    // use while they are adopted.
    let only_in_postgres = [
        "schema_check_writable",
        "schema_lock",
        "schema_check_creatable",
        "schema_checksums",
        "adoption_foreign_keys",
        "adoption_index",
        "adoption_next_partition",
        "adoption_attachments_to_repeat",
        "adoption_record_migration",
    ];
    let mut postgres: Vec<String> = statements("store/postgres")
        .into_iter()
        .filter(|name| !only_in_postgres.contains(&name.as_str()))
        .collect();
    assert!(postgres.len() >= 9);
    // One statement of a database may be several statements on the other.
    postgres.dedup();
    let mut sqlite = statements("store/sqlite");
    sqlite.dedup();
    assert_eq!(postgres, sqlite);

    let shared = statements("store/shared");
    assert!(shared.len() >= 9);
    let duplicate = shared.iter().find(|name| postgres.contains(name));
    assert_eq!(duplicate, None, "a shared statement exists once");
}

/// The test files that may sleep. All other tests wait for an effect with `tests/support/wait.rs`.
const MAY_SLEEP: [(&str, &str); 9] = [
    ("support/wait.rs", "polls a condition"),
    ("support/subscriber.rs", "simulates a slow subscriber"),
    ("support/token_server.rs", "simulates a slow token server"),
    ("support/proxy.rs", "simulates a slow network"),
    ("faults/clients.rs", "simulates a slow client"),
    ("faults/fault.rs", "a fault has a duration"),
    ("faults/load.rs", "paces the load"),
    ("faults/soak.rs", "a soak has a duration"),
    (
        "faults/scenario.rs",
        "polls expensive conditions less often",
    ),
];

#[test]
fn tests_do_not_sleep() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for folder in ["spec", "conformance", "support", "faults", "docs"] {
        let mut files = Vec::new();
        collect(&tests, &tests.join(folder), &mut files);
        assert!(files.len() > 5, "the tests were found");
        for file in files {
            let sleeps = file.code.contains("time::sleep") || file.code.contains("thread::sleep");
            let may_sleep = MAY_SLEEP.iter().any(|(path, _)| file.path.ends_with(path));
            assert_eq!(
                sleeps,
                may_sleep,
                "{} disagrees with MAY_SLEEP",
                file.path.display()
            );
        }
    }
}
