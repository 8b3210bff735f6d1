//! The tables that exist in SQLite, and the affinities of their columns.

use crate::store::adoption::{ColumnRules, Kind};

/// The statement that selects whether the table `$1` exists.
pub(super) const SCHEMA_EXISTS: &str = "-- schema_exists
     SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = $1)";

/// The statement that selects whether the object with the name `$1` is an ordinary table. Names ignore case, as in SQLite.
pub(super) const IS_TABLE: &str = "-- adoption_is_table
     SELECT type = 'table' FROM sqlite_master WHERE type IN ('table', 'view') AND name = $1 COLLATE NOCASE";

/// The statement that selects the columns of the table `$1`: the name, the affinity, whether NULL is allowed, and whether the
/// column has a default. SQLite generates the value of an INTEGER PRIMARY KEY.
pub(super) const COLUMNS: &str = "-- adoption_columns
     SELECT
         lower(name),
         CASE
             WHEN type LIKE '%int%' THEN 'integer'
             WHEN type LIKE '%char%' OR type LIKE '%clob%' OR type LIKE '%text%' THEN 'text'
             WHEN type LIKE '%blob%' OR type = '' THEN 'blob'
             ELSE 'numeric'
         END,
         [notnull] = 0,
         dflt_value IS NOT NULL OR (pk = 1 AND lower(type) = 'integer')
     FROM pragma_table_info($1)";

/// The statement that selects the columns of the table `$1` that have a unique index of their own.
pub(super) const UNIQUE_COLUMNS: &str = "-- adoption_unique_columns
     SELECT lower(max(indexed.name))
     FROM pragma_index_list($1) AS list, pragma_index_info(list.name) AS indexed
     WHERE list.[unique] AND NOT list.partial
     GROUP BY list.name HAVING count(*) = 1 AND max(indexed.name) IS NOT NULL";

/// The statement that selects whether the table `$1` has a trigger that can fill columns of a new row. SQLite has no such
/// triggers.
pub(super) const HAS_INSERT_TRIGGER: &str = "-- adoption_has_insert_trigger
     SELECT $1 IS NULL";

pub(super) const COLUMN_RULES: ColumnRules = ColumnRules {
    types,
    added_columns: &[],
    migrations_with_defaults: &[],
};

/// Returns the affinities of a kind. SQLite has no types for JSON, times and booleans, so an app may declare any name for them.
fn types(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Id | Kind::BigId | Kind::Integer | Kind::BigInteger => &["integer"],
        Kind::Text => &["text"],
        // A type with the name `uuid` or `json` has the affinity NUMERIC, which keeps a UUID and JSON as text.
        Kind::Uuid | Kind::Json | Kind::Time => &["text", "numeric"],
        Kind::Boolean => &["numeric", "integer"],
        Kind::Bytes => &["blob"],
    }
}
