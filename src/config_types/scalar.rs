//! A scalar of any type, as files and environment variables have it.

use serde::Deserialize;

/// A number, a switch, or a text that stands for one of them.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Scalar {
    Bool(bool),
    Number(u64),
    Text(String),
}
