//! A scalar of any type, as in files and environment variables.

use serde::Deserialize;

/// A boolean, a number, or a string that may represent one of them.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Scalar {
    Bool(bool),
    Number(u64),
    Text(String),
}
