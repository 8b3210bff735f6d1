//! Secrets and other values as people paste them, and the length of secrets.

use std::fs;
use std::process::Output;

use tempfile::TempDir;

use crate::support::program::{Service, run, stderr, stdout};

/// What editors, shells and web pages add around a value.
const PASTED: [(&str, &str); 4] = [
    ("", "\n"),
    ("\u{feff}", "\r\n"),
    (" \t", " "),
    ("\u{200b}", "\u{a0}"),
];

const SECRET: &str = "a secret of 26 characters!";

/// Runs `check-config` with these variables.
fn check(variables: &[(&str, &str)]) -> Output {
    let folder = TempDir::new().expect("a folder");
    run(folder.path(), &["check-config"], variables)
}

/// Returns whether a service with these variables accepts a webhook with [`SECRET`].
fn accepts_secret(folder: &TempDir, variables: &[(&str, &str)]) -> bool {
    let service = Service::start(folder.path(), variables);
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
    let sent = run(
        folder.path(),
        &arguments,
        &[("CLOUDFLARE_WEBHOOK_SECRET", SECRET)],
    );
    sent.status.success()
}

#[test]
fn secret_works_as_pasted() {
    for (before, after) in PASTED {
        let folder = TempDir::new().expect("a folder");
        let file = folder.path().join("secret");
        let pasted = format!("{before}{SECRET}{after}");
        fs::write(&file, format!("{before}another secret{after}\n{pasted}")).expect("a file");
        let path = format!("{before}{}{after}", file.display());
        for variables in [
            [("CLOUDFLARE_WEBHOOK_SECRET", pasted.as_str())],
            [("CLOUDFLARE_WEBHOOK_SECRET_PREVIOUS", &pasted)],
            [("CLOUDFLARE_WEBHOOK_SECRET_FILE", &path)],
        ] {
            assert!(
                accepts_secret(&folder, &variables),
                "{pasted:?} {variables:?}"
            );
        }
    }
}

#[test]
fn every_setting_works_as_pasted() {
    for (before, after) in PASTED {
        let folder = TempDir::new().expect("a folder");
        let pasted = |value: &str| format!("{before}{value}{after}");
        let toml = "\u{feff}[webhook]\npath = \" /hook\\n\"\n\
            [[relay.endpoints]]\nname = \"app \"\nurl = \" '${URL}'\\n\"\nsecret = \"\\ufeff0123456789abcdef\"\n";
        fs::write(folder.path().join("my.toml"), toml).expect("a file");
        let (listen, port) = (pasted("127.0.0.1:7000"), pasted("7001"));
        let url = pasted("http://app.example/");

        let output = run(
            folder.path(),
            &["check-config", "--config", "my.toml"],
            &[
                ("APP__SERVER__LISTEN", &listen),
                ("PORT", &port),
                ("APP__WEBHOOK__SCHEMES", &pasted("hmac, standard")),
                ("APP__DATABASE__TIMEOUT_SECS", &pasted("20")),
                ("APP_PROFILE", &pasted("development")),
                ("URL", &url),
            ],
        );

        let printed = stdout(&output);
        assert!(output.status.success(), "{}", stderr(&output));
        for line in [
            "server.listen = \"127.0.0.1:7001\"",
            "webhook.path = \"/hook\"",
            "webhook.schemes = [\"hmac\", \"standard\"]",
            "database.timeout_secs = \"20\"",
            "relay.endpoints[0].name = \"app\"",
        ] {
            assert!(printed.contains(line), "{line} is not in {printed}");
        }
    }
}

#[test]
fn production_refuses_short_secrets() {
    let check_in = |profile, secret| {
        let variables = [
            ("APP_PROFILE", profile),
            ("CLOUDFLARE_WEBHOOK_SECRET", secret),
        ];
        let output = check(&variables);
        (output.status.code(), stderr(&output))
    };
    let warning = "warning: webhook.secrets: a secret has fewer than 16 bytes";
    for (secret, is_short) in [
        ("fifteen letters", true),
        ("sixteen letters!", false),
        // 15 and 16 bytes in base64.
        ("whsec_AAAAAAAAAAAAAAAAAAAA", true),
        ("whsec_AAAAAAAAAAAAAAAAAAAAAA==", false),
    ] {
        let (code, warned) = check_in("development", secret);
        assert_eq!(
            (code, warned.contains(warning)),
            (Some(0), is_short),
            "{secret}"
        );
        let (code, refused) = check_in("production", secret);
        assert_eq!(
            code,
            Some(if is_short { 2 } else { 0 }),
            "{secret}: {refused}"
        );
        assert_eq!(
            refused.contains("openssl rand -hex 32"),
            is_short,
            "{secret}: {refused}"
        );
    }
    // A rotation must be able to begin with a short secret.
    let rotation = check(&[
        ("APP_PROFILE", "production"),
        ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
        ("CLOUDFLARE_WEBHOOK_SECRET_PREVIOUS", "short"),
    ]);
    assert!(rotation.status.success(), "{}", stderr(&rotation));
    assert!(stderr(&rotation).contains("webhook.previous_secret: a secret has fewer"));
}

