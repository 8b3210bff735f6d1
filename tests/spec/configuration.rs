//! The sources of settings, and the message for an invalid setting: one line with the key, the
//! source and the allowed values.

use std::fs;
use std::process::Output;

use tempfile::TempDir;

use crate::support::program::{Service, run, stderr, stdout};

/// Runs `check-config` with these variables.
fn check(variables: &[(&str, &str)]) -> Output {
    let folder = TempDir::new().expect("a folder");
    run(folder.path(), &["check-config"], variables)
}

/// Returns the line of a key in the output of `check-config`.
fn line(variables: &[(&str, &str)], key: &str) -> String {
    let output = check(variables);
    assert!(output.status.success(), "{}", stderr(&output));
    let printed = stdout(&output);
    printed
        .lines()
        .find(|line| line.starts_with(&format!("{key} = ")))
        .unwrap_or_else(|| panic!("no {key} in {printed}"))
        .to_owned()
}

#[test]
fn shows_defaults_with_their_source() {
    let printed = stdout(&check(&[]));

    for key in [
        "server.listen = \"127.0.0.1:8080\"",
        "server.body_limit_bytes = 1048576",
        "ops.listen = \"127.0.0.1:9090\"",
        "database.url = \"sqlite://data/images.db\"",
        "webhook.path = \"/cloudflare-images/api/webhook/\"",
        "webhook.schemes = [\"cf-webhook-auth\", \"hmac\"]",
        "webhook.timestamp_tolerance_secs = 300",
        "webhook.unknown_images = \"reject\"",
        "shutdown.deadline_secs = 9",
    ] {
        assert!(
            printed.contains(&format!("{key}  # config/default.toml\n")),
            "{key} in {printed}"
        );
    }
}

#[test]
fn file_overrides_defaults_and_environment_overrides_file() {
    let folder = TempDir::new().expect("a folder");
    fs::write(
        folder.path().join("my.toml"),
        "[webhook]\ntimestamp_tolerance_secs = 60\nunknown_images = \"create\"\n",
    )
    .expect("a file");

    let output = run(
        folder.path(),
        &["check-config", "--config", "my.toml"],
        &[("APP__WEBHOOK__TIMESTAMP_TOLERANCE_SECS", "90")],
    );

    let printed = stdout(&output);
    assert!(
        printed.contains(
            "webhook.timestamp_tolerance_secs = \"90\"  # APP__WEBHOOK__TIMESTAMP_TOLERANCE_SECS\n"
        ),
        "{printed}"
    );
    assert!(
        printed.contains("webhook.unknown_images = \"create\"  # my.toml\n"),
        "{printed}"
    );
}

#[test]
fn loads_profile_from_file_or_program() {
    let folder = TempDir::new().expect("a folder");
    let variables = [
        ("APP_PROFILE", "production"),
        ("CLOUDFLARE_WEBHOOK_SECRET", "a secret with 24 letters"),
    ];

    let built_in = stdout(&run(folder.path(), &["check-config"], &variables));
    fs::create_dir(folder.path().join("config")).expect("a folder");
    fs::write(
        folder.path().join("config/production.toml"),
        "[log]\nformat = \"text\"\n",
    )
    .expect("a file");
    let read = stdout(&run(folder.path(), &["check-config"], &variables));

    assert!(
        built_in.contains("log.format = \"json\"  # config/production.toml (built in)\n"),
        "{built_in}"
    );
    assert!(
        read.contains("log.format = \"text\"  # config/production.toml\n"),
        "{read}"
    );
}

