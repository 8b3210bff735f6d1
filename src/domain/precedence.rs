//! Precedence between two reported values: the later value wins. At the same time, the fuller value wins.

use std::cmp::Ordering;

use super::json::Json;
use super::timestamp::Timestamp;

/// The effect of a notification on a row, or on one column of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The notification reports something new. The row changes.
    Applied,
    /// The row already has the reported values.
    Duplicate,
    /// At least one reported value is out of date, and no reported value is new. Nothing changes.
    Stale,
}

impl Effect {
    /// Returns the effect's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Duplicate => "duplicate",
            Self::Stale => "stale",
        }
    }

    /// Combines the effects of two parts of a notification. Applied wins over stale, and stale over duplicate.
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Applied, _) | (_, Self::Applied) => Self::Applied,
            (Self::Stale, _) | (_, Self::Stale) => Self::Stale,
            (Self::Duplicate, Self::Duplicate) => Self::Duplicate,
        }
    }
}

/// The time that orders a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EffectiveTime {
    /// The notification states its time. A redelivery states the same time.
    Stated(Timestamp),
    /// The notification states no time, so its time of receipt is used. A redelivery has a later time.
    Received(Timestamp),
}

impl EffectiveTime {
    /// Returns the time.
    #[must_use]
    pub fn at(self) -> Timestamp {
        match self {
            Self::Stated(at) | Self::Received(at) => at,
        }
    }
}

/// Decides between a reported value and the stored value, by rank first. A rank is a time or a
/// [`Precedence`](super::detail::Precedence).
///
/// At the same rank the values themselves decide, so the order of arrival does not matter. An equal value from a notification
/// without a time is a duplicate.
pub(super) fn decide<S: Ord, T: TieBreak>(
    effective: EffectiveTime,
    (rank, value): (S, &T),
    (stored_rank, stored): (Option<S>, &T),
) -> Effect {
    if matches!(effective, EffectiveTime::Received(_)) && value.tie_break() == stored.tie_break() {
        return Effect::Duplicate;
    }
    match (Some(rank), value.tie_break()).cmp(&(stored_rank, stored.tie_break())) {
        Ordering::Greater => Effect::Applied,
        Ordering::Equal => Effect::Duplicate,
        Ordering::Less => Effect::Stale,
    }
}

/// A total order on the values of one column. It decides between two values that were reported for the same time.
pub trait TieBreak {
    /// Returns the key to compare. The greater key wins.
    fn tie_break(&self) -> impl Ord + '_;
}

impl TieBreak for String {
    fn tie_break(&self) -> impl Ord + '_ {
        (self.len(), self.as_str())
    }
}

impl TieBreak for bool {
    fn tie_break(&self) -> impl Ord + '_ {
        *self
    }
}

impl TieBreak for Json {
    fn tie_break(&self) -> impl Ord + '_ {
        self
    }
}

impl TieBreak for Option<Timestamp> {
    fn tie_break(&self) -> impl Ord + '_ {
        *self
    }
}
