//! Published test vectors, and properties of all secrets and bodies.

use axum::http::HeaderValue;
use proptest::prelude::*;

use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::HeaderName;
use secrecy::SecretString;

use super::*;
use crate::domain::timestamp::Timestamp;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(seconds).expect("a time")
}

fn verifier(schemes: &[Scheme], secrets: &[&str]) -> Verifier {
    let secrets = secrets.iter().map(|secret| SecretString::from(*secret));
    Verifier::new(schemes, secrets, Duration::from_mins(5)).expect("the secrets are well-formed")
}

fn headers(pairs: &[(HeaderName, String)]) -> HeaderMap {
    let header =
        |(name, value): &(HeaderName, String)| (name.clone(), value.parse().expect("a header"));
    pairs.iter().map(header).collect()
}

fn standard_headers(id: &str, seconds: i64, signature: &str) -> HeaderMap {
    headers(&[
        (HeaderName::from_static("webhook-id"), id.to_owned()),
        (
            HeaderName::from_static("webhook-timestamp"),
            seconds.to_string(),
        ),
        (
            HeaderName::from_static("webhook-signature"),
            signature.to_owned(),
        ),
    ])
}

#[test]
fn accepts_standard_webhooks_vectors() {
    for (secret, id, seconds, body, signature) in [
        (
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        ),
        (
            "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
            1_649_367_553,
            r#"{"email":"test@example.com","username":"test_user"}"#,
            "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
        ),
    ] {
        let verifier = verifier(&[Scheme::Standard], &[secret]);
        let message = Message {
            id,
            sent_at: at(seconds),
            body: body.as_bytes(),
        };

        let accepts = |id, signed_at| {
            let headers = standard_headers(id, signed_at, signature);
            verifier.accepts(&headers, body.as_bytes(), at(seconds))
        };
        assert!(accepts(id, seconds));
        assert!(!accepts("another", seconds));
        assert!(!accepts(id, seconds + 1));
        let made = Scheme::Standard
            .sign(&SecretString::from(secret), &message)
            .expect("a good secret");
        assert_eq!(headers(&made), standard_headers(id, seconds, signature));
    }
}

#[test]
fn returns_first_scheme_that_verifies() {
    let (hmac, secret) = (
        HeaderName::from_static("x-signature"),
        HeaderName::from_static("cf-webhook-auth"),
    );
    let valid_hmac = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
    let verify = |schemes: &[Scheme], hmac_value: &str, secret_value: &str| {
        let headers = headers(&[
            (hmac.clone(), hmac_value.to_owned()),
            (secret.clone(), secret_value.to_owned()),
        ]);
        verifier(schemes, &["Jefe"]).verify(&headers, b"what do ya want for nothing?", at(0))
    };
    let (plain, body) = (Scheme::CfWebhookAuth, Scheme::Hmac);

    for (schemes, hmac_value, secret_value, expected) in [
        (
            &[plain, body],
            valid_hmac,
            "wrong",
            Verification::Verified(body),
        ),
        (&[plain, body], "00", "Jefe", Verification::Verified(plain)),
        (
            &[plain, body],
            valid_hmac,
            "Jefe",
            Verification::Verified(plain),
        ),
        (
            &[body, plain],
            valid_hmac,
            "Jefe",
            Verification::Verified(body),
        ),
        (&[body, plain], "00", "wrong", Verification::Failed),
    ] {
        assert_eq!(verify(schemes, hmac_value, secret_value), expected);
    }
    let disabled = verifier(&[plain, body], &[]);
    assert_eq!(
        disabled.verify(&HeaderMap::new(), b"", at(0)),
        Verification::Disabled
    );
}

#[test]
fn accepts_rfc_4231_hmac_vector() {
    // RFC 4231, test case 2.
    let headers = headers(&[(
        HeaderName::from_static("x-signature"),
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843".to_owned(),
    )]);
    let verifier = verifier(&[Scheme::Hmac], &["Jefe"]);

    assert!(verifier.accepts(&headers, b"what do ya want for nothing?", at(0)));
    assert!(!verifier.accepts(&headers, b"what do ya want for something?", at(0)));
}

#[test]
fn standard_secret_may_have_any_length() {
    use base64::Engine;
    for (length, is_allowed) in [(0, false), (1, true), (24, true), (64, true), (65, true)] {
        let secret = format!(
            "whsec_{}",
            base64::engine::general_purpose::STANDARD.encode(vec![7; length])
        );

        let verifier = Verifier::new(
            &[Scheme::Standard],
            [SecretString::from(secret)].into_iter(),
            Duration::ZERO,
        );

        assert_eq!(verifier.is_ok(), is_allowed, "{length} bytes");
    }
}

#[test]
fn secret_error_names_broken_rule() {
    for (encoded, rule) in [
        ("", "without base64"),
        ("====", "incomplete"),
        ("AAAAA", "incomplete"),
        ("AA=A", "incomplete"),
        ("AAA-_A==", "base64 of URLs"),
        ("AAA!", "a character"),
        ("AA AA", "a character"),
    ] {
        let secret = SecretString::from(format!("whsec_{encoded}"));
        let secrets = [secret].into_iter();

        let error = Verifier::new(&[Scheme::Standard], secrets, Duration::ZERO);

        let error = error.expect_err("the secret is invalid").to_string();
        assert!(error.contains(rule), "{encoded}: {error}");
    }
}

