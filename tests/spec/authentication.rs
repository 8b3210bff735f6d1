//! The four authentication schemes, secret rotation and unauthenticated requests.

use reqwest::header::HeaderValue;

use crate::on_both_databases;
use crate::support::app::{App, NOW, response_to};
use crate::support::database::Database;
use crate::support::signing::{PREVIOUS_SECRET, SECRET, hex_hmac, standard, timestamped};

const BODY: &str = r#"{"id":"image","uploaded":"2024-01-01T12:00:00Z"}"#;
const ALL_SCHEMES: (&str, &str) = (
    "APP__WEBHOOK__SCHEMES",
    "cf-webhook-auth,hmac,timestamped,standard",
);
const WHSEC: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Starts a service with all schemes and registers the image.
async fn app(database: Database, variables: &[(&str, &str)]) -> App {
    let variables: Vec<_> = [ALL_SCHEMES]
        .into_iter()
        .chain(variables.iter().copied())
        .collect();
    let app = App::start_with(database, &variables).await;
    app.database.register("image").await;
    app
}

/// Posts the body with these headers and returns the status.
async fn post(app: &App, body: &'static str, headers: &[(&str, &str)]) -> u16 {
    let request = headers
        .iter()
        .fold(app.request(body), |request, (name, value)| {
            request.header(*name, *value)
        });
    response_to(request).await.status.as_u16()
}

on_both_databases!(
    accepts_secret_in_cf_webhook_auth,
    accepts_body_hmac_in_all_forms,
    accepts_timestamped_signature_within_tolerance,
    accepts_standard_signature_within_tolerance,
    accepts_one_valid_signature_among_several,
    stores_scheme_that_verified,
    accepts_both_secrets_during_rotation,
    rejects_unauthenticated_requests_before_parsing,
    hides_reason_for_401,
    rejects_disabled_schemes,
    enables_secret_and_hmac_by_default,
    accepts_everything_without_secret_and_warns,
    verifies_signature_of_large_body,
);

async fn accepts_secret_in_cf_webhook_auth(database: Database) {
    let app = app(database, &[]).await;

    assert_eq!(post(&app, BODY, &[("cf-webhook-auth", SECRET)]).await, 200);
    assert_eq!(app.database.image("image").await["status"], "uploaded");
}

async fn accepts_body_hmac_in_all_forms(database: Database) {
    let app = app(database, &[]).await;
    let signature = hex_hmac(SECRET, BODY.as_bytes());

    for header in ["X-Signature", "X-Cloudflare-Signature"] {
        for value in [
            signature.clone(),
            signature.to_uppercase(),
            format!("sha256={signature}"),
        ] {
            assert_eq!(
                post(&app, BODY, &[(header, &value)]).await,
                200,
                "{header}: {value}"
            );
        }
    }
}

async fn accepts_timestamped_signature_within_tolerance(database: Database) {
    let app = app(database, &[]).await;

    for (shift, expected) in [(0, 200), (-300, 200), (300, 200), (-301, 401), (301, 401)] {
        let timestamp = NOW + shift;
        let signature = timestamped(SECRET, timestamp, BODY.as_bytes());

        let status = post(
            &app,
            BODY,
            &[
                ("X-Webhook-Timestamp", &timestamp.to_string()),
                ("X-Webhook-Signature", &signature),
            ],
        )
        .await;

        assert_eq!(status, expected, "{shift} s from now");
    }
}

async fn accepts_standard_signature_within_tolerance(database: Database) {
    let app = app(database, &[("CLOUDFLARE_WEBHOOK_SECRET_PREVIOUS", WHSEC)]).await;

    for (shift, expected) in [(0, 200), (-300, 200), (300, 200), (-301, 401), (301, 401)] {
        let timestamp = NOW + shift;
        let signature = standard(WHSEC, "msg_1", timestamp, BODY.as_bytes());

        let status = post(
            &app,
            BODY,
            &[
                ("webhook-id", "msg_1"),
                ("webhook-timestamp", &timestamp.to_string()),
                ("webhook-signature", &signature),
            ],
        )
        .await;

        assert_eq!(status, expected, "{shift} s from now");
    }
}

