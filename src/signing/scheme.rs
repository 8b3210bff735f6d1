//! The authentication schemes and their names.

use crate::domain::named::named_enum;

named_enum! {
    /// A way to authenticate with a shared secret.
    pub enum Scheme {
        /// The secret itself in a header. Cloudflare uses this scheme.
        CfWebhookAuth = "cf-webhook-auth",
        /// A hexadecimal HMAC-SHA256 of the body.
        Hmac = "hmac",
        /// A hexadecimal HMAC-SHA256 of a timestamp and the body.
        Timestamped = "timestamped",
        /// Standard Webhooks: a base64 HMAC-SHA256 of an id, a timestamp and the body.
        Standard = "standard",
    }
}