#[test]
fn accepts_base64_like_reference_libraries() {
    let key = b"a key of 25 bytes, padded";
    let message = Message {
        id: "msg_1",
        sent_at: at(1_704_110_400),
        body: b"body",
    };
    let encoded = "YSBrZXkgb2YgMjUgYnl0ZXMsIHBhZGRlZA==";
    let signed = Scheme::Standard.sign(&SecretString::from(format!("whsec_{encoded}")), &message);
    let signed = headers(&signed.expect("a good secret"));
    assert_eq!(key.len(), 25);

    for secret in [
        "whsec_YSBrZXkgb2YgMjUgYnl0ZXMsIHBhZGRlZA==",
        "whsec_YSBrZXkgb2YgMjUgYnl0ZXMsIHBhZGRlZA",
        "whsec_YSBrZXkgb2YgMjUgYnl0ZXMsIHBhZGRlZB",
        "YSBrZXkgb2YgMjUgYnl0ZXMsIHBhZGRlZA==",
        "YSBrZXkgb2YgMjUgYnl0ZXMsIHBhZGRlZA",
        "a key of 25 bytes, padded",
    ] {
        let verifier = verifier(&[Scheme::Standard], &[secret]);
        assert!(
            verifier.accepts(&signed, b"body", at(1_704_110_400)),
            "{secret}"
        );
        assert!(!verifier.accepts(&signed, b"other", at(1_704_110_400)));
    }
    // The text of such a secret is a key too.
    let text = SecretString::from(format!("whsec_{}", "WVNCclpYa2c="));
    let signed = Scheme::Standard
        .sign(&text, &message)
        .expect("a good secret");
    let verifier = verifier(&[Scheme::Standard], &["YSBrZXkg"]);
    assert!(verifier.accepts(&headers(&signed), b"body", at(1_704_110_400)));
}

#[test]
fn debug_hides_secrets() {
    let shown = format!("{:?}", verifier(&Scheme::ALL, &["hunter2"]));

    assert!(!shown.contains("hunter2"), "{shown}");
}

fn any_scheme() -> impl Strategy<Value = Scheme> {
    prop::sample::select(Scheme::ALL.to_vec())
}

fn any_secret() -> impl Strategy<Value = String> {
    // Any value that a header can carry. Blank secrets are ignored and never become keys.
    "[!-~]{1,80}".prop_filter("looks like a secret of Standard Webhooks", |secret| {
        !secret.starts_with("whsec_")
    })
}

proptest! {
    #[test]
    fn accepts_own_credentials(
        scheme in any_scheme(), secret in any_secret(), other in any_secret(), body in prop::collection::vec(any::<u8>(), 0..300), shift in -300..=300_i64
    ) {
        let now = at(1_704_110_400);
        let message = Message { id: "msg_1", sent_at: at(1_704_110_400 + shift), body: &body };

        let proof = scheme.sign(&SecretString::from(secret.as_str()), &message).expect("a good secret");

        prop_assert!(verifier(&[scheme], &[&secret]).accepts(&headers(&proof), &body, now));
        prop_assert!(verifier(&Scheme::ALL, &[&other, &secret]).accepts(&headers(&proof), &body, now));
    }

    #[test]
    fn rejects_credentials_of_other_secret(
        scheme in any_scheme(), secret in any_secret(), other in any_secret(), body in prop::collection::vec(any::<u8>(), 0..300)
    ) {
        prop_assume!(secret != other);
        let message = Message { id: "msg_1", sent_at: at(1_704_110_400), body: &body };

        let proof = scheme.sign(&SecretString::from(other), &message).expect("a good secret");

        prop_assert!(!verifier(&Scheme::ALL, &[&secret]).accepts(&headers(&proof), &body, at(1_704_110_400)));
    }

    #[test]
    fn rejects_signature_of_other_body(
        scheme in prop::sample::select(vec![Scheme::Hmac, Scheme::Timestamped, Scheme::Standard]), secret in any_secret(),
        body in prop::collection::vec(any::<u8>(), 1..300), place in any::<prop::sample::Index>(), flip in 1..=255_u8
    ) {
        let message = Message { id: "msg_1", sent_at: at(1_704_110_400), body: &body };
        let proof = scheme.sign(&SecretString::from(secret.as_str()), &message).expect("a good secret");
        let mut changed = body.clone();
        changed[place.index(body.len())] ^= flip;

        prop_assert!(!verifier(&Scheme::ALL, &[&secret]).accepts(&headers(&proof), &changed, at(1_704_110_400)));
    }

    #[test]
    fn rejects_random_headers_without_panic(
        values in prop::collection::vec((0..6_usize, prop::collection::vec(any::<u8>(), 0..80)), 0..8), body in prop::collection::vec(any::<u8>(), 0..100)
    ) {
        let names = ["cf-webhook-auth", "x-signature", "x-webhook-signature", "x-webhook-timestamp", "webhook-timestamp", "webhook-signature"];
        let mut headers = HeaderMap::new();
        headers.insert("webhook-id", HeaderValue::from_static("msg_1"));
        for (name, value) in values {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                headers.append(names[name], value);
            }
        }

        prop_assert!(!verifier(&Scheme::ALL, &["a secret that no random header holds"]).accepts(&headers, &body, at(1_704_110_400)));
    }
}