#[test]
fn accepts_short_variable_names() {
    for (variable, value, key, shown) in [
        (
            "DATABASE_URL",
            "sqlite://else.db",
            "database.url",
            "\"sqlite://else.db\"",
        ),
        ("RUST_LOG", "debug", "log.filter", "\"debug\""),
        ("PORT", "3000", "server.listen", "\"[::]:3000\""),
        (
            "CLOUDFLARE_WEBHOOK_SECRET",
            "s3cret",
            "webhook.secrets",
            "[\"***\"]",
        ),
        (
            "CLOUDFLARE_WEBHOOK_SECRET_PREVIOUS",
            "s3cret",
            "webhook.previous_secret",
            "\"***\"",
        ),
    ] {
        assert_eq!(
            line(&[(variable, value)], key),
            format!("{key} = {shown}  # {variable}")
        );
    }
    assert!(
        line(
            &[("PORT", "3000"), ("APP__SERVER__LISTEN", "0.0.0.0:80")],
            "server.listen"
        )
        .contains("\"0.0.0.0:3000\"")
    );
    assert!(
        line(
            &[
                ("DATABASE_URL", "sqlite://a"),
                ("APP__DATABASE__URL", "sqlite://b")
            ],
            "database.url"
        )
        .contains("sqlite://b")
    );
}

