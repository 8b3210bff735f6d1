//! Whatever a client sends, it is answered, and never with a 5xx: what is wrong with it is the client's. The inputs are the documented
//! samples, mutilated at random; the same ones in each run.

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::json;

use crate::on_both_databases;
use crate::support::app::{App, answer};
use crate::support::signing::{SECRET, hex_hmac};

/// How many are sent to each database.
const INPUTS: usize = 1500;

/// Pieces that parsers stumble over.
const PIECES: [&[u8]; 22] = [
    b"null",
    b"{}",
    b"[]",
    b"\"\"",
    b"-0",
    b"1e999",
    b"-1",
    b"9223372036854775808",
    b"18446744073709551616",
    b"1e-400",
    b"true",
    b"\"\\u0000\"",
    b"\"\\ud800\"",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\"2024-02-30T25:61:61Z\"",
    b"\"9999-12-31T23:59:59.999999999Z\"",
    b"\"0000-01-01T00:00:00+23:59\"",
    b"{\"id\":",
    b",",
    b"\x00",
    b"\"image\"",
];

/// The samples of Cloudflare's documentation, and of ours.
fn samples() -> Vec<Vec<u8>> {
    [
        json!({"text": "Hello World! This is a test message sent from https://cloudflare.com."}),
        json!({"name": "Images", "text": "An image was uploaded", "data": {"image": {"id": "image", "status": "success"}}, "ts": 1_704_110_400, "alert_type": "image_notification", "policy_id": "0da2b59ef118439d8097bdfb215203c9"}),
        json!({"data": {"image": {"id": "image", "status": "failed", "error": "too big"}}, "ts": 1_704_110_401, "alert_type": "image_notification"}),
        json!({"data": {}, "alert_type": "billing_usage_alert", "ts": 1}),
        json!({"event": "image.uploaded", "image": {"id": "image", "filename": "a.jpg", "uploaded": "2024-01-01T12:00:00Z", "requireSignedURLs": false, "variants": ["https://example.com/public"], "metadata": {"key": "value"}}}),
        json!({"id": "image", "uploaded": "2024-01-01T12:00:00.123Z", "draft": false, "variants": ["https://example.com/a"], "meta": {"a": [1, 2.5, null]}, "creator": "ann", "filename": "b.jpg", "timestamp": "2024-01-01T12:00:01Z"}),
        json!({"id": "image", "draft": true}),
        json!({"id": "nobody", "error": "it failed"}),
    ]
    .iter()
    .map(|sample| sample.to_string().into_bytes())
    .collect()
}

/// The same numbers in each run (`SplitMix64`, Steele, Lea and Flood 2014).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end.max(1)).expect("small");
        usize::try_from(self.next() % end).expect("small")
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    fn mutilated(&mut self, samples: &[Vec<u8>]) -> Vec<u8> {
        let mut body = self.one(samples);
        for _ in 0..=self.below(4) {
            let (from, to) = (self.below(body.len()), self.below(body.len()));
            let (from, to) = (from.min(to), from.max(to));
            match self.below(6) {
                0 => body.truncate(to),
                1 => drop(body.drain(from..to)),
                2 => {
                    let piece = self.one(&PIECES);
                    body.splice(from..to.min(from + 8), piece.iter().copied());
                }
                3 => {
                    let other = self.one(samples);
                    body.splice(from..to, other);
                }
                4 => {
                    if let Some(byte) = body.get_mut(from) {
                        *byte ^= 1 << self.below(8);
                    }
                }
                _ => {
                    let again = body[from..to].to_vec();
                    for _ in 0..self.below(20) {
                        body.splice(from..from, again.iter().copied());
                    }
                }
            }
        }
        body
    }

    fn headers(&mut self, body: &[u8]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for name in [
            "cf-webhook-auth",
            "x-signature",
            "x-cloudflare-signature",
            "x-webhook-signature",
            "x-webhook-timestamp",
            "webhook-id",
            "webhook-timestamp",
            "webhook-signature",
            "content-type",
            "x-request-id",
            "x-forwarded-for",
            "expect",
        ] {
            if self.below(4) > 0 {
                continue;
            }
            let value = match self.below(5) {
                0 => SECRET.as_bytes().to_vec(),
                1 => hex_hmac(SECRET, body).into_bytes(),
                2 => b"sha256=zz".to_vec(),
                3 => b"-9223372036854775808".to_vec(),
                _ => (0..self.below(200))
                    .map(|_| self.next().to_le_bytes()[0] | 0x80)
                    .collect(),
            };
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                headers.append(HeaderName::from_static(name), value);
            }
        }
        headers.remove("expect");
        headers
    }
}

on_both_databases! {
    async fn a_mutilated_webhook_never_makes_the_service_fail(database) {
        let app = App::start_with(database, &[("APP__WEBHOOK__SCHEMES", "cf-webhook-auth,hmac,timestamped,standard")]).await;
        app.database.register("image").await;
        let (samples, mut numbers) = (samples(), Numbers(4711));
        let mut seen = std::collections::BTreeMap::<u16, usize>::new();

        for number in 0..INPUTS {
            let body = numbers.mutilated(&samples);
            let mut headers = numbers.headers(&body);
            if number % 4 > 0 {
                headers.insert("cf-webhook-auth", HeaderValue::from_static(SECRET));
            }
            let answered = answer(app.unsigned(body.clone()).headers(headers)).await;

            let status = answered.status.as_u16();
            assert!(status < 500, "{number} is answered with {status}: {}", String::from_utf8_lossy(&body));
            *seen.entry(status).or_default() += 1;
        }

        assert_eq!(seen.keys().copied().collect::<Vec<_>>(), [200, 400, 401, 404], "all kinds of answers were given: {seen:?}");
        let refused = app.database.count("SELECT count(*) FROM webhook_rejections WHERE status = 400").await;
        assert_eq!(usize::try_from(refused).ok(), seen.get(&400).copied(), "each refusal is kept");
        let logged = app.database.logs().await.len();
        assert_eq!(Some(&logged), seen.get(&200), "each success is in the audit trail");
        assert_eq!(app.deliver(r#"{"text":"hello"}"#).await.outcome(), (200, "test"));
    }
}
