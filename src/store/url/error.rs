//! The errors of database URLs.
//!
//! No error repeats a part of the URL, except the name of a parameter. After an unencoded character in a password, the parts that
//! look like a host, a port or a name can be parts of the password.

/// The reason why a text is not a supported database URL. The message follows the name of a setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDatabaseUrl {
    /// The scheme is unknown.
    #[error(
        "must be sqlite://PATH or postgres://USER:PASSWORD@HOST:PORT/DATABASE, with special characters percent-encoded (@ is %40)"
    )]
    UnknownScheme,
    /// The scheme names a driver of another language.
    #[error("names a driver in its scheme. Write postgres:// at its beginning.")]
    Driver,
    /// The URL has a line end, a tab or another control character.
    #[error("has a line end or another control character. Write the URL on one line.")]
    ControlCharacter,
    /// A character that separates the parts of a URL is probably meant as a part of the password.
    #[error("has an unencoded {character:?}, probably in the password. Write it as {encoded}.")]
    Unencoded {
        /// The character.
        character: char,
        /// The percent-encoded character.
        encoded: &'static str,
    },
    /// The parameters have an at sign and a part that is no known parameter.
    #[error(
        "has an \"@\" after a \"?\". Write a \"?\" in the password as %3F, and an \"@\" in a parameter as %40."
    )]
    UnencodedQuestionMark,
    /// The path has an at sign or a second slash.
    #[error(
        "has an unencoded \"/\" in the password or the database name. Write it as %2F, and write an @ there as %40."
    )]
    UnencodedSlash,
    /// The host is not a name, an address or a folder.
    #[error(
        "has an invalid host. Use a name, an IP address or the folder of a socket, and write IPv6 addresses in brackets ([::1])."
    )]
    Host,
    /// The port is not a number.
    #[error("has an invalid port. Use a number from 1 to 65535.")]
    Port,
    /// There are several hosts.
    #[error(
        "names several hosts, and the service connects to one. Use an address that always leads to the primary, such as a virtual IP \
         address or HAProxy."
    )]
    SeveralHosts,
    /// A percent-encoded part is not UTF-8, or has a NUL character.
    #[error(
        "has a part that is not UTF-8 or has a NUL character after its percent-encoding is decoded"
    )]
    Undecodable,
    /// The first parameter follows an `&`.
    #[error(
        "has an \"&\" in the database name. Write a \"?\" before the first parameter, and an \"&\" in the name as %26."
    )]
    NoQuestionMark,
    /// An environment variable has nothing but white space.
    #[error("has only white space. Write a value, or remove the variable.")]
    BlankVariable,
    /// A parameter has no equals sign.
    #[error("has a parameter without a value. Write NAME=VALUE, and write an & in a value as %26.")]
    NoValue,
    /// The name of a parameter has unusual characters. It may be a part of a value, so it is not repeated.
    #[error("has a parameter with an invalid name. Write an & in a value as %26.")]
    ParameterName,
    /// There is an unknown parameter, which may be a part of the password.
    #[error(
        "has an unknown parameter beside a password. Remove it, or write an & in the password as %26."
    )]
    UnknownBesidePassword,
    /// A parameter occurs twice.
    #[error("sets the parameter {0} twice. Remove one of them.")]
    Repeated(String),
    /// A parameter has a value that is not supported.
    #[error("has an unsupported value of the parameter {name}. Use {allowed}.")]
    Value {
        /// The parameter.
        name: String,
        /// The supported values.
        allowed: &'static str,
    },
    /// A client certificate has no key, or a key no certificate.
    #[error("has only one of the parameters sslcert and sslkey. Set both.")]
    HalfKeyPair,
    /// Two parameters contradict each other.
    #[error("has the parameters {0} and {1}, which contradict each other. Remove one of them.")]
    Contradiction(&'static str, &'static str),
    /// A parameter is not supported, and ignoring it would be unsafe.
    #[error("has the unsupported parameter {name}. {remedy}")]
    Unsupported {
        /// The parameter.
        name: String,
        /// A sentence that says what to do.
        remedy: &'static str,
    },
    /// A parameter is unknown, and similar to one that matters.
    #[error("has the unknown parameter {name}. Use {suggestion}.")]
    Misspelt {
        /// The parameter.
        name: String,
        /// The similar parameter.
        suggestion: &'static str,
    },
    /// The SQLite URL has no path.
    #[error("has no path. Use sqlite://PATH.")]
    NoPath,
    /// The SQLite path would lead to another file than the one that its author means.
    #[error("{0}")]
    Path(&'static str),
    /// The SQLite database would be in memory.
    #[error(
        "is a database in memory, which would lose acknowledged webhooks. Use the path of a file."
    )]
    InMemory,
}

impl InvalidDatabaseUrl {
    /// Returns the error of an unencoded character.
    pub(super) fn unencoded(character: char) -> Self {
        let encoded = if character == '#' { "%23" } else { "%40" };
        Self::Unencoded { character, encoded }
    }

    /// Returns the error of a value.
    pub(super) fn value(name: &str, allowed: &'static str) -> Self {
        Self::Value {
            name: name.to_owned(),
            allowed,
        }
    }
}
