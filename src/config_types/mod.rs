//! Types for the values of settings. A value is checked when it is read.
//!
//! Numbers and booleans may be strings, because environment variables are strings. An error names the allowed values. It never
//! repeats the actual value, which may be a secret under the wrong key.

mod duration;
mod file;
mod networks;
mod pasted;
mod path;
mod scalar;
mod secret;
mod string_list;
mod word;

use std::net::SocketAddr;

use serde::Deserialize;
use serde::de::{Deserializer, Error};

pub(crate) use duration::{Days, Seconds};
pub(crate) use file::read_file;
pub(crate) use networks::Networks;
pub(crate) use pasted::{trim_pasted, trim_quotes};
use scalar::Scalar;

pub use path::UrlPath;
pub use secret::is_secret;
pub(crate) use secret::{Secret, SecretList, redacted, secret_of_file};
pub(crate) use string_list::StringList;
pub(crate) use word::parse_word;

/// The error for a setting whose value has the right type but is not allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidSetting {
    /// The setting's key.
    pub key: &'static str,
    /// The rule that the value breaks, for example "must be log or callback".
    pub rule: String,
}

/// A whole number from `MIN` to `MAX`, inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounded<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Bounded<MIN, MAX> {
    /// Creates a number at compile time. Panics if it is out of bounds.
    #[must_use]
    pub const fn new_const(number: u64) -> Self {
        assert!(MIN <= number && number <= MAX, "out of bounds");
        Self(number)
    }

    /// Returns the number as a size or a count.
    #[must_use]
    pub fn count(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Bounded<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = match Scalar::deserialize(deserializer) {
            Ok(Scalar::Number(number)) => Some(number),
            Ok(Scalar::Text(text)) => text.parse().ok(),
            Ok(Scalar::Bool(_)) | Err(_) => None,
        };
        number
            .filter(|number| (MIN..=MAX).contains(number))
            .map(Self)
            .ok_or_else(|| {
                D::Error::custom(format_args!("must be a whole number from {MIN} to {MAX}"))
            })
    }
}

/// Reads a boolean, or the string "true" or "false". The config crate would also accept 1, "on" and 2.5 as true.
pub fn strict_bool<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let value = match Scalar::deserialize(deserializer) {
        Ok(Scalar::Bool(value)) => Some(value),
        Ok(Scalar::Text(text)) => text.to_ascii_lowercase().parse().ok(),
        Ok(Scalar::Number(_)) | Err(_) => None,
    };
    value.ok_or_else(|| D::Error::custom("must be true or false"))
}

/// The address of a listener: an IP address and a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ListenAddress(SocketAddr);

impl TryFrom<String> for ListenAddress {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
            .map(Self)
            .map_err(|_| "must be an IP address and a port, such as 127.0.0.1:8080 or [::]:8080")
    }
}

impl ListenAddress {
    /// Returns the address.
    #[must_use]
    pub fn get(self) -> SocketAddr {
        self.0
    }

    /// Returns the same IP address with another port.
    #[must_use]
    pub fn with_port(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.0.ip(), port)
    }
}
