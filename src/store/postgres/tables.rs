//! The tables that exist in Postgres, and the types of their columns.

use crate::store::adoption::{ColumnRules, Kind};

/// The statement that selects whether the table `$1` exists.
pub(super) const SCHEMA_EXISTS: &str = "-- schema_exists
     SELECT to_regclass($1) IS NOT NULL";

/// The statement that selects whether the relation with the name `$1` is an ordinary table. It looks in the schema in which the
/// migrations would create the table.
pub(super) const IS_TABLE: &str = "-- adoption_is_table
     SELECT class.relkind = 'r'
     FROM pg_class AS class JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
     WHERE namespace.nspname = current_schema() AND class.relname = $1";

/// The statement that selects the columns of the table `$1`: the name, the type, whether NULL is allowed, and whether the column
/// has a default.
pub(super) const COLUMNS: &str = "-- adoption_columns
     SELECT
         attribute.attname::text,
         format_type(attribute.atttypid, NULL),
         NOT attribute.attnotnull,
         attribute.atthasdef OR attribute.attidentity <> ''
     FROM pg_attribute AS attribute
         JOIN pg_class AS class ON class.oid = attribute.attrelid
         JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
     WHERE namespace.nspname = current_schema() AND class.relname = $1
         AND attribute.attnum > 0 AND NOT attribute.attisdropped";

pub(super) const COLUMN_RULES: ColumnRules = ColumnRules {
    types,
    added_columns: &["error", "status_at", "details_at"],
};

fn types(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Id | Kind::BigInteger => &["bigint"],
        Kind::Uuid => &["uuid"],
        Kind::Text => &["text", "character varying"],
        Kind::Integer => &["integer"],
        Kind::Boolean => &["boolean"],
        Kind::Json => &["jsonb"],
        Kind::Time => &["timestamp with time zone"],
        Kind::Bytes => &["bytea"],
    }
}