async fn accepts_one_valid_signature_among_several(database: Database) {
    let app = app(database, &[("CLOUDFLARE_WEBHOOK_SECRET_PREVIOUS", WHSEC)]).await;
    let good = hex_hmac(SECRET, BODY.as_bytes());
    let bad = hex_hmac("guess", BODY.as_bytes());
    let several = format!(
        "v1,AAAA v2,whatever {}",
        standard(WHSEC, "msg_1", NOW, BODY.as_bytes())
    );
    let now = NOW.to_string();

    for headers in [
        vec![
            ("x-signature", bad.as_str()),
            ("x-signature", good.as_str()),
        ],
        vec![
            ("x-signature", good.as_str()),
            ("x-signature", bad.as_str()),
        ],
        vec![
            ("x-signature", bad.as_str()),
            ("x-cloudflare-signature", good.as_str()),
        ],
        vec![("x-signature", "nonsense"), ("cf-webhook-auth", SECRET)],
        vec![("cf-webhook-auth", "guess"), ("cf-webhook-auth", SECRET)],
        vec![("cf-webhook-auth", "guess"), ("x-signature", good.as_str())],
        vec![
            ("webhook-id", "msg_1"),
            ("webhook-timestamp", now.as_str()),
            ("webhook-signature", several.as_str()),
        ],
    ] {
        assert_eq!(post(&app, BODY, &headers).await, 200, "{headers:?}");
    }
}

async fn stores_scheme_that_verified(database: Database) {
    let app = app(database, &[]).await;
    let body = r#"{"id":"nobody","uploaded":"2024-01-01T12:00:00Z"}"#;
    let (now, wrong) = (NOW.to_string(), hex_hmac("wrong", body.as_bytes()));
    let hmac = hex_hmac(SECRET, body.as_bytes());
    let timestamped = timestamped(SECRET, NOW, body.as_bytes());

    for headers in [
        [("cf-webhook-auth", "wrong"), ("x-signature", hmac.as_str())].as_slice(),
        &[("x-signature", &wrong), ("cf-webhook-auth", SECRET)],
        &[
            ("cf-webhook-auth", "wrong"),
            ("x-signature", &wrong),
            ("x-webhook-timestamp", &now),
            ("x-webhook-signature", &timestamped),
        ],
        &[("x-signature", &hmac), ("cf-webhook-auth", SECRET)],
    ] {
        assert_eq!(post(&app, body, headers).await, 404, "{headers:?}");
    }

    let rejections = app.database.rejections().await;
    let schemes: Vec<_> = rejections
        .iter()
        .map(|row| row["scheme"].as_str())
        .collect();
    let expected = ["hmac", "cf-webhook-auth", "timestamped", "cf-webhook-auth"];
    assert_eq!(schemes, expected.map(Some));
}

async fn accepts_both_secrets_during_rotation(database: Database) {
    let app = app(
        database,
        &[("CLOUDFLARE_WEBHOOK_SECRET_PREVIOUS", PREVIOUS_SECRET)],
    )
    .await;
    let signature = hex_hmac(PREVIOUS_SECRET, BODY.as_bytes());

    assert_eq!(post(&app, BODY, &[("cf-webhook-auth", SECRET)]).await, 200);
    assert_eq!(
        post(&app, BODY, &[("cf-webhook-auth", PREVIOUS_SECRET)]).await,
        200
    );
    assert_eq!(post(&app, BODY, &[("x-signature", &signature)]).await, 200);
    assert_eq!(
        post(&app, BODY, &[("cf-webhook-auth", "the secret after")]).await,
        401
    );
}

async fn rejects_unauthenticated_requests_before_parsing(database: Database) {
    let app = app(database, &[]).await;
    let before = app.database.images_and_logs().await;
    let good = hex_hmac(SECRET, BODY.as_bytes());
    let other_body_signature = hex_hmac(SECRET, b"{}");
    let wrong_secret_signature = hex_hmac("guess", BODY.as_bytes());
    let with_sha1 = format!("sha1={good}");
    let now = NOW.to_string();
    let stamped = timestamped(SECRET, NOW, BODY.as_bytes());
    let stamped_other_body = timestamped(SECRET, NOW, b"{}");

    for headers in [
        vec![],
        vec![("cf-webhook-auth", "")],
        vec![("cf-webhook-auth", "guess")],
        vec![("cf-webhook-auth", &SECRET[..8])],
        vec![("cf-webhook-auth", &good)],
        vec![("x-signature", "")],
        vec![("x-signature", "sha256=")],
        vec![("x-signature", &wrong_secret_signature)],
        vec![("x-signature", &other_body_signature)],
        vec![("x-signature", &good[..63])],
        vec![("x-signature", &good[..32])],
        vec![("x-signature", &with_sha1)],
        vec![("x-signature", "zz")],
        vec![("x-signature", SECRET)],
        vec![
            ("x-signature", &wrong_secret_signature),
            ("x-signature", &other_body_signature),
        ],
        vec![("x-webhook-signature", &stamped)],
        vec![("x-webhook-timestamp", &now)],
        vec![
            ("x-webhook-timestamp", &now),
            ("x-webhook-signature", &stamped_other_body),
        ],
        vec![
            ("x-webhook-timestamp", "soon"),
            ("x-webhook-signature", &stamped),
        ],
        vec![
            ("x-webhook-timestamp", "+1704110400"),
            ("x-webhook-signature", &stamped),
        ],
        vec![
            ("x-webhook-timestamp", "99999999999999999999"),
            ("x-webhook-signature", &stamped),
        ],
        vec![
            ("x-webhook-timestamp", &now),
            ("x-webhook-timestamp", "1"),
            ("x-webhook-signature", &stamped),
        ],
        vec![
            ("webhook-id", "msg_1"),
            ("webhook-timestamp", &now),
            ("webhook-signature", "v1,AAAA"),
        ],
        vec![
            ("webhook-id", "msg_1"),
            ("webhook-timestamp", &now),
            ("webhook-signature", "v1,not base64!"),
        ],
        vec![
            ("webhook-timestamp", &now),
            ("webhook-signature", "v1,AAAA"),
        ],
    ] {
        for body in [BODY, "not even JSON", ""] {
            assert_eq!(post(&app, body, &headers).await, 401, "{headers:?}");
        }
    }
    for bytes in [&b"\xff\xfe"[..], "sécret".as_bytes()] {
        for name in [
            "cf-webhook-auth",
            "x-signature",
            "webhook-signature",
            "x-webhook-timestamp",
        ] {
            let value =
                HeaderValue::from_bytes(bytes).expect("a header may hold bytes outside ASCII");

            assert_eq!(
                response_to(app.request(BODY).header(name, value))
                    .await
                    .status,
                401,
                "{name}"
            );
        }
    }
    assert_eq!(app.database.images_and_logs().await, before);
}

