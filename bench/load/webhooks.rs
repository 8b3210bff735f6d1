//! The webhooks that are sent: signed beforehand, so that a sender has nothing to do but to send.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::support::app::PATH;
use crate::support::signing::{SECRET, hex_hmac};

/// Where Cloudflare delivers images, with an account's hash.
const DELIVERY: &str = "https://imagedelivery.net/ZWd9g1K7eljCn_KDTu_MWA";

/// The first second of the webhooks: 2024-01-01T12:00:00Z.
const START: usize = 1_704_110_400;

/// The id of one of the images; in no order, as Cloudflare's are. `event.sql` makes the same.
pub(crate) fn image_id(number: usize) -> String {
    let name = number * 2_654_435_761 % (1 << 32);
    format!("{name:08x}-017a-49c4-9ed7-87056c83901")
}

/// Whether the sender knows the secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signature {
    Right,
    Wrong,
}

/// What is told.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// What Cloudflare sends: the status alone.
    Envelope,
    /// The shape that its documentation had: the status and every detail.
    Flat,
}

impl Shape {
    /// Its name in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Envelope => "envelope",
            Self::Flat => "flat",
        }
    }
}

/// So many webhooks for so many images.
#[derive(Clone, Copy)]
pub(crate) struct Webhooks {
    pub(crate) count: usize,
    /// How many times every image has been told of already.
    pub(crate) rounds_before: usize,
    pub(crate) images: usize,
    pub(crate) shape: Shape,
    pub(crate) signature: Signature,
}

impl Webhooks {
    /// Writes them into a file, in the form that `wrk.lua` reads. They go over the images in the order in which these were
    /// registered, as uploads do, and then again, later each time, so that every one of them has something new to say.
    pub(crate) fn write(self, path: &Path) {
        let mut file = BufWriter::new(File::create(path).expect("a file"));
        for number in 0..self.count {
            let (round, image) = (
                self.rounds_before + number / self.images,
                1 + number % self.images,
            );
            let request = request(&body(self.shape, &image_id(image), round), self.signature);
            write!(file, "{:010}", request.len()).expect("there is room");
            file.write_all(&request).expect("there is room");
        }
        file.flush().expect("there is room");
    }
}

/// What is told of an image that was uploaded, in so manieth a second.
pub(crate) fn body(shape: Shape, id: &str, second: usize) -> Vec<u8> {
    let ts = START + second;
    let (minutes, seconds) = (second / 60 % 60, second % 60);
    let body = match shape {
        Shape::Envelope => format!(
            r#"{{"name":"Images uploads","text":"An image was uploaded","data":{{"image":{{"id":"{id}","status":"success"}}}},"ts":{ts},"account_id":"9a7806061c88ada191ed06f989cc3dac","policy_id":"0da2b59ef118439d8097bdfb215203c9","policy_name":"Images uploads","alert_type":"image_notification","alert_correlation_id":"7c4a5b6c0f2e4f0d8c3b2a1908f7e6d5"}}"#
        ),
        Shape::Flat => format!(
            r#"{{"id":"{id}","filename":"cat.jpg","uploaded":"2024-01-01T12:{minutes:02}:{seconds:02}.000000Z","requireSignedURLs":false,"variants":["{DELIVERY}/{id}/public","{DELIVERY}/{id}/thumbnail"],"metadata":{{"album":"holiday"}}}}"#
        ),
    };
    body.into_bytes()
}

fn request(body: &[u8], signature: Signature) -> Vec<u8> {
    let secret = match signature {
        Signature::Right => SECRET,
        Signature::Wrong => "another secret",
    };
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: localhost\r\nuser-agent: bench\r\ncontent-type: application/json\r\ncontent-length: {}\r\nx-signature: {}\r\n\r\n",
        body.len(),
        hex_hmac(secret, body),
    );
    [head.as_bytes(), body].concat()
}
