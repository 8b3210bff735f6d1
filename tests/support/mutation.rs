//! Almost valid inputs: samples with random changes. Every run uses the same ones.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Pieces that parsers often get wrong.
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

/// A pseudo-random number generator (`SplitMix64`, Steele, Lea and Flood 2014). A seed determines
/// its numbers.
pub(crate) struct Prng(pub(crate) u64);

impl Prng {
    /// Returns a generator with a random seed.
    pub(crate) fn from_entropy() -> Self {
        Self(cloudflare_images_webhook::random::uuid_v4().as_u64_pair().0)
    }

    /// Returns the next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number less than `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end.max(1)).expect("small");
        usize::try_from(self.next() % end).expect("small")
    }

    /// Returns one of the choices.
    pub(crate) fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())].clone()
    }

    /// Returns a sample in which some parts are removed, repeated, flipped or replaced.
    pub(crate) fn mutated(&mut self, samples: &[Vec<u8>]) -> Vec<u8> {
        let mut body = self.pick(samples);
        for _ in 0..=self.below(4) {
            let (from, to) = (self.below(body.len()), self.below(body.len()));
            let (from, to) = (from.min(to), from.max(to));
            match self.below(6) {
                0 => body.truncate(to),
                1 => drop(body.drain(from..to)),
                2 => {
                    let piece = self.pick(&PIECES);
                    body.splice(from..to.min(from + 8), piece.iter().copied());
                }
                3 => {
                    let other = self.pick(samples);
                    body.splice(from..to, other);
                }
                4 => {
                    if let Some(byte) = body.get_mut(from) {
                        *byte ^= 1 << self.below(8);
                    }
                }
                _ => {
                    let repeated = body[from..to].to_vec();
                    for _ in 0..self.below(20) {
                        body.splice(from..from, repeated.iter().copied());
                    }
                }
            }
        }
        body
    }
}

/// Returns the fuzzer's samples for this target, by name.
pub(crate) fn samples(target: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/samples")
        .join(target);
    let samples: BTreeMap<String, Vec<u8>> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| {
            let entry = entry.expect("an entry");
            let name = entry.file_name().into_string().expect("a name");
            (name, fs::read(entry.path()).expect("a file"))
        })
        .collect();
    assert!(samples.len() > 10, "the samples were found");
    samples
}