#[test]
fn warns_about_doubtful_secrets() {
    let warns = |secret: &str, schemes: &str, part: &str| {
        let output = check(&[
            ("CLOUDFLARE_WEBHOOK_SECRET", secret),
            ("APP__WEBHOOK__SCHEMES", schemes),
        ]);
        assert!(output.status.success(), "{}", stderr(&output));
        stderr(&output).contains(part)
    };
    let base64 = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let with_prefix = format!("whsec_{base64}");

    assert!(warns(base64, "standard", "Write whsec_ before base64"));
    assert!(!warns(base64, "hmac", "Write whsec_ before base64"));
    assert!(!warns(
        &with_prefix,
        "standard",
        "Write whsec_ before base64"
    ));
    assert!(!warns(SECRET, "standard", "Write whsec_ before base64"));
    assert!(warns(
        "'a secret with 24 letters'",
        "hmac",
        "has quotes around it"
    ));
    assert!(!warns(SECRET, "hmac", "has quotes around it"));
}

#[test]
fn empty_list_of_addresses_is_refused() {
    for value in [",", "[]", " , ,", r#"[""]"#] {
        let output = check(&[("APP__WEBHOOK__ALLOWED_ADDRESSES", value)]);

        assert_eq!(output.status.code(), Some(2), "{value:?}");
        assert!(
            stderr(&output).starts_with("error: webhook.allowed_addresses: has no item (from APP__WEBHOOK__ALLOWED_ADDRESSES)"),
            "{value:?}: {}",
            stderr(&output)
        );
    }
    let folder = TempDir::new().expect("a folder");
    let empty = "[webhook]\nallowed_addresses = []\n";
    fs::write(folder.path().join("my.toml"), empty).expect("a file");
    let from_file = run(folder.path(), &["check-config", "--config", "my.toml"], &[]);
    assert!(stderr(&from_file).contains("has no item (from my.toml)"));
    for every_address in ["", "0.0.0.0/0,::/0"] {
        let output = check(&[("APP__WEBHOOK__ALLOWED_ADDRESSES", every_address)]);
        assert!(output.status.success(), "{every_address:?}");
    }
}

#[test]
fn value_of_white_space_is_refused() {
    for (name, value, start) in [
        (
            "CLOUDFLARE_WEBHOOK_SECRET",
            " ",
            "error: webhook.secrets: has only white space (from CLOUDFLARE_WEBHOOK_SECRET). \
             Write a secret, or an empty value to turn authentication off.",
        ),
        (
            "APP__WEBHOOK__SECRETS",
            r#"["a secret of 16 bytes", "\n"]"#,
            "error: webhook.secrets: has only white space (from APP__WEBHOOK__SECRETS)",
        ),
        (
            "APP__WEBHOOK__ALLOWED_ADDRESSES",
            r#"[" "]"#,
            "error: webhook.allowed_addresses: has only white space",
        ),
        (
            "PORT",
            "\t",
            "error: server.listen: has only white space (from PORT). Write a value, or remove it.",
        ),
        (
            "APP_PROFILE",
            " ",
            "error: APP_PROFILE: has only white space (from the environment)",
        ),
    ] {
        let output = check(&[(name, value)]);

        let printed = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{name}: {printed}");
        assert!(printed.starts_with(start), "{printed}");
        assert!(check(&[(name, "")]).status.success(), "{name}");
    }
    let folder = TempDir::new().expect("a folder");
    let blank = "[webhook]\nsecrets = \" \"\n";
    fs::write(folder.path().join("my.toml"), blank).expect("a file");
    let from_file = run(folder.path(), &["check-config", "--config", "my.toml"], &[]);
    assert!(stderr(&from_file).contains("has only white space (from my.toml)"));
}

#[test]
fn short_secret_is_reported_once() {
    let output = check(&[
        ("CLOUDFLARE_WEBHOOK_SECRET", "short"),
        ("APP_PROFILE", "production"),
    ]);

    let printed = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{printed}");
    assert_eq!(
        printed.matches("fewer than 16 bytes").count(),
        1,
        "{printed}"
    );
}
