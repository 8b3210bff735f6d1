//! Floods of HTTP/2 headers (RFC 9113). The headers refer to one entry of the header table (RFC 7541), so few bytes on the wire
//! become many headers in memory.

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::app::PATH;
use super::wait;

/// Waits until the service answers the PING frame at the end of a flood, or closes the connection.
pub(crate) async fn wait_until_read(stream: &mut TcpStream) {
    let mut answer = Vec::new();
    while !answer.windows(8).any(|bytes| bytes == b"flooded!") {
        let mut bytes = [0; 1024];
        let read = tokio::time::timeout(wait::WAIT_TIMEOUT, stream.read(&mut bytes)).await;
        match read.expect("the service reads the flood") {
            Ok(0) | Err(_) => return,
            Ok(length) => answer.extend_from_slice(&bytes[..length]),
        }
    }
}

/// The types of HTTP/2 frames, and a flag.
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

fn preface() -> Vec<u8> {
    let mut preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    preface.extend(frame(SETTINGS, 0, 0, &[]));
    preface
}

/// Returns an HTTP/2 preface and a head of almost 16 KiB whose end is missing.
pub(crate) fn partial_head() -> Vec<u8> {
    let mut head = preface();
    let mut fields = vec![0x83, 0x86];
    for number in 0..70 {
        // A literal field with incremental indexing, so the header table is full too.
        fields.extend([0x40, 1, b'a' + number % 26, 100]);
        fields.extend([b'v'; 100]);
    }
    head.extend(frame(HEADERS, 0, 1, &fields));
    // A frame without its last byte.
    let mut last = frame(CONTINUATION, 0, 1, &[0; 16_000]);
    last.pop();
    head.extend(last);
    head
}

/// Returns an HTTP/2 preface, 16 requests with this number of headers and without the end of their bodies, and a PING frame.
pub(crate) fn flood(headers: usize) -> Vec<u8> {
    let path = PATH.as_bytes();
    let mut flood = preface();
    for request in 0..16 {
        // Indexed fields of the static table: POST and http. Then a literal path and authority.
        let mut block = vec![0x83, 0x86, 0x04, u8::try_from(path.len()).expect("short")];
        block.extend(path);
        block.extend([0x01, 1, b'h']);
        // A literal field with incremental indexing. It becomes entry 62 (0x3e), the first dynamic one.
        block.extend([0x40, 1, b'a', 1, b'b']);
        block.extend(vec![0x80 | 0x3e; headers]);
        flood.extend(frame(HEADERS, END_HEADERS, 2 * request + 1, &block));
    }
    flood.extend(frame(PING, 0, 0, b"flooded!"));
    flood
}
