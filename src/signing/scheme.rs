//! The schemes, by name.

use crate::domain::named::named_enum;

named_enum! {
    /// A way to prove that one knows a secret.
    pub enum Scheme {
        /// The secret itself in a header. What Cloudflare sends.
        CfWebhookAuth = "cf-webhook-auth",
        /// A hexadecimal HMAC-SHA256 of the body.
        Hmac = "hmac",
        /// A hexadecimal HMAC-SHA256 of a timestamp and the body.
        Timestamped = "timestamped",
        /// Standard Webhooks.
        Standard = "standard",
    }
}
