//! The schemes, by name.

/// A way to prove that one knows a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// The secret itself in a header. What Cloudflare sends.
    CfWebhookAuth,
    /// A hexadecimal HMAC-SHA256 of the body.
    Hmac,
    /// A hexadecimal HMAC-SHA256 of a timestamp and the body.
    Timestamped,
    /// Standard Webhooks.
    Standard,
}

impl Scheme {
    /// Every scheme.
    pub const ALL: [Self; 4] = [
        Self::CfWebhookAuth,
        Self::Hmac,
        Self::Timestamped,
        Self::Standard,
    ];

    /// The word in settings and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CfWebhookAuth => "cf-webhook-auth",
            Self::Hmac => "hmac",
            Self::Timestamped => "timestamped",
            Self::Standard => "standard",
        }
    }

    /// The scheme with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scheme| scheme.name() == name)
    }
}
