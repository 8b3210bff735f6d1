//! The effect of a connection pooler.

/// Whether a connection pooler in front of the database shares server sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The database is SQLite.
    Absent,
    /// A client has a session until it closes its connection: there is no pooler, or one in session mode.
    Session,
    /// A client has a session until the end of a transaction.
    Transaction,
    /// The detection had no result.
    Unclear,
}
