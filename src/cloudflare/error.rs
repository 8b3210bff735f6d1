//! The errors of the API, by what the caller can do about them.

use std::fmt;
use std::time::Duration;

/// The most characters of one of Cloudflare's messages that an error repeats.
const MAX_MESSAGE_CHARACTERS: usize = 200;

/// The most messages of Cloudflare that an error repeats.
const MAX_MESSAGES: usize = 3;

/// The error of a call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) struct ApiError {
    /// What the call does, such as "creating an upload URL".
    pub(crate) action: &'static str,
    pub(crate) kind: ErrorKind,
    /// Cloudflare's own errors.
    pub(crate) messages: Vec<ApiMessage>,
}

/// What the caller can do about an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    /// The token is wrong, expired or disabled.
    Unauthorized,
    /// The token may not do this, or the account belongs to somebody else.
    Forbidden,
    /// The object does not exist.
    NotFound,
    /// There were too many calls. The next one may be made after this time.
    RateLimited { retry_after: Duration },
    /// Another object has this id.
    AlreadyExists,
    /// Cloudflare refused the request's content.
    Refused,
    /// Cloudflare failed, or could not be reached. A later call may succeed.
    Unavailable(String),
    /// There was no complete answer within this time. A later call may succeed.
    TimedOut { deadline: Duration },
    /// The service cannot read its own limit on calls, because the database fails.
    LimitUnknown(String),
    /// The answer breaks the rules of the API.
    Unexpected(String),
}

/// One error in an answer of Cloudflare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiMessage {
    pub(crate) code: Option<i64>,
    pub(crate) message: String,
}

impl ApiMessage {
    /// Makes a message for people: on one line, short, and without the token.
    pub(super) fn new(code: Option<i64>, message: &str, token: &str) -> Self {
        let message = message.replace(token, "***");
        let visible = message.chars().map(|character| {
            if character.is_control() {
                ' '
            } else {
                character
            }
        });
        Self {
            code,
            message: visible.take(MAX_MESSAGE_CHARACTERS).collect(),
        }
    }
}

impl ApiError {
    pub(super) fn unavailable(action: &'static str, cause: impl Into<String>) -> Self {
        Self {
            action,
            kind: ErrorKind::Unavailable(cause.into()),
            messages: Vec::new(),
        }
    }

    pub(super) fn timed_out(action: &'static str, deadline: Duration) -> Self {
        Self {
            action,
            kind: ErrorKind::TimedOut { deadline },
            messages: Vec::new(),
        }
    }

    pub(crate) fn unexpected(action: &'static str, problem: impl Into<String>) -> Self {
        Self {
            action,
            kind: ErrorKind::Unexpected(problem.into()),
            messages: Vec::new(),
        }
    }

    /// Returns the error without a call, because the budget has none left.
    pub(super) fn rate_limited(action: &'static str, retry_after: Duration) -> Self {
        Self {
            action,
            kind: ErrorKind::RateLimited { retry_after },
            messages: Vec::new(),
        }
    }

    /// Returns the error without a call, because the limit on calls cannot be read.
    pub(super) fn no_limit(action: &'static str, cause: String) -> Self {
        Self {
            action,
            kind: ErrorKind::LimitUnknown(cause),
            messages: Vec::new(),
        }
    }

    /// Returns the time after which a call may be made, if there were too many.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self.kind {
            ErrorKind::RateLimited { retry_after } => Some(retry_after),
            _ => None,
        }
    }

    /// Returns whether any other call would fail too.
    pub(crate) fn concerns_all_calls(&self) -> bool {
        match self.kind {
            ErrorKind::Unauthorized
            | ErrorKind::Forbidden
            | ErrorKind::RateLimited { .. }
            | ErrorKind::Unavailable(_)
            | ErrorKind::TimedOut { .. }
            | ErrorKind::LimitUnknown(_) => true,
            ErrorKind::NotFound
            | ErrorKind::AlreadyExists
            | ErrorKind::Refused
            | ErrorKind::Unexpected(_) => false,
        }
    }

    /// Returns whether the same call may succeed later.
    pub(super) fn is_temporary(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::RateLimited { .. } | ErrorKind::Unavailable(_) | ErrorKind::TimedOut { .. }
        )
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = self.action;
        match &self.kind {
            ErrorKind::Unauthorized => write!(
                f,
                "{action}: Cloudflare refused the token; check cloudflare.api_token"
            ),
            ErrorKind::Forbidden => write!(
                f,
                "{action}: the token has no permission for this account; check cloudflare.api_token and cloudflare.account_id"
            ),
            ErrorKind::NotFound => write!(f, "{action}: not found at Cloudflare"),
            ErrorKind::RateLimited { retry_after } => write!(
                f,
                "{action}: too many calls to Cloudflare; try again in {} seconds",
                retry_after.as_secs().max(1)
            ),
            ErrorKind::AlreadyExists => write!(f, "{action}: Cloudflare already has this id"),
            ErrorKind::Refused => write!(f, "{action}: Cloudflare refused the request"),
            ErrorKind::Unavailable(cause) => {
                write!(f, "{action}: Cloudflare is not available: {cause}")
            }
            ErrorKind::TimedOut { deadline } => write!(
                f,
                "{action}: Cloudflare is not available: no complete answer within {} seconds",
                deadline.as_secs()
            ),
            ErrorKind::LimitUnknown(cause) => {
                write!(f, "{action}: the limit on calls cannot be read: {cause}")
            }
            ErrorKind::Unexpected(problem) => {
                write!(f, "{action}: unexpected answer of Cloudflare: {problem}")
            }
        }?;
        for (position, message) in self.messages.iter().take(MAX_MESSAGES).enumerate() {
            f.write_str(if position == 0 { " (" } else { "; " })?;
            if let Some(code) = message.code {
                write!(f, "{code}: ")?;
            }
            f.write_str(&message.message)?;
        }
        if self.messages.is_empty() {
            Ok(())
        } else {
            f.write_str(")")
        }
    }
}
