//! The tables of this service, and the columns that its statements use.

/// The version of the migration that creates or adopts the images.
pub(in crate::store) const IMAGES_MIGRATION: i64 = 1;

/// The version of the migration that creates or adopts the audit log.
pub(in crate::store) const AUDIT_LOG_MIGRATION: i64 = 2;

/// The version of the migration that creates the table of adoptions.
pub(in crate::store) const ADOPTIONS_MIGRATION: i64 = 5;

/// A table of this service.
pub(in crate::store) struct OwnTable {
    pub(in crate::store) name: &'static str,
    /// The version of the migration that creates or adopts it.
    pub(in crate::store) migration: i64,
    /// The columns that the migrations and the statements of this service use.
    pub(super) columns: &'static [(&'static str, Kind)],
    /// The columns of `columns` that some inserts leave out. In a new table, each is nullable or has a default.
    pub(super) left_out: &'static [&'static str],
}

impl OwnTable {
    /// Every table that a migration uses if it exists.
    pub(in crate::store) const ALL: [Self; 10] = [
        IMAGES,
        AUDIT_LOG,
        REJECTIONS,
        EVENTS,
        DELIVERIES,
        ATTEMPTS,
        ENDPOINTS,
        LOOKUPS,
        API_CALLS,
        UPLOAD_REQUESTS,
    ];
}

/// The kind of a column's values. Each backend has its types for a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Kind {
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

const LOOKUPS: OwnTable = OwnTable {
    name: "cloudflare_image_lookups",
    migration: LOOKUPS_MIGRATION,
    columns: &[
        ("image_id", Kind::Uuid),
        ("due_at", Kind::Time),
        ("leased_until", Kind::Time),
        ("attempts", Kind::Integer),
    ],
    left_out: &["leased_until", "attempts"],
};

const API_CALLS: OwnTable = OwnTable {
    name: "cloudflare_api_calls",
    migration: LOOKUPS_MIGRATION,
    columns: &[("id", Kind::Integer), ("next_call", Kind::BigInteger)],
    left_out: &[],
};

const UPLOAD_REQUESTS: OwnTable = OwnTable {
    name: "cloudflare_upload_requests",
    migration: 7,
    columns: &[
        ("id", Kind::Text),
        ("request_digest", Kind::Text),
        ("cloudflare_id", Kind::Text),
        ("upload_url", Kind::Text),
        ("expires_at", Kind::Time),
        ("state", Kind::Text),
        ("lease", Kind::Text),
        ("leased_at", Kind::Time),
        ("created_at", Kind::Time),
    ],
    left_out: &["upload_url", "expires_at", "state"],
};

/// The version of the migration that creates the tables of the relay.
const RELAY_MIGRATION: i64 = 4;

/// The version of the migration that creates the tables of the lookups.
const LOOKUPS_MIGRATION: i64 = 6;
