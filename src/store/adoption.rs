//! The adoption of tables that exist before the first migration: the columns that such a table must have.
//!
//! The migrations use an existing table of the same name (`CREATE TABLE IF NOT EXISTS`), because the Django toolkit created the
//! images and the audit log. Most of the names are generic, so a table can also belong to another program. That table is
//! neither changed nor used: the start fails.

/// The version of the migration that creates or adopts the images.
pub(super) const IMAGES_MIGRATION: i64 = 1;

/// The version of the migration that creates or adopts the audit log.
pub(super) const AUDIT_LOG_MIGRATION: i64 = 2;

/// The version of the migration that creates the table of adoptions.
pub(super) const ADOPTIONS_MIGRATION: i64 = 5;

/// A table of this service.
pub(super) struct OwnTable {
    pub(super) name: &'static str,
    /// The version of the migration that creates or adopts it.
    pub(super) migration: i64,
    /// The columns that the migrations and the statements of this service use.
    columns: &'static [(&'static str, Kind)],
    /// The columns of `columns` that some inserts leave out. In a new table, each is nullable or has a default.
    left_out: &'static [&'static str],
}

/// The kind of a column's values. Each backend has its types for a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A number that the database generates. In a new table, it has 64 bits. Django's `AutoField` has 32 bits.
    Id,
    /// A number with 64 bits that the database generates.
    BigId,
    Uuid,
    Text,
    Integer,
    BigInteger,
    Boolean,
    Json,
    Time,
    Bytes,
}

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
    /// Every table that a migration uses if it exists.
    pub(super) const ALL: [Self; 7] = [
        IMAGES, AUDIT_LOG, REJECTIONS, EVENTS, DELIVERIES, ATTEMPTS, ENDPOINTS,
    ];

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

    /// An INSERT of an image names its unique column (`ON CONFLICT`). So do the inserts of events and endpoints.
    fn missing_unique_index(&self, table: &ExistingTable) -> Option<String> {
        let column = match self.name {
            "cloudflare_images" => "cloudflare_id",
            "relay_events" => "id",
            "relay_endpoints" => "name",
            _ => return None,
        };
        let is_unique = table.unique_columns.iter().any(|unique| unique == column);
        (!is_unique).then(|| format!("its column {column} has no unique index"))
    }
}

const IMAGES: OwnTable = OwnTable {
    name: "cloudflare_images",
    migration: IMAGES_MIGRATION,
    columns: &[
        ("id", Kind::Uuid),
        ("cloudflare_id", Kind::Text),
        ("filename", Kind::Text),
        ("original_filename", Kind::Text),
        ("content_type", Kind::Text),
        ("upload_url", Kind::Text),
        ("status", Kind::Text),
        ("require_signed_urls", Kind::Boolean),
        ("metadata", Kind::Json),
        ("creator", Kind::Text),
        ("created_at", Kind::Time),
        ("updated_at", Kind::Time),
        ("uploaded_at", Kind::Time),
        ("expires_at", Kind::Time),
        ("format", Kind::Text),
        ("variants", Kind::Json),
        ("cloudflare_metadata", Kind::Json),
        ("error", Kind::Text),
        ("status_at", Kind::Time),
        ("details_at", Kind::Text),
    ],
    left_out: &[
        "id",
        "filename",
        "original_filename",
        "content_type",
        "upload_url",
        "status",
        "require_signed_urls",
        "metadata",
        "creator",
        "uploaded_at",
        "expires_at",
        "format",
        "variants",
        "cloudflare_metadata",
        "error",
        "status_at",
        "details_at",
    ],
};

const AUDIT_LOG: OwnTable = OwnTable {
    name: "cloudflare_image_logs",
    migration: AUDIT_LOG_MIGRATION,
    columns: &[
        ("id", Kind::Id),
        ("image_id", Kind::Uuid),
        ("event_type", Kind::Text),
        ("message", Kind::Text),
        ("data", Kind::Json),
        ("timestamp", Kind::Time),
    ],
    left_out: &["image_id"],
};

const REJECTIONS: OwnTable = OwnTable {
    name: "webhook_rejections",
    migration: 3,
    columns: &[
        ("id", Kind::BigId),
        ("received_at", Kind::Time),
        ("status", Kind::Integer),
        ("reason", Kind::Text),
        ("problem", Kind::Text),
        ("scheme", Kind::Text),
        ("client_address", Kind::Text),
        ("request_id", Kind::Text),
        ("cloudflare_id", Kind::Text),
        ("body", Kind::Bytes),
        ("body_bytes", Kind::Integer),
        ("count", Kind::BigInteger),
        ("state", Kind::Text),
        ("parked_at", Kind::Time),
        ("attempts", Kind::Integer),
        ("settled_at", Kind::Time),
        ("outcome", Kind::Text),
    ],
    left_out: &[
        "cloudflare_id",
        "body",
        "parked_at",
        "settled_at",
        "problem",
        "scheme",
        "client_address",
        "request_id",
        "body_bytes",
        "count",
        "state",
        "attempts",
        "outcome",
    ],
};

const EVENTS: OwnTable = OwnTable {
    name: "relay_events",
    migration: RELAY_MIGRATION,
    columns: &[
        ("id", Kind::Text),
        ("event", Kind::Text),
        ("model", Kind::Text),
        ("image", Kind::Text),
        ("payload", Kind::Text),
        ("created_at", Kind::Time),
    ],
    left_out: &["image"],
};

const DELIVERIES: OwnTable = OwnTable {
    name: "relay_deliveries",
    migration: RELAY_MIGRATION,
    columns: &[
        ("id", Kind::BigId),
        ("event_id", Kind::Text),
        ("endpoint", Kind::Text),
        ("image", Kind::Text),
        ("status", Kind::Text),
        ("due_at", Kind::Time),
        ("lease", Kind::Text),
        ("attempts", Kind::Integer),
        ("status_code", Kind::Integer),
        ("error", Kind::Text),
        ("payload", Kind::Text),
        ("created_at", Kind::Time),
        ("completed_at", Kind::Time),
    ],
    left_out: &[
        "image",
        "status",
        "due_at",
        "lease",
        "attempts",
        "status_code",
        "error",
        "payload",
        "completed_at",
    ],
};

const ATTEMPTS: OwnTable = OwnTable {
    name: "relay_attempts",
    migration: RELAY_MIGRATION,
    columns: &[
        ("id", Kind::BigId),
        ("delivery_id", Kind::BigInteger),
        ("number", Kind::Integer),
        ("started_at", Kind::Time),
        ("duration_ms", Kind::BigInteger),
        ("status_code", Kind::Integer),
        ("error", Kind::Text),
    ],
    left_out: &["status_code", "error"],
};

const ENDPOINTS: OwnTable = OwnTable {
    name: "relay_endpoints",
    migration: RELAY_MIGRATION,
    columns: &[
        ("name", Kind::Text),
        ("paused_at", Kind::Time),
        ("pause_reason", Kind::Text),
    ],
    left_out: &["paused_at", "pause_reason"],
};

/// The version of the migration that creates the tables of the relay.
const RELAY_MIGRATION: i64 = 4;