#[test]
fn ignores_empty_variables_and_secrets() {
    for variable in [
        "APP__WEBHOOK__SECRETS",
        "APP__SERVER__READ_TIMEOUT_SECS",
        "DATABASE_URL",
        "PORT",
        "RUST_LOG",
        "CLOUDFLARE_WEBHOOK_SECRET",
        "APP_PROFILE",
    ] {
        assert!(check(&[(variable, "")]).status.success(), "{variable}");
    }
    let output = check(&[
        ("APP_PROFILE", "production"),
        ("APP__WEBHOOK__SECRETS", r#"["", "  "]"#),
    ]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn accepts_lists_as_json_or_commas() {
    for value in [
        r#"["hmac","standard"]"#,
        "hmac,standard",
        " hmac , standard ",
    ] {
        assert!(
            line(&[("APP__WEBHOOK__SCHEMES", value)], "webhook.schemes")
                .contains(r#"["hmac", "standard"]"#)
        );
    }
}

#[test]
fn accepts_durations_with_units() {
    for (variable, value, key) in [
        (
            "APP__WEBHOOK__TIMESTAMP_TOLERANCE_SECS",
            "24h",
            "webhook.timestamp_tolerance_secs",
        ),
        (
            "APP__WEBHOOK__PARKED_TTL_DAYS",
            "12h",
            "webhook.parked_ttl_days",
        ),
        (
            "APP__SHUTDOWN__DEADLINE_SECS",
            "0",
            "shutdown.deadline_secs",
        ),
    ] {
        assert!(line(&[(variable, value)], key).contains(&format!("= \"{value}\"")));
    }
    for value in ["25h", "0s", "1.5h", "5 m"] {
        let output = check(&[("APP__WEBHOOK__TIMESTAMP_TOLERANCE_SECS", value)]);

        assert_eq!(
            stderr(&output),
            "error: webhook.timestamp_tolerance_secs: must be a whole number from 1 to 86400 (in seconds), or a duration from \"1s\" to \
             \"86400s\" (units: s, m, h, d) (from APP__WEBHOOK__TIMESTAMP_TOLERANCE_SECS)\n"
        );
    }
}

#[test]
fn accepts_renamed_key_with_warning() {
    for (old, value, new) in [
        ("PARK_DAYS", "3", "PARKED_TTL_DAYS"),
        ("TOLERANCE_SECS", "60", "TIMESTAMP_TOLERANCE_SECS"),
    ] {
        let variable = format!("APP__WEBHOOK__{old}");
        let key = |name: &str| format!("webhook.{}", name.to_lowercase());

        let output = check(&[(variable.as_str(), value)]);

        let expected = format!("{} = \"{value}\"  # {variable}\n", key(new));
        assert!(stdout(&output).contains(&expected), "{}", stdout(&output));
        assert_eq!(
            stderr(&output),
            format!(
                "warning: {}: old name (from {variable}). Use {}.\n",
                key(old),
                key(new)
            )
        );
    }
}

#[test]
fn environment_overrides_file_despite_renamed_key() {
    let folder = TempDir::new().expect("a folder");
    for (in_file, variable) in [
        ("park_days", "APP__WEBHOOK__PARKED_TTL_DAYS"),
        ("parked_ttl_days", "APP__WEBHOOK__PARK_DAYS"),
    ] {
        fs::write(
            folder.path().join("my.toml"),
            format!("[webhook]\n{in_file} = 3\n"),
        )
        .expect("a file");

        let output = run(
            folder.path(),
            &["check-config", "--config", "my.toml"],
            &[(variable, "4")],
        );

        let expected = format!("webhook.parked_ttl_days = \"4\"  # {variable}\n");
        assert!(stdout(&output).contains(&expected), "{}", stdout(&output));
        assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
    }
}

#[test]
fn rejects_key_under_old_and_new_name() {
    let output = check(&[
        ("APP__WEBHOOK__PARK_DAYS", "3"),
        ("APP__WEBHOOK__PARKED_TTL_DAYS", "3"),
    ]);

    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        stderr(&output),
        "error: webhook.parked_ttl_days: its old name webhook.park_days is set too (from APP__WEBHOOK__PARK_DAYS). \
         Remove webhook.park_days.\n"
    );
}

#[test]
fn reads_secrets_from_files() {
    let folder = TempDir::new().expect("a folder");
    fs::write(
        folder.path().join("url"),
        "postgres://app:hunter2@db/app?password=hunter2\n",
    )
    .expect("a file");
    fs::write(folder.path().join("secret"), "one\ntwo\n").expect("a file");
    fs::write(
        folder.path().join("with_files.toml"),
        "[database]\nurl_file = \"url\"\n[webhook]\nsecrets_file = \"secret\"\n",
    )
    .expect("a file");

    let from_environment = run(
        folder.path(),
        &["check-config"],
        &[
            ("DATABASE_URL_FILE", "url"),
            ("CLOUDFLARE_WEBHOOK_SECRET_FILE", "secret"),
            ("CLOUDFLARE_WEBHOOK_SECRET_PREVIOUS_FILE", "secret"),
        ],
    );
    let from_file = run(
        folder.path(),
        &["check-config", "--config", "with_files.toml"],
        &[],
    );

    for printed in [stdout(&from_environment), stdout(&from_file)] {
        assert!(
            printed.contains("database.url = \"postgres://app:***@db/app?***\"  # url, named by "),
            "{printed}"
        );
        assert!(
            printed.contains("webhook.secrets = [\"***\", \"***\"]  # secret, named by "),
            "{printed}"
        );
        assert!(
            !printed.contains("hunter2") && !printed.contains("\"one\""),
            "{printed}"
        );
    }
}

/// Variables with invalid values, the key that each sets, and the allowed values in the message.
const INVALID_SETTINGS: [(&str, &str, &str, &str); 29] = [
    (
        "APP__SERVER__HEALTH_PATH",
        "healthz",
        "server.health_path",
        "must be off, or a path such as /healthz",
    ),
    (
        "APP__SERVER__LISTEN",
        "everywhere",
        "server.listen",
        "must be an IP address and a port",
    ),
    (
        "APP__SERVER__BODY_LIMIT_BYTES",
        "0",
        "server.body_limit_bytes",
        "must be a whole number from 1 to 67108864",
    ),
    (
        "APP__SERVER__BODY_LIMIT_BYTES",
        "big",
        "server.body_limit_bytes",
        "must be a whole number from 1 to 67108864",
    ),
    (
        "APP__SERVER__BODY_LIMIT_BYTES",
        "1.5",
        "server.body_limit_bytes",
        "must be a whole number from 1 to 67108864",
    ),
    (
        "APP__SERVER__READ_TIMEOUT_SECS",
        "-1",
        "server.read_timeout_secs",
        "must be a whole number from 1 to 300",
    ),
    (
        "APP__DATABASE__MIGRATE_ON_START",
        "maybe",
        "database.migrate_on_start",
        "must be true or false",
    ),
    (
        "DATABASE_URL",
        "mysql://root:hunter2@db/x",
        "database.url",
        "must be sqlite://PATH",
    ),
    (
        "APP__WEBHOOK__PATH",
        "hooks",
        "webhook.path",
        "contains only letters, digits and - . _ ~ / (from APP__WEBHOOK__PATH)",
    ),
    (
        "APP__WEBHOOK__PATH",
        "/{id}",
        "webhook.path",
        "must be a path that begins with a slash",
    ),
    (
        "APP__WEBHOOK__SCHEMES",
        "hmac,md5",
        "webhook.schemes",
        "cf-webhook-auth, hmac, timestamped, standard",
    ),
    (
        "APP__WEBHOOK__SCHEMES",
        "[]",
        "webhook.schemes",
        "at least one of",
    ),
    (
        "APP__WEBHOOK__UNKNOWN_IMAGES",
        "ignore",
        "webhook.unknown_images",
        "must be reject or create",
    ),
    (
        "APP__WEBHOOK__ENVELOPE__ID_POINTERS",
        "data.id",
        "webhook.envelope.id_pointers",
        "JSON pointer",
    ),
    (
        "APP__WEBHOOK__SECRETS",
        "[1]",
        "webhook.secrets",
        "must be a list separated by commas, or a JSON array of strings",
    ),
    (
        "APP__LOG__FORMAT",
        "xml",
        "log.format",
        "must be auto, text or json",
    ),
    (
        "APP__RETENTION__REJECTIONS_DAYS",
        "6",
        "retention.rejections_days",
        "must be 0, or at least webhook.parked_ttl_days",
    ),
    ("RUST_LOG", "info,=", "log.filter", "must be a level"),
    ("RUST_LOG", "\u{b}é[=x", "log.filter", "must be a level"),
    ("RUST_LOG", "inof", "log.filter", "must be a level"),
    (
        "DATABASE_URL",
        "postgres://app:hunter2@x@db/app",
        "database.url",
        "Write it as %40",
    ),
    (
        "PORT",
        "eighty",
        "server.listen",
        "the port must be a number from 0 to 65535",
    ),
    (
        "APP_PROFILE",
        "staging",
        "APP_PROFILE",
        "must be development or production",
    ),
    (
        "APP__SERVER__LISTENS",
        "x",
        "server.listens",
        "unknown setting (from APP__SERVER__LISTENS). \
         The keys of [server] are body_limit_bytes, client_address_header, health_path, keep_alive_secs, listen, ",
    ),
    (
        "APP__SEVRER__LISTEN",
        "x",
        "sevrer.listen",
        "unknown setting (from APP__SEVRER__LISTEN). \
         The sections are api, cloudflare, database, log, ops, reconcile, relay, retention, server, shutdown, tls, webhook.",
    ),
    (
        "APP__API__TOKENS",
        "app:raed:0123456789abcdef",
        "api.tokens",
        "entry 1 must be TOKEN, NAME:read:TOKEN or NAME:write:TOKEN",
    ),
    (
        "APP__API__ALLOWED_ORIGINS",
        "*",
        "api.allowed_origins",
        "* is not allowed",
    ),
    ("APP__SERVER", "x", "server", "unknown setting"),
    (
        "DATABASE_URL_FILE",
        "/nowhere",
        "database.url",
        "No such file",
    ),
];

#[test]
fn explains_invalid_setting_in_one_line() {
    for (variable, value, key, allowed) in INVALID_SETTINGS {
        let output = check(&[(variable, value)]);

        let message = stderr(&output);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{variable}={value}: {message}"
        );
        assert_eq!(message.lines().count(), 1, "{message}");
        for part in [
            key,
            allowed,
            if variable == "APP_PROFILE" {
                "the environment"
            } else {
                variable
            },
        ] {
            assert!(
                message.contains(part),
                "{variable}={value}: {part:?} is missing in {message:?}"
            );
        }
        assert!(!message.contains("hunter2"), "{message}");
    }
}

#[test]
fn explains_invalid_file_with_key_or_line() {
    for (content, parts) in [
        (
            "[server]\nlisten = \"everywhere\"\n",
            vec![
                "server.listen",
                "wrong.toml",
                "must be an IP address and a port",
            ],
        ),
        (
            "[server]\nbody_limit_bytes = true\n",
            vec![
                "server.body_limit_bytes",
                "wrong.toml",
                "must be a whole number",
            ],
        ),
        (
            "[server]\nbody_limit_bytes = 1.5\n",
            vec![
                "server.body_limit_bytes",
                "wrong.toml",
                "must be a whole number",
            ],
        ),
        (
            "[webhook]\nsecrets = [1]\n",
            vec!["webhook.secrets", "wrong.toml", "must be a list of strings"],
        ),
        (
            "[webhook]\nschemes = { hmac = \"hunter2\" }\n",
            vec!["webhook.schemes.hmac", "wrong.toml", "unknown setting"],
        ),
        (
            "[webhook]\npath = [\"hunter2\"]\n",
            vec!["webhook.path", "wrong.toml", "must be a string"],
        ),
        (
            "[webhook]\nsecret = \"hunter2\"\n",
            vec!["webhook.secret", "wrong.toml", "unknown setting"],
        ),
        (
            "[webhook]\nsecrets = [\"a\"]\nsecrets_file = \"b\"\n",
            vec![
                "webhook.secrets: webhook.secrets_file is set too",
                "wrong.toml",
            ],
        ),
        (
            "[webhook]\n\nsecrets = [\"hunter2\"\n",
            vec!["wrong.toml, line ", "invalid TOML"],
        ),
        (
            "server = 5\n",
            vec!["server", "wrong.toml", "unknown setting"],
        ),
    ] {
        let folder = TempDir::new().expect("a folder");
        fs::write(folder.path().join("wrong.toml"), content).expect("a file");

        let output = run(folder.path(), &["serve", "--config", "wrong.toml"], &[]);

        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{content}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        assert!(
            parts.iter().all(|part| message.contains(part)),
            "{content}: {parts:?} are not all in {message}"
        );
        assert!(!message.contains("hunter2"), "{message}");
    }
}

#[test]
fn reports_missing_file() {
    let folder = TempDir::new().expect("a folder");

    let output = run(folder.path(), &["serve", "--config", "nowhere.toml"], &[]);

    assert_eq!(
        (output.status.code(), stderr(&output).as_str()),
        (
            Some(2),
            "error: cannot read the configuration file nowhere.toml: No such file or directory (os error 2)\n"
        )
    );
}

#[test]
fn production_requires_secret() {
    let folder = TempDir::new().expect("a folder");

    for command in ["serve", "check-config"] {
        let output = run(folder.path(), &[command], &[("APP_PROFILE", "production")]);

        assert_eq!(output.status.code(), Some(2));
        assert!(
            stderr(&output).contains("CLOUDFLARE_WEBHOOK_SECRET"),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn example_fails_only_without_secret_files() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/config/example.toml");
    let folder = TempDir::new().expect("a folder");

    let output = run(folder.path(), &["check-config", "--config", example], &[]);

    assert!(
        stderr(&output).contains("database.url: cannot read the file that"),
        "expected only missing secret files, found: {}",
        stderr(&output)
    );
}

#[test]
fn secret_is_trimmed_but_not_split() {
    let folder = TempDir::new().expect("a folder");
    let service = Service::start(folder.path(), &[("APP__WEBHOOK__SECRETS", " one,two ")]);
    let send = |secret: &str| {
        let url = service.url();
        let arguments = [
            "send",
            "image",
            "--shape",
            "test",
            "--scheme",
            "cf-webhook-auth",
            "--url",
            &url,
        ];
        run(
            folder.path(),
            &arguments,
            &[("CLOUDFLARE_WEBHOOK_SECRET", secret)],
        )
        .status
        .success()
    };

    assert!(send("one,two"));
    assert!(!send("one") && !send("two"));
}

#[test]
fn empty_secret_variable_keeps_other_secret() {
    let shown = line(
        &[
            ("CLOUDFLARE_WEBHOOK_SECRET", "s3cret"),
            ("APP__WEBHOOK__SECRETS", ""),
        ],
        "webhook.secrets",
    );

    assert!(shown.starts_with("webhook.secrets = [\"***\"]"), "{shown}");
}

#[test]
fn hides_secret_given_as_file_name() {
    let output = check(&[("CLOUDFLARE_WEBHOOK_SECRET_FILE", "hunter2")]);

    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        stderr(&output),
        "error: webhook.secrets: cannot read the file that CLOUDFLARE_WEBHOOK_SECRET_FILE names: \
         No such file or directory (os error 2)\n"
    );
}

#[test]
fn rejects_endless_files() {
    for variables in [
        [
            ("CLOUDFLARE_WEBHOOK_SECRET_FILE", "/dev/zero"),
            ("APP_PROFILE", "development"),
        ],
        [
            ("APP__WEBHOOK__CLOUDFLARE_ADDRESSES_FILE", "/dev/zero"),
            ("APP__WEBHOOK__ALLOWED_ADDRESSES", "cloudflare"),
        ],
    ] {
        let output = check(&variables);

        assert_eq!(output.status.code(), Some(2));
        assert!(
            stderr(&output).contains("the file is larger than 1048576 bytes"),
            "{}",
            stderr(&output)
        );
    }
    let folder = TempDir::new().expect("a folder");
    let output = run(
        folder.path(),
        &["check-config", "--config", "/dev/zero"],
        &[],
    );

    assert!(
        stderr(&output).contains(
            "cannot read the configuration file /dev/zero: the file is larger than 1048576 bytes"
        ),
        "{}",
        stderr(&output)
    );
}

#[test]
fn rejects_empty_secret_file() {
    let folder = TempDir::new().expect("a folder");
    fs::write(folder.path().join("empty"), "\n").expect("a file");

    let output = run(
        folder.path(),
        &["check-config"],
        &[("CLOUDFLARE_WEBHOOK_SECRET_FILE", "empty")],
    );

    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("webhook.secrets: the file empty is empty"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn validates_secret_for_standard_scheme() {
    let secret = ("CLOUDFLARE_WEBHOOK_SECRET", "whsec_hunter2!");

    let (on, off) = (
        check(&[secret, ("APP__WEBHOOK__SCHEMES", "hmac,standard")]),
        check(&[secret]),
    );

    assert_eq!(on.status.code(), Some(2));
    assert!(
        stderr(&on).contains("webhook.secrets")
            && stderr(&on).contains("a character after whsec_ that is not base64"),
        "{}",
        stderr(&on)
    );
    assert!(!stderr(&on).contains("hunter2"));
    assert!(off.status.success());
}

#[test]
fn words_have_any_case_and_are_listed() {
    let folder = TempDir::new().expect("a folder");
    for (variable, word, other, rule) in [
        (
            "APP__DATABASE__POOLER",
            "Transaction",
            "pgbouncer",
            "must be auto, none, session or transaction",
        ),
        (
            "APP__LOG__FORMAT",
            "JSON",
            "xml",
            "must be auto, text or json",
        ),
        (
            "APP__WEBHOOK__SCHEMES",
            "HMAC,Standard",
            "md5",
            "must be a list of at least one of cf-webhook-auth, hmac",
        ),
        (
            "APP__RELAY__ON_FAILURE",
            "Log",
            "mail",
            "must be log or callback",
        ),
        (
            "APP__SERVER__CLIENT_ADDRESS_HEADER",
            "CF-Connecting-IP",
            "forwarded",
            "must be x-forwarded-for or cf-connecting-ip",
        ),
        (
            "APP__SERVER__HEALTH_PATH",
            "OFF",
            "none",
            "must be off, or a path",
        ),
        (
            "APP__RELAY__DENY_PRIVATE",
            "True",
            "yes",
            "must be true or false",
        ),
        (
            "APP_PROFILE",
            "Development",
            "test",
            "must be development or production",
        ),
    ] {
        let check = |value| run(folder.path(), &["check-config"], &[(variable, value)]);
        let (accepted, refused) = (check(word), check(other));

        assert!(accepted.status.success(), "{}", stderr(&accepted));
        assert!(stderr(&refused).contains(rule), "{}", stderr(&refused));
    }
}
