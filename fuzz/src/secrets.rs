//! Invariants of any secret, and of any key in base64.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use cloudflare_images_webhook::config::{Environment, load};
use cloudflare_images_webhook::domain::timestamp::Timestamp;
use cloudflare_images_webhook::signing::{Message, Scheme, Verifier};
use secrecy::SecretString;

use super::signing::standard;

const NOW: i64 = 1_704_110_400;

const BODY: &[u8] = br#"{"text":"test message"}"#;

/// The part of a secret that no message may repeat.
const MARK: &str = "TOP!SECRET";

/// Checks the input as a secret and as a key.
///
/// - Loading succeeds or returns a message, which does not have the secret.
/// - White space around a secret changes nothing.
/// - A key is accepted with and without the prefix, with and without padding.
///
/// Returns whether the input is a valid secret after the prefix.
pub fn check(input: &[u8]) -> bool {
    let text = String::from_utf8_lossy(input);
    for secret in [format!("{text}{MARK}"), format!("whsec_{text}{MARK}")] {
        let plain = problem(&secret);
        assert_eq!(
            plain,
            problem(&format!("\u{feff}{secret}\r\n")),
            "{secret:?}"
        );
        assert!(!plain.unwrap_or_default().contains(MARK), "{secret:?}");
    }
    if !input.is_empty() {
        check_key(input);
    }
    problem(&format!("whsec_{text}")).is_none()
}

/// Returns the error of a configuration with this secret, or the warnings.
fn problem(secret: &str) -> Option<String> {
    let environment: Environment = [
        ("CLOUDFLARE_WEBHOOK_SECRET", secret),
        (
            "APP__WEBHOOK__SCHEMES",
            "cf-webhook-auth,hmac,timestamped,standard",
        ),
    ]
    .into_iter()
    .collect();
    match load(&environment, None) {
        Ok(loaded) => {
            let settings = loaded.effective_settings().iter();
            let shown: String = settings.map(|setting| setting.value.as_str()).collect();
            assert!(!shown.contains(MARK), "{shown}");
            None
        }
        Err(error) => Some(error.to_string()),
    }
}

fn check_key(key: &[u8]) {
    let (padded, unpadded) = (STANDARD.encode(key), STANDARD_NO_PAD.encode(key));
    let signature = standard(&format!("whsec_{padded}"), "msg_1", NOW, BODY);
    let now = Timestamp::from_unix_seconds(NOW).expect("a time");
    for secret in [
        format!("whsec_{padded}"),
        format!("whsec_{unpadded}"),
        padded,
        unpadded,
    ] {
        let secret = SecretString::from(secret);
        let secrets = [secret.clone()].into_iter();
        let verifier = Verifier::new(&[Scheme::Standard], secrets, std::time::Duration::ZERO);
        let verifier = verifier.expect("the secret is valid");
        let mut headers = axum::http::HeaderMap::new();
        headers.insert("webhook-id", "msg_1".parse().expect("a header"));
        headers.insert("webhook-timestamp", NOW.into());
        headers.insert("webhook-signature", signature.parse().expect("a header"));
        assert!(verifier.accepts(&headers, BODY, now));
        assert!(!verifier.accepts(&headers, b"other", now));

        let message = Message {
            id: "msg_1",
            sent_at: now,
            body: BODY,
        };
        let own = Scheme::Standard.sign(&secret, &message);
        let own = own.expect("the secret is valid").into_iter();
        let own = own
            .map(|(name, value)| (name, value.parse().expect("a header")))
            .collect();
        assert!(verifier.accepts(&own, BODY, now));
    }
}
