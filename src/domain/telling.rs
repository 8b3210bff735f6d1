//! Whether what a notification tells is news: the later counts, and at the same time the fuller.

use std::cmp::Ordering;

use super::json::Json;
use super::timestamp::Timestamp;

/// What a notification does to a row, or to a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It says something new, and the row takes it over.
    Applied,
    /// It says what the row says.
    Duplicate,
    /// All that it says that is new is out of date. Nothing changes.
    Stale,
}

impl Effect {
    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Duplicate => "duplicate",
            Self::Stale => "stale",
        }
    }

    /// The effect of two parts of a notification together: any news is news; short of that, anything outdated is stale.
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Applied, _) | (_, Self::Applied) => Self::Applied,
            (Self::Stale, _) | (_, Self::Stale) => Self::Stale,
            (Self::Duplicate, Self::Duplicate) => Self::Duplicate,
        }
    }
}

/// When something was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// The notification says its time itself, so that a redelivery says the same.
    At(Timestamp),
    /// It says none and counts from its receipt, so that a redelivery looks later.
    OnReceiptAt(Timestamp),
}

impl Told {
    /// The time that counts.
    #[must_use]
    pub fn at(self) -> Timestamp {
        match self {
            Self::At(at) | Self::OnReceiptAt(at) => at,
        }
    }
}

/// Whether a telling is news beside the one that stands: the later counts, at the same time the fuller.
///
/// The tie has to be decided by the values alone; anything else would let the order of arrival decide. A telling without
/// a time of its own that says what is known is a redelivery.
pub(super) fn compare<S: Ord, T: Fullness>(
    told: Told,
    (since, value): (S, &T),
    (standing_since, standing): (Option<S>, &T),
) -> Effect {
    if matches!(told, Told::OnReceiptAt(_)) && value.fullness() == standing.fullness() {
        return Effect::Duplicate;
    }
    match (Some(since), value.fullness()).cmp(&(standing_since, standing.fullness())) {
        Ordering::Greater => Effect::Applied,
        Ordering::Equal => Effect::Duplicate,
        Ordering::Less => Effect::Stale,
    }
}

/// The total order which decides between two values told at the same time.
pub trait Fullness {
    /// What to compare.
    fn fullness(&self) -> impl Ord + '_;
}

impl Fullness for String {
    fn fullness(&self) -> impl Ord + '_ {
        (self.len(), self.as_str())
    }
}

impl Fullness for bool {
    fn fullness(&self) -> impl Ord + '_ {
        *self
    }
}

impl Fullness for Json {
    fn fullness(&self) -> impl Ord + '_ {
        self
    }
}

impl Fullness for Option<Timestamp> {
    fn fullness(&self) -> impl Ord + '_ {
        *self
    }
}
