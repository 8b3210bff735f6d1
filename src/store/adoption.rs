//! The adoption of tables that exist before the first migration: the columns that such a table must have.
//!
//! The migrations use an existing table of the same name (`CREATE TABLE IF NOT EXISTS`), because the Django toolkit created the
//! images and the audit log. Most of the names are generic, so a table can also belong to another program. That table is
//! neither changed nor used: the start fails.

mod own_tables;

pub(super) use own_tables::{
    ADOPTIONS_MIGRATION, AUDIT_LOG_MIGRATION, IMAGES_MIGRATION, Kind, OwnTable,
};

/// A column of an existing table.
pub(super) struct Column {
    pub(super) name: String,
    pub(super) data_type: String,
    pub(super) is_nullable: bool,
    pub(super) has_default: bool,
}

/// An existing table.
pub(super) struct ExistingTable {
    pub(super) columns: Vec<Column>,
    /// The columns that have a unique index of their own.
    pub(super) unique_columns: Vec<String>,
    /// Whether a trigger can fill columns of a new row.
    pub(super) has_insert_trigger: bool,
}

/// The properties of a backend that decide whether a table can be adopted.
pub(super) struct ColumnRules {
    /// Returns the names of the types for a kind. The first one is the type in a new table.
    pub(super) types: fn(Kind) -> &'static [&'static str],
    /// The columns that a migration adds to an existing table.
    pub(super) added_columns: &'static [&'static str],
    /// The migrations that give defaults to the columns of an existing table.
    pub(super) migrations_with_defaults: &'static [i64],
}

impl OwnTable {
    /// Returns the reason why an existing table cannot be adopted, as a clause. `None` means that it can be adopted.
    pub(super) fn obstacle(&self, table: &ExistingTable, rules: &ColumnRules) -> Option<String> {
        let mut own_columns = self.columns.iter();
        own_columns
            .find_map(|(name, kind)| self.obstacle_of_own_column(name, *kind, table, rules))
            .or_else(|| self.obstacle_of_other_columns(table))
            .or_else(|| self.missing_unique_index(table))
    }

    fn obstacle_of_own_column(
        &self,
        name: &str,
        kind: Kind,
        table: &ExistingTable,
        rules: &ColumnRules,
    ) -> Option<String> {
        let Some(column) = table.columns.iter().find(|column| column.name == name) else {
            let is_added = rules.added_columns.contains(&name);
            return (!is_added).then(|| format!("it has no column {name}"));
        };
        let types = (rules.types)(kind);
        if !types.contains(&column.data_type.as_str()) {
            let (actual, expected) = (&column.data_type, types[0]);
            return Some(format!(
                "its column {name} has the type {actual} instead of {expected}"
            ));
        }
        let is_generated = matches!(kind, Kind::Id | Kind::BigId);
        let gets_default =
            !is_generated && rules.migrations_with_defaults.contains(&self.migration);
        if column.has_default || gets_default {
            None
        } else if is_generated || name == "id" && self.left_out.contains(&name) {
            Some(format!("its column {name} has no default"))
        } else {
            let needs_value = !column.is_nullable && self.left_out.contains(&name);
            needs_value.then(|| format!("its column {name} is NOT NULL without a default"))
        }
    }

    /// Finds columns that an INSERT of this service would violate. An app can register the images itself, so their table may have
    /// such columns. A trigger may fill them.
    fn obstacle_of_other_columns(&self, table: &ExistingTable) -> Option<String> {
        if self.migration == IMAGES_MIGRATION || table.has_insert_trigger {
            return None;
        }
        let is_own = |column: &Column| self.columns.iter().any(|(name, _)| column.name == *name);
        let mut columns = table.columns.iter();
        columns
            .find(|column| !is_own(column) && !column.is_nullable && !column.has_default)
            .map(|column| format!("its column {} is NOT NULL without a default", column.name))
    }

    /// An INSERT of an image names its unique column (`ON CONFLICT`). So do the inserts into other
    /// tables.
    fn missing_unique_index(&self, table: &ExistingTable) -> Option<String> {
        let column = match self.name {
            "cloudflare_images" => "cloudflare_id",
            "relay_events" | "cloudflare_upload_requests" => "id",
            "cloudflare_image_lookups" => "image_id",
            "relay_endpoints" => "name",
            _ => return None,
        };
        let is_unique = table.unique_columns.iter().any(|unique| unique == column);
        (!is_unique).then(|| format!("its column {column} has no unique index"))
    }
}