async fn hides_reason_for_401(database: Database) {
    let app = app(database, &[]).await;

    let nothing = response_to(app.request(BODY)).await;
    let wrong = response_to(app.request(BODY).header("x-signature", "zz")).await;
    let expired = response_to(app.request(BODY).header("x-webhook-timestamp", "1").header(
        "x-webhook-signature",
        timestamped(SECRET, 1, BODY.as_bytes()),
    ))
    .await;

    assert_eq!(nothing.outcome(), (401, "unauthorized"));
    assert_eq!((&wrong.body, &expired.body), (&nothing.body, &nothing.body));
}

async fn rejects_disabled_schemes(database: Database) {
    let app = app(database, &[("APP__WEBHOOK__SCHEMES", "timestamped")]).await;
    let stamped = timestamped(SECRET, NOW, BODY.as_bytes());

    assert_eq!(post(&app, BODY, &[("cf-webhook-auth", SECRET)]).await, 401);
    assert_eq!(
        post(
            &app,
            BODY,
            &[("x-signature", &hex_hmac(SECRET, BODY.as_bytes()))]
        )
        .await,
        401
    );
    assert_eq!(
        post(
            &app,
            BODY,
            &[
                ("x-webhook-timestamp", &NOW.to_string()),
                ("x-webhook-signature", &stamped)
            ]
        )
        .await,
        200
    );
}

async fn enables_secret_and_hmac_by_default(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;
    let stamped = timestamped(SECRET, NOW, BODY.as_bytes());

    assert_eq!(post(&app, BODY, &[("cf-webhook-auth", SECRET)]).await, 200);
    assert_eq!(
        post(
            &app,
            BODY,
            &[("x-signature", &hex_hmac(SECRET, BODY.as_bytes()))]
        )
        .await,
        200
    );
    assert_eq!(
        post(
            &app,
            BODY,
            &[
                ("x-webhook-timestamp", &NOW.to_string()),
                ("x-webhook-signature", &stamped)
            ]
        )
        .await,
        401
    );
}

async fn accepts_everything_without_secret_and_warns(database: Database) {
    let app = App::start_with(database, &[("CLOUDFLARE_WEBHOOK_SECRET", "")]).await;
    app.database.register("image").await;

    assert_eq!(post(&app, BODY, &[]).await, 200);
    let readiness = app.get_ops("/readyz").await;
    assert_eq!(readiness.status, 200);
    assert_eq!(
        readiness.body["warnings"][0],
        "authentication is disabled because no webhook secret is configured"
    );
}

async fn verifies_signature_of_large_body(database: Database) {
    let app = app(database, &[]).await;
    let body = format!(
        r#"{{"id":"image","uploaded":"2024-01-01T12:00:00Z","metadata":{{"long":"{}"}}}}"#,
        "x".repeat(500_000)
    );
    let (good, bad) = (
        hex_hmac(SECRET, body.as_bytes()),
        hex_hmac("guess", body.as_bytes()),
    );

    assert_eq!(
        response_to(app.request(body.clone()).header("x-signature", bad))
            .await
            .status,
        401
    );
    assert_eq!(
        response_to(app.request(body).header("x-signature", good))
            .await
            .status,
        200
    );
}
