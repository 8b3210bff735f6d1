//! `verify` says whether a signature holds, and if not, why. The signatures are published vectors, or made by the documents' own rules.

use std::fs;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;

use crate::support::program::{run, stderr, stdout};
use crate::support::signing::{SECRET, hex_hmac, standard, timestamped};

const BODY: &str = "{\"test\": 2432232314}";
const AT: i64 = 1_614_265_330;

/// The first vector of Standard Webhooks.
const STANDARD_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const STANDARD_ID: &str = "webhook-id: msg_p5jXN8AQM9LWM0D4loKWxJek";
const STANDARD_SIGNATURE: &str =
    "webhook-signature: v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

/// Exit code, what it says, and what it complains of.
fn verify(
    secret: &str,
    headers: &[&str],
    body: &str,
    more: &[&str],
) -> (Option<i32>, String, String) {
    let folder = TempDir::new().expect("a folder");
    fs::write(folder.path().join("body"), body).expect("a file");
    fs::write(folder.path().join("secret"), format!("{secret}\n")).expect("a file");
    let mut words = vec!["verify", "body", "--secret-file", "secret"];
    words.extend(headers.iter().flat_map(|header| ["--header", header]));
    words.extend(more);
    let output = run(folder.path(), &words, &[]);
    (output.status.code(), stdout(&output), stderr(&output))
}

fn then() -> Vec<&'static str> {
    vec!["--at", "1614265330"]
}

fn header(name: &str, value: &str) -> String {
    format!("{name}: {value}")
}

#[test]
fn a_signature_that_holds_is_said_to_for_every_scheme() {
    let time = header("X-Webhook-Timestamp", &AT.to_string());
    let signature = header(
        "X-Webhook-Signature",
        &timestamped(SECRET, AT, BODY.as_bytes()),
    );
    let plain = header("X-Signature", &hex_hmac(SECRET, BODY.as_bytes()));
    let secret = header("cf-webhook-auth", SECRET);

    for (headers, said) in [
        (vec![time.as_str(), &signature], "timestamped: holds\n"),
        (vec![plain.as_str()], "hmac: holds\n"),
        (vec![secret.as_str()], "cf-webhook-auth: holds\n"),
    ] {
        assert_eq!(
            verify(SECRET, &headers, BODY, &then()),
            (Some(0), said.to_owned(), String::new())
        );
    }
    let headers = [
        STANDARD_ID,
        "webhook-timestamp: 1614265330",
        STANDARD_SIGNATURE,
    ];
    assert_eq!(
        verify(STANDARD_SECRET, &headers, BODY, &then()).1,
        "standard: holds\n"
    );
}

#[test]
fn what_is_wrong_with_one_is_said() {
    let time = header("x-webhook-timestamp", &AT.to_string());
    let right = header(
        "x-webhook-signature",
        &timestamped(SECRET, AT, BODY.as_bytes()),
    );
    let base64_as_text = header(
        "x-webhook-signature",
        &timestamped(STANDARD_SECRET, AT, BODY.as_bytes()),
    );
    for (secret, headers, body, said) in [
        (
            SECRET,
            vec![time.as_str(), &right],
            "other bytes",
            "timestamped: the signature is of another secret or of other bytes\n",
        ),
        (
            "another",
            vec![&time, &right],
            BODY,
            "timestamped: the signature is of another secret or of other bytes\n",
        ),
        (
            SECRET,
            vec![&time, &right],
            "{\"test\": 2432232314}\n",
            "timestamped: the signature is of another secret or of other bytes; \
             it would be right without the line break at the end of the body\n",
        ),
        (
            SECRET,
            vec![&right],
            BODY,
            "timestamped: the header x-webhook-timestamp has to be there, once\n",
        ),
        (
            SECRET,
            vec![&time, &time, &right],
            BODY,
            "timestamped: the header x-webhook-timestamp has to be there, once\n",
        ),
        (
            SECRET,
            vec!["x-webhook-timestamp: yesterday", &right],
            BODY,
            "timestamped: the header x-webhook-timestamp has to be whole seconds since 1970\n",
        ),
        (
            SECRET,
            vec![&time, "x-webhook-signature: sha256=zz"],
            BODY,
            "timestamped: the header x-webhook-signature has to be sha256= and 64 hexadecimal digits\n",
        ),
        (
            SECRET,
            vec!["x-signature: none"],
            BODY,
            "hmac: the header x-signature has to be sha256= and 64 hexadecimal digits\n",
        ),
        (
            SECRET,
            vec!["cf-webhook-auth: another"],
            BODY,
            "cf-webhook-auth: the header has another secret\n",
        ),
        (
            STANDARD_SECRET,
            vec![&time, &base64_as_text],
            BODY,
            "timestamped: holds\n",
        ),
    ] {
        let code = i32::from(!said.ends_with("holds\n"));
        assert_eq!(
            verify(secret, &headers, body, &then()),
            (Some(code), said.to_owned(), String::new())
        );
    }
}

