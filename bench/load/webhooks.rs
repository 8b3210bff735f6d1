//! Writes signed webhooks into files. The sender then has no work except sending.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::support::app::PATH;
use crate::support::signing::{SECRET, hex_hmac};

/// The URL under which Cloudflare delivers the images of an account.
const DELIVERY_URL: &str = "https://imagedelivery.net/ZWd9g1K7eljCn_KDTu_MWA";

/// The time of the first webhook, in seconds since 1970: 2024-01-01T12:00:00Z.
const START_SECONDS: usize = 1_704_110_400;

/// Returns the id of an image. Like Cloudflare's ids, the ids are not in order. `event.sql` computes the same ids.
pub(crate) fn image_id(number: usize) -> String {
    let name = number * 2_654_435_761 % (1 << 32);
    format!("{name:08x}-017a-49c4-9ed7-87056c83901")
}

/// The signature of the webhooks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signature {
    Valid,
    Wrong,
}

/// The shape of the payload.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The shape that Cloudflare sends: only the status.
    Envelope,
    /// The shape in Cloudflare's earlier documentation: the status and every detail.
    Flat,
}

impl Shape {
    /// Returns the name in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Envelope => "envelope",
            Self::Flat => "flat",
        }
    }
}

/// The webhooks of one file.
#[derive(Clone, Copy)]
pub(crate) struct Webhooks {
    pub(crate) count: usize,
    /// The number of webhooks that each image has already received. Newer webhooks have later times.
    pub(crate) rounds_before: usize,
    pub(crate) images: usize,
    pub(crate) shape: Shape,
    pub(crate) signature: Signature,
}

impl Webhooks {
    /// Writes the webhooks into a file that `wrk.lua` reads.
    ///
    /// They go over the images in the order of registration, as uploads do. Each further round has a later time, so every webhook
    /// changes its row.
    pub(crate) fn write(self, path: &Path) {
        let mut file = BufWriter::new(File::create(path).expect("the file can be created"));
        for number in 0..self.count {
            let (round, image) = (
                self.rounds_before + number / self.images,
                1 + number % self.images,
            );
            let request =
                signed_request(&body(self.shape, &image_id(image), round), self.signature);
            write!(file, "{:010}", request.len()).expect("the file can be written");
            file.write_all(&request).expect("the file can be written");
        }
        file.flush().expect("the file can be written");
    }
}

/// Returns the body of a webhook about an uploaded image. Its time is `second` seconds after the first webhook.
pub(crate) fn body(shape: Shape, id: &str, second: usize) -> Vec<u8> {
    let ts = START_SECONDS + second;
    let (minutes, seconds) = (second / 60 % 60, second % 60);
    let body = match shape {
        Shape::Envelope => format!(
            r#"{{"name":"Images uploads","text":"An image was uploaded","data":{{"image":{{"id":"{id}","status":"success"}}}},"ts":{ts},"account_id":"9a7806061c88ada191ed06f989cc3dac","policy_id":"0da2b59ef118439d8097bdfb215203c9","policy_name":"Images uploads","alert_type":"image_notification","alert_correlation_id":"7c4a5b6c0f2e4f0d8c3b2a1908f7e6d5"}}"#
        ),
        Shape::Flat => format!(
            r#"{{"id":"{id}","filename":"cat.jpg","uploaded":"2024-01-01T12:{minutes:02}:{seconds:02}.000000Z","requireSignedURLs":false,"variants":["{DELIVERY_URL}/{id}/public","{DELIVERY_URL}/{id}/thumbnail"],"metadata":{{"album":"holiday"}}}}"#
        ),
    };
    body.into_bytes()
}

fn signed_request(body: &[u8], signature: Signature) -> Vec<u8> {
    let secret = match signature {
        Signature::Valid => SECRET,
        Signature::Wrong => "another secret",
    };
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: localhost\r\nuser-agent: bench\r\ncontent-type: application/json\r\ncontent-length: {}\r\nx-signature: {}\r\n\r\n",
        body.len(),
        hex_hmac(secret, body),
    );
    [head.as_bytes(), body].concat()
}
