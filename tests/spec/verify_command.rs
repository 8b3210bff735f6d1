//! The command `verify`. The signatures are published vectors or follow the documentation.

use std::fs;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;

use crate::support::program::{run, stderr, stdout};
use crate::support::signing::{SECRET, hex_hmac, standard, timestamped};

const BODY: &str = "{\"test\": 2432232314}";
const SIGNED_AT: i64 = 1_614_265_330;

/// The first test vector of Standard Webhooks.
const STANDARD_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const STANDARD_ID: &str = "webhook-id: msg_p5jXN8AQM9LWM0D4loKWxJek";
const STANDARD_SIGNATURE: &str =
    "webhook-signature: v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

/// Returns the exit code, standard output and standard error.
fn verify(
    secret: &str,
    headers: &[&str],
    body: &str,
    extra_arguments: &[&str],
) -> (Option<i32>, String, String) {
    let folder = TempDir::new().expect("a folder");
    fs::write(folder.path().join("body"), body).expect("a file");
    fs::write(folder.path().join("secret"), format!("{secret}\n")).expect("a file");
    let mut arguments = vec!["verify", "body", "--secret-file", "secret"];
    arguments.extend(headers.iter().flat_map(|header| ["--header", header]));
    arguments.extend(extra_arguments);
    let output = run(folder.path(), &arguments, &[]);
    (output.status.code(), stdout(&output), stderr(&output))
}

fn at_signing_time() -> Vec<&'static str> {
    vec!["--at", "1614265330"]
}

fn header(name: &str, value: &str) -> String {
    format!("{name}: {value}")
}

#[test]
fn accepts_valid_signatures() {
    let time = header("X-Webhook-Timestamp", &SIGNED_AT.to_string());
    let signature = header(
        "X-Webhook-Signature",
        &timestamped(SECRET, SIGNED_AT, BODY.as_bytes()),
    );
    let plain = header("X-Signature", &hex_hmac(SECRET, BODY.as_bytes()));
    let secret = header("cf-webhook-auth", SECRET);

    for (headers, expected) in [
        (vec![time.as_str(), &signature], "timestamped: valid\n"),
        (vec![plain.as_str()], "hmac: valid\n"),
        (vec![secret.as_str()], "cf-webhook-auth: valid\n"),
    ] {
        assert_eq!(
            verify(SECRET, &headers, BODY, &at_signing_time()),
            (Some(0), expected.to_owned(), String::new())
        );
    }
    let headers = [
        STANDARD_ID,
        "webhook-timestamp: 1614265330",
        STANDARD_SIGNATURE,
    ];
    assert_eq!(
        verify(STANDARD_SECRET, &headers, BODY, &at_signing_time()).1,
        "standard: valid\n"
    );
}

#[test]
fn explains_invalid_signatures() {
    let time = header("x-webhook-timestamp", &SIGNED_AT.to_string());
    let valid = header(
        "x-webhook-signature",
        &timestamped(SECRET, SIGNED_AT, BODY.as_bytes()),
    );
    let base64_as_text = header(
        "x-webhook-signature",
        &timestamped(STANDARD_SECRET, SIGNED_AT, BODY.as_bytes()),
    );
    for (secret, headers, body, expected) in [
        (
            SECRET,
            vec![time.as_str(), &valid],
            "other bytes",
            "timestamped: the signature does not match this secret and these bytes\n",
        ),
        (
            "another",
            vec![&time, &valid],
            BODY,
            "timestamped: the signature does not match this secret and these bytes\n",
        ),
        (
            SECRET,
            vec![&time, &valid],
            "{\"test\": 2432232314}\n",
            "timestamped: the signature does not match this secret and these bytes; \
             it matches the body without the line break at the end\n",
        ),
        (
            SECRET,
            vec![&valid],
            BODY,
            "timestamped: the header x-webhook-timestamp must be present exactly once\n",
        ),
        (
            SECRET,
            vec![&time, &time, &valid],
            BODY,
            "timestamped: the header x-webhook-timestamp must be present exactly once\n",
        ),
        (
            SECRET,
            vec!["x-webhook-timestamp: yesterday", &valid],
            BODY,
            "timestamped: the header x-webhook-timestamp must be a Unix timestamp in whole seconds\n",
        ),
        (
            SECRET,
            vec![&time, "x-webhook-signature: sha256=zz"],
            BODY,
            "timestamped: the header x-webhook-signature must be 64 hexadecimal digits, with or without sha256= before them\n",
        ),
        (
            SECRET,
            vec!["x-signature: none"],
            BODY,
            "hmac: the header x-signature must be 64 hexadecimal digits, with or without sha256= before them\n",
        ),
        (
            SECRET,
            vec!["cf-webhook-auth: another"],
            BODY,
            "cf-webhook-auth: the header carries a different secret\n",
        ),
        (
            STANDARD_SECRET,
            vec![&time, &base64_as_text],
            BODY,
            "timestamped: valid\n",
        ),
    ] {
        let code = i32::from(!expected.ends_with(": valid\n"));
        assert_eq!(
            verify(secret, &headers, body, &at_signing_time()),
            (Some(code), expected.to_owned(), String::new())
        );
    }
}