#[test]
fn what_is_wrong_with_one_of_standard_webhooks_is_said() {
    let text_as_base64 = header(
        "webhook-signature",
        &standard(
            STANDARD_SECRET,
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            AT,
            b"other bytes",
        ),
    );
    let standard_time = "webhook-timestamp: 1614265330";

    for (secret, headers, body, said) in [
        (
            STANDARD_SECRET,
            vec![standard_time, STANDARD_SIGNATURE],
            BODY,
            "standard: the header webhook-id has to be there, once\n",
        ),
        (
            STANDARD_SECRET,
            vec![STANDARD_ID, standard_time, "webhook-signature: v2,AAAA"],
            BODY,
            "standard: the header webhook-signature has to be v1, and the base64 of 32 bytes, several with spaces between\n",
        ),
        (
            STANDARD_SECRET,
            vec![STANDARD_ID, standard_time, &text_as_base64],
            BODY,
            "standard: the signature is of another secret or of other bytes\n",
        ),
    ] {
        assert_eq!(
            verify(secret, &headers, body, &then()),
            (Some(1), said.to_owned(), String::new())
        );
    }
}

#[test]
fn a_secret_that_was_taken_for_text_or_for_base64_is_noticed() {
    let letters = "a key of thirty-two letters, yes";
    let encoded = format!("whsec_{}", STANDARD.encode(letters));
    let as_base64 = [
        header("x-webhook-timestamp", &AT.to_string()),
        header(
            "x-webhook-signature",
            &timestamped(letters, AT, BODY.as_bytes()),
        ),
    ];
    // Its key is the letters of the other.
    let of_letters = format!("whsec_{}", STANDARD.encode(&encoded));
    let as_text = [
        STANDARD_ID.to_owned(),
        header("webhook-timestamp", &AT.to_string()),
        header(
            "webhook-signature",
            &standard(
                &of_letters,
                "msg_p5jXN8AQM9LWM0D4loKWxJek",
                AT,
                BODY.as_bytes(),
            ),
        ),
    ];

    for (headers, said) in [
        (
            &as_base64[..],
            "timestamped: the signature is of another secret or of other bytes; \
             the sender took what the base64 after whsec_ means as the key, where it is the secret's letters\n",
        ),
        (
            &as_text[..],
            "standard: the signature is of another secret or of other bytes; \
             the sender took the secret's letters as the key, where it is what the base64 after whsec_ means\n",
        ),
    ] {
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        assert_eq!(
            verify(&encoded, &headers, BODY, &then()),
            (Some(1), said.to_owned(), String::new())
        );
    }
}

#[test]
fn one_that_is_old_is_said_to_be_right_and_too_late() {
    let headers = [
        STANDARD_ID,
        "webhook-timestamp: 1614265330",
        STANDARD_SIGNATURE,
    ];

    let (code, said, _) = verify(STANDARD_SECRET, &headers, BODY, &["--at", "1614265931"]);

    assert_eq!(code, Some(1));
    assert_eq!(
        said,
        "standard: the signature is right, but its time is 601 s from when it came, where 300 s are tolerated\n"
    );
}

#[test]
fn what_cannot_be_examined_is_said_and_no_secret_repeated() {
    for (headers, more, complaint) in [
        (
            vec!["content-type: text/plain"],
            vec![],
            "none of these headers is a proof: there has to be cf-webhook-auth, \
             x-signature, x-cloudflare-signature, x-webhook-signature or webhook-signature\n",
        ),
        (
            vec!["hunter2"],
            vec![],
            "error: a --header is no \"Name: value\"\n",
        ),
        (
            vec!["hunter 2: x"],
            vec![],
            "error: the name of a --header has letters that no header's name has: invalid HTTP header name\n",
        ),
        (
            vec!["x-signature: hunter2\u{1}"],
            vec![],
            "error: the value of the header x-signature has letters that none can have: failed to parse header value\n",
        ),
        (
            vec!["x-signature: x"],
            vec!["--at", "99999999999999"],
            "error: --at is no time",
        ),
    ] {
        let (code, said, complained) = verify(SECRET, &headers, BODY, &more);

        assert_eq!((code, said), (Some(1), String::new()));
        assert!(complained.starts_with(complaint), "{complained}");
        assert!(!complained.contains("hunter2"), "{complained}");
    }
}

#[test]
fn without_a_secret_those_of_the_settings_are_tried() {
    let folder = TempDir::new().expect("a folder");
    fs::write(folder.path().join("body"), BODY).expect("a file");
    let proof = header("x-signature", &hex_hmac("the one before", BODY.as_bytes()));
    let words = ["verify", "body", "--header", &proof];

    let output = run(
        folder.path(),
        &words,
        &[
            ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
            ("CLOUDFLARE_WEBHOOK_SECRET_PREVIOUS", "the one before"),
        ],
    );
    let without = run(folder.path(), &words, &[]);

    assert_eq!(
        stdout(&output),
        "hmac (secret 1): the signature is of another secret or of other bytes\nhmac (secret 2): holds\n"
    );
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        stderr(&without),
        "error: there is no secret: give --secret or --secret-file, or set CLOUDFLARE_WEBHOOK_SECRET\n"
    );
}
