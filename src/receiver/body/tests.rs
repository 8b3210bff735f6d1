//! Bodies in chunks, as HTTP/2 and chunked HTTP/1.1 send them. `tests/spec` tests limits and
//! timeouts.

use axum::http::StatusCode;
use axum::response::IntoResponse;
use futures_util::stream;
use http_body_util::Full;

use super::*;

type Chunk = Result<Bytes, std::io::Error>;

fn stream(chunks: Vec<Chunk>) -> Body {
    Body::from_stream(stream::iter(chunks))
}

/// Returns a body in chunks of these lengths.
fn body(lengths: &[usize]) -> Body {
    let chunk = |length: &usize| Ok(vec![b'x'; *length].into());
    stream(lengths.iter().map(chunk).collect())
}

async fn read(reader: &BodyReader, body: Body) -> Result<BufferedBody, StatusCode> {
    let read = reader.read(&HeaderMap::new(), body).await;
    read.map_err(|problem| problem.into_response().status())
}

fn reader() -> BodyReader {
    BodyReader::new(2 * SMALL_BODY_BYTES, Duration::from_secs(10))
}

#[tokio::test]
async fn joins_chunks() {
    let read = read(&reader(), body(&[1, 2, 0, 3])).await;
    let read = read.expect("a body");

    assert_eq!(&read.bytes[..], b"xxxxxx");
    assert!(read.large_body_permit.is_none());
}

#[tokio::test]
async fn ignores_trailers() {
    let full = Full::new(Bytes::from_static(b"xxx"));
    let trailers = async { Some(Ok(HeaderMap::new())) };

    let read = read(&reader(), Body::new(full.with_trailers(trailers))).await;

    assert_eq!(&read.expect("a body").bytes[..], b"xxx");
}

#[tokio::test]
async fn rejects_truncated_body() {
    let chunks = vec![
        Ok(Bytes::from_static(b"x")),
        Err(std::io::ErrorKind::ConnectionReset.into()),
    ];

    let read = read(&reader(), stream(chunks)).await;

    assert_eq!(read.map(drop), Err(StatusCode::BAD_REQUEST));
}

#[tokio::test]
async fn limits_large_bodies_in_memory() {
    let reader = reader();
    let large = || body(&[SMALL_BODY_BYTES, 1]);
    let small = body(&[SMALL_BODY_BYTES]);
    let mut bodies = Vec::new();
    for _ in 0..MAX_LARGE_BODIES {
        bodies.push(read(&reader, large()).await.expect("a permit"));
    }

    let refused = read(&reader, large()).await.map(drop);
    let small = read(&reader, small).await.map(drop);
    bodies.pop();
    let next = read(&reader, large()).await.map(drop);

    assert_eq!(refused, Err(StatusCode::INTERNAL_SERVER_ERROR));
    assert_eq!((small, next), (Ok(()), Ok(())));
}
