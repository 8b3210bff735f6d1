//! Values of settings that cannot be wrong, read strictly, from a file's types or from an environment variable's text.
//!
//! Their errors say what is allowed and never repeat the value: it can be a secret that stands under the wrong key.

mod file;
mod networks;

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

pub use file::read_file;
pub use networks::Networks;

/// A setting is not allowed, though it has the right type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidSetting {
    /// The setting's key.
    pub key: &'static str,
    /// What is allowed.
    pub rule: String,
}

/// A whole number from `MIN` to `MAX`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounded<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Bounded<MIN, MAX> {
    /// A number that is known to be within the bounds.
    #[must_use]
    pub const fn constant(number: u64) -> Self {
        assert!(MIN <= number && number <= MAX, "out of bounds");
        Self(number)
    }

    /// The number as a time in seconds.
    #[must_use]
    pub fn seconds(self) -> Duration {
        Duration::from_secs(self.0)
    }

    /// The number as a time in days.
    #[must_use]
    pub fn days(self) -> Duration {
        Duration::from_hours(24 * self.0)
    }

    /// The number as a size or a count.
    #[must_use]
    pub fn count(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Bounded<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let allowed =
            || D::Error::custom(format_args!("must be a whole number from {MIN} to {MAX}"));
        let number = match deserializer.deserialize_any(ScalarVisitor)? {
            Scalar::Number(number) => number,
            Scalar::Text(text) => text.parse().map_err(|_| allowed())?,
            Scalar::Truth(_) | Scalar::Other => return Err(allowed()),
        };
        if (MIN..=MAX).contains(&number) {
            Ok(Self(number))
        } else {
            Err(allowed())
        }
    }
}

/// Where to listen: an IP address and a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
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
    /// The address.
    #[must_use]
    pub fn get(self) -> SocketAddr {
        self.0
    }

    /// The same address with another port.
    #[must_use]
    pub fn with_port(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.0.ip(), port)
    }
}

/// A setting that is on or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// `true`
    On,
    /// `false`
    Off,
}

impl<'de> Deserialize<'de> for Switch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_any(ScalarVisitor)? {
            Scalar::Truth(true) => Ok(Self::On),
            Scalar::Truth(false) => Ok(Self::Off),
            Scalar::Text(text) if text == "true" => Ok(Self::On),
            Scalar::Text(text) if text == "false" => Ok(Self::Off),
            Scalar::Text(_) | Scalar::Number(_) | Scalar::Other => {
                Err(D::Error::custom("must be true or false"))
            }
        }
    }
}

/// A value before it is known to be the right one.
enum Scalar {
    Truth(bool),
    Number(u64),
    Text(String),
    Other,
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Scalar, E> {
        Ok(Scalar::Truth(truth))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Scalar, E> {
        Ok(Scalar::Number(number))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Scalar, E> {
        Ok(u64::try_from(number).map_or(Scalar::Other, Scalar::Number))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(text.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, _: A) -> Result<Scalar, A::Error> {
        Ok(Scalar::Other)
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, _: A) -> Result<Scalar, A::Error> {
        Ok(Scalar::Other)
    }
}

/// A list of texts; a single text is a list of one. Its `Debug` tells only how many there are: they can be secrets.
#[derive(Clone, Default)]
pub struct Texts(Vec<String>);

impl Texts {
    /// The texts.
    #[must_use]
    pub fn into_vec(self) -> Vec<String> {
        self.0
    }
}

impl fmt::Debug for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Texts({})", self.0.len())
    }
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextsVisitor)
    }
}

struct TextsVisitor;

impl TextsVisitor {
    fn refused<E: Error>() -> E {
        E::custom("must be a list of texts")
    }
}

impl<'de> Visitor<'de> for TextsVisitor {
    type Value = Texts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of texts")
    }

    fn visit_str<E>(self, text: &str) -> Result<Texts, E> {
        Ok(Texts(vec![text.to_owned()]))
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<Texts, A::Error> {
        let mut texts = Vec::new();
        while let Some(item) = items.next_element_seed(AnyScalar)? {
            let Scalar::Text(text) = item else {
                return Err(Self::refused());
            };
            texts.push(text);
        }
        Ok(Texts(texts))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Texts, E> {
        Err(Self::refused())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Texts, E> {
        Err(Self::refused())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Texts, E> {
        Err(Self::refused())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Texts, E> {
        Err(Self::refused())
    }
}

struct AnyScalar;

impl<'de> serde::de::DeserializeSeed<'de> for AnyScalar {
    type Value = Scalar;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Scalar, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}
