//! Reading a response under a limit.

use reqwest::Response;

/// Reads the body of a response. Stops and returns `None` if the body exceeds the limit.
pub(crate) async fn read_capped(
    mut response: Response,
    max_bytes: usize,
) -> reqwest::Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > max_bytes {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}
