//! Bodies in chunks, as HTTP/2 and chunked HTTP/1.1 send them. `tests/spec` tests limits and
//! timeouts.

use axum::http::StatusCode;
use axum::response::IntoResponse;
use futures_util::stream;
use http_body_util::Full;

use super::*;
use crate::receiver::memory_budget::MemoryBudget;
use crate::telemetry::metrics::WebhookMetrics;

type Chunk = Result<Bytes, std::io::Error>;

fn stream(chunks: Vec<Chunk>) -> Body {
    Body::from_stream(stream::iter(chunks))
}

/// Returns a body in chunks of these lengths.
fn body(lengths: &[usize]) -> Body {
    let chunk = |length: &usize| Ok(vec![b'x'; *length].into());
    stream(lengths.iter().map(chunk).collect())
}

/// The memory budget of a test.
const BUDGET: usize = 1000;

async fn read(body: Body) -> Result<Bytes, StatusCode> {
    let reader = BodyReader::new(2 * BUDGET, Duration::from_secs(10));
    let budget = MemoryBudget::new(BUDGET, WebhookMetrics::default());
    let mut memory = budget.reserve(None, 0).expect("nothing is reserved");
    let read = reader.read(Framing::default(), body, &mut memory).await;
    read.map_err(|problem| problem.into_response().status())
}

#[tokio::test]
async fn joins_chunks() {
    let read = read(body(&[1, 2, 0, 3])).await;
    let read = read.expect("a body");

    assert_eq!(&read[..], b"xxxxxx");
}

#[tokio::test]
async fn ignores_trailers() {
    let full = Full::new(Bytes::from_static(b"xxx"));
    let trailers = async { Some(Ok(HeaderMap::new())) };

    let read = read(Body::new(full.with_trailers(trailers))).await;

    assert_eq!(&read.expect("a body")[..], b"xxx");
}

#[tokio::test]
async fn rejects_truncated_body() {
    let chunks = vec![
        Ok(Bytes::from_static(b"x")),
        Err(std::io::ErrorKind::ConnectionReset.into()),
    ];

    let read = read(stream(chunks)).await;

    assert_eq!(read.map(drop), Err(StatusCode::BAD_REQUEST));
}

#[tokio::test]
async fn chunks_count_towards_memory_budget() {
    assert_eq!(read(body(&[BUDGET])).await.map(drop), Ok(()));
    assert_eq!(read(body(&[BUDGET / 4; 2])).await.map(drop), Ok(()));
    for lengths in [&[BUDGET + 1][..], &[BUDGET, 1]] {
        let read = read(body(lengths)).await;
        assert_eq!(read.map(drop), Err(StatusCode::SERVICE_UNAVAILABLE));
    }
}
