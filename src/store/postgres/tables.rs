//! The tables that exist in Postgres, and the types of their columns.

use crate::store::adoption::{AUDIT_LOG_MIGRATION, ColumnRules, IMAGES_MIGRATION, Kind};

/// The statement that selects whether the table `$1` exists.
///
/// Inside a transaction, `to_regclass` alone does not notice that another process has created the table. Postgres looks for such
/// changes when a statement locks a table, as `pg_class` here.
pub(super) const SCHEMA_EXISTS: &str = "-- schema_exists
     SELECT EXISTS (SELECT FROM pg_class WHERE oid = to_regclass($1))";

/// The statement that selects whether the relation with the name `$1` is a table that can be adopted. It looks in the schema in
/// which the migrations would create the table. Only the audit log may be partitioned. A foreign table cannot have its index.
pub(super) const IS_TABLE: &str = "-- adoption_is_table
     SELECT class.relkind = 'r' OR class.relkind = 'p' AND class.relname = 'cloudflare_image_logs' AND NOT EXISTS (
         SELECT FROM pg_partition_tree(class.oid) AS tree JOIN pg_class AS part ON part.oid = tree.relid
         WHERE part.relkind = 'f'
     )
     FROM pg_class AS class JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
     WHERE namespace.nspname = current_schema() AND class.relname = $1";

/// The statement that selects the columns of the table `$1`: the name, the type, whether NULL is allowed, and whether the column
/// has a default. The type of a domain is the type under it.
pub(super) const COLUMNS: &str = "-- adoption_columns
     SELECT
         attribute.attname::text,
         format_type(COALESCE(NULLIF(type.typbasetype, 0), type.oid), NULL),
         NOT attribute.attnotnull,
         attribute.atthasdef OR attribute.attidentity <> ''
     FROM pg_attribute AS attribute
         JOIN pg_type AS type ON type.oid = attribute.atttypid
         JOIN pg_class AS class ON class.oid = attribute.attrelid
         JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
     WHERE namespace.nspname = current_schema() AND class.relname = $1
         AND attribute.attnum > 0 AND NOT attribute.attisdropped";

/// The statement that selects the columns of the table `$1` that have a unique index of their own. `ON CONFLICT` can use such an
/// index.
pub(super) const UNIQUE_COLUMNS: &str = "-- adoption_unique_columns
     SELECT attribute.attname::text
     FROM pg_index AS index
         JOIN pg_class AS class ON class.oid = index.indrelid
         JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
         JOIN pg_attribute AS attribute ON attribute.attrelid = class.oid AND attribute.attnum = index.indkey[0]
     WHERE namespace.nspname = current_schema() AND class.relname = $1
         AND index.indisunique AND index.indimmediate AND index.indisvalid
         AND index.indnkeyatts = 1 AND index.indpred IS NULL";

/// The statement that selects whether the table `$1` has a trigger that can fill columns of a new row. The bits 1, 2 and 4 are
/// those of ROW, BEFORE and INSERT (Postgres source, `pg_trigger.h`).
pub(super) const HAS_INSERT_TRIGGER: &str = "-- adoption_has_insert_trigger
     SELECT EXISTS (
         SELECT FROM pg_trigger AS trigger
             JOIN pg_class AS class ON class.oid = trigger.tgrelid
             JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
         WHERE namespace.nspname = current_schema() AND class.relname = $1
             AND trigger.tgtype & 7 = 7 AND trigger.tgenabled <> 'D'
     )";

pub(super) const COLUMN_RULES: ColumnRules = ColumnRules {
    types,
    added_columns: &["error", "status_at", "details_at"],
    migrations_with_defaults: &[IMAGES_MIGRATION, AUDIT_LOG_MIGRATION],
};

fn types(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Id => &["bigint", "integer"],
        Kind::BigId | Kind::BigInteger => &["bigint"],
        Kind::Uuid => &["uuid"],
        Kind::Text => &["text", "character varying", "citext"],
        Kind::Integer => &["integer"],
        Kind::Boolean => &["boolean"],
        Kind::Json => &["jsonb"],
        Kind::Time => &["timestamp with time zone"],
        Kind::Bytes => &["bytea"],
    }
}