#[test]
fn explains_invalid_standard_signatures() {
    let for_other_body = header(
        "webhook-signature",
        &standard(
            STANDARD_SECRET,
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            SIGNED_AT,
            b"other bytes",
        ),
    );
    let standard_time = "webhook-timestamp: 1614265330";

    for (secret, headers, body, expected) in [
        (
            STANDARD_SECRET,
            vec![standard_time, STANDARD_SIGNATURE],
            BODY,
            "standard: the header webhook-id must be present exactly once\n",
        ),
        (
            STANDARD_SECRET,
            vec![STANDARD_ID, standard_time, "webhook-signature: v2,AAAA"],
            BODY,
            "standard: the header webhook-signature must be v1, followed by the base64 of 32 bytes; spaces separate several signatures\n",
        ),
        (
            STANDARD_SECRET,
            vec![STANDARD_ID, standard_time, &for_other_body],
            BODY,
            "standard: the signature does not match this secret and these bytes\n",
        ),
    ] {
        assert_eq!(
            verify(secret, &headers, body, &at_signing_time()),
            (Some(1), expected.to_owned(), String::new())
        );
    }
}

#[test]
fn detects_secret_encoding_mistakes() {
    let key_text = "a key of thirty-two letters, yes";
    let encoded = format!("whsec_{}", STANDARD.encode(key_text));
    let as_base64 = [
        header("x-webhook-timestamp", &SIGNED_AT.to_string()),
        header(
            "x-webhook-signature",
            &timestamped(key_text, SIGNED_AT, BODY.as_bytes()),
        ),
    ];
    // The decoded key of this secret is the text of `encoded`.
    let text_as_key = format!("whsec_{}", STANDARD.encode(&encoded));
    let as_text = [
        STANDARD_ID.to_owned(),
        header("webhook-timestamp", &SIGNED_AT.to_string()),
        header(
            "webhook-signature",
            &standard(
                &text_as_key,
                "msg_p5jXN8AQM9LWM0D4loKWxJek",
                SIGNED_AT,
                BODY.as_bytes(),
            ),
        ),
    ];

    for (headers, expected) in [
        (
            &as_base64[..],
            "timestamped: the signature does not match this secret and these bytes; \
             the sender used the decoded base64 after whsec_ as the key, instead of the text of the secret\n",
        ),
        (
            &as_text[..],
            "standard: the signature does not match this secret and these bytes; \
             the sender used the text of the secret as the key, instead of the decoded base64 after whsec_\n",
        ),
    ] {
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        assert_eq!(
            verify(&encoded, &headers, BODY, &at_signing_time()),
            (Some(1), expected.to_owned(), String::new())
        );
    }
}

#[test]
fn explains_expired_signature() {
    let headers = [
        STANDARD_ID,
        "webhook-timestamp: 1614265330",
        STANDARD_SIGNATURE,
    ];

    let (code, printed, _) = verify(STANDARD_SECRET, &headers, BODY, &["--at", "1614265931"]);

    assert_eq!(code, Some(1));
    assert_eq!(
        printed,
        "standard: the signature is valid, but its timestamp is 601 s from the time of receipt; the tolerance is 300 s\n"
    );
}

#[test]
fn explains_unusable_input_without_secrets() {
    for (headers, extra_arguments, expected) in [
        (
            vec!["content-type: text/plain"],
            vec![],
            "no --header has a signature or a secret. Use cf-webhook-auth, \
             x-signature, x-cloudflare-signature, x-webhook-signature or webhook-signature.\n",
        ),
        (
            vec!["hunter2"],
            vec![],
            "error: a --header is not \"Name: value\"\n",
        ),
        (
            vec!["hunter 2: x"],
            vec![],
            "error: the name of a --header has invalid characters: invalid HTTP header name\n",
        ),
        (
            vec!["x-signature: hunter2\u{1}"],
            vec![],
            "error: the value of the header x-signature has invalid characters: failed to parse header value\n",
        ),
        (
            vec!["x-signature: x"],
            vec!["--at", "99999999999999"],
            "error: --at is out of range",
        ),
    ] {
        let (code, printed, error) = verify(SECRET, &headers, BODY, &extra_arguments);

        assert_eq!((code, printed), (Some(1), String::new()));
        assert!(error.starts_with(expected), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn uses_configured_secrets_by_default() {
    let folder = TempDir::new().expect("a folder");
    fs::write(folder.path().join("body"), BODY).expect("a file");
    let credential = header("x-signature", &hex_hmac("the one before", BODY.as_bytes()));
    let arguments = ["verify", "body", "--header", &credential];

    let output = run(
        folder.path(),
        &arguments,
        &[
            ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
            ("CLOUDFLARE_WEBHOOK_SECRET_PREVIOUS", "the one before"),
        ],
    );
    let without = run(folder.path(), &arguments, &[]);

    assert_eq!(
        stdout(&output),
        "hmac (secret 1): the signature does not match this secret and these bytes\nhmac (secret 2): valid\n"
    );
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        stderr(&without),
        "error: no secret is set. Use --secret, --secret-file or CLOUDFLARE_WEBHOOK_SECRET.\n"
    );
}
