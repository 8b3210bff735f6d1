//! The parameters about TLS, and the mode that follows from them.

use std::path::{Path, PathBuf};

use sqlx::postgres::PgSslMode;

use super::error::InvalidDatabaseUrl;
use super::ignored_parameter::IgnoredParameter;
use crate::config_types::{InvalidSetting, read_file};

/// The values of `sslmode`.
const SSL_MODES_TEXT: &str = "disable, allow, prefer, require, verify-ca or verify-full";

/// The protection of a connection, from the weakest to the strongest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TlsMode {
    /// No encryption.
    Disable,
    /// Encryption if the server offers it.
    Prefer,
    /// Encryption without a check of the server.
    Require,
    /// Encryption, and the server has a certificate of a known authority.
    VerifyCa,
    /// Encryption, and the server has a certificate for its host.
    VerifyFull,
}

impl TlsMode {
    /// Parses a value of `sslmode`. sqlx treats `allow` like `disable`, so a server that demands TLS would be unreachable.
    pub(super) fn parse(name: &str, value: &str) -> Result<Self, InvalidDatabaseUrl> {
        match value.to_ascii_lowercase().as_str() {
            "disable" => Ok(Self::Disable),
            "allow" | "prefer" => Ok(Self::Prefer),
            "require" => Ok(Self::Require),
            "verify-ca" => Ok(Self::VerifyCa),
            "verify-full" => Ok(Self::VerifyFull),
            _ => Err(InvalidDatabaseUrl::value(name, SSL_MODES_TEXT)),
        }
    }

    pub(super) fn to_sqlx(self) -> PgSslMode {
        match self {
            Self::Disable => PgSslMode::Disable,
            Self::Prefer => PgSslMode::Prefer,
            Self::Require => PgSslMode::Require,
            Self::VerifyCa => PgSslMode::VerifyCa,
            Self::VerifyFull => PgSslMode::VerifyFull,
        }
    }
}

/// A file that a parameter or an environment variable names.
#[derive(Debug, Clone)]
pub(super) struct PemFile {
    source: &'static str,
    pub(super) path: PathBuf,
    /// Whether it has the certificate of an authority.
    pub(super) is_root: bool,
    /// The label of the PEM block that the file must have.
    label: &'static str,
}

/// The parameters about TLS.
#[derive(Debug, Clone, Default)]
pub(super) struct TlsParameters {
    pub(super) mode: Option<TlsMode>,
    /// The mode in `ssl`, which other drivers use, or in `requiressl`, and the name of the parameter.
    pub(super) ssl: Option<(&'static str, TlsMode)>,
    pub(super) binds_channel: bool,
    pub(super) trusts_system: bool,
    pub(super) root: Option<PemFile>,
    pub(super) certificate: Option<PemFile>,
    pub(super) key: Option<PemFile>,
}

impl TlsParameters {
    /// Sets the parameter that names a file. An empty value counts as not set, as in libpq.
    pub(super) fn set_file(&mut self, name: &str, value: &str) -> Result<(), InvalidDatabaseUrl> {
        if value.is_empty() {
            return Ok(());
        }
        if value.trim_start().starts_with("-----BEGIN") {
            return Err(InvalidDatabaseUrl::value(name, "the path of a file"));
        }
        let file = |source, label| {
            Some(PemFile {
                source,
                path: value.into(),
                is_root: name == "sslrootcert",
                label,
            })
        };
        match name {
            "sslrootcert" if value == "system" => self.trusts_system = true,
            "sslrootcert" => self.root = file("sslrootcert", "CERTIFICATE-----"),
            "sslcert" => self.certificate = file("sslcert", "CERTIFICATE-----"),
            _ => self.key = file("sslkey", "PRIVATE KEY-----"),
        }
        Ok(())
    }

    /// Names the environment variable that set a file.
    pub(super) fn set_source(&mut self, parameter: &str, variable: &'static str) {
        for file in [&mut self.root, &mut self.certificate, &mut self.key] {
            if let Some(file) = file
                && file.source == parameter
            {
                file.source = variable;
            }
        }
    }

    /// Returns the mode. Adds the parameters that have no effect.
    pub(super) fn resolve(
        &self,
        ignored: &mut Vec<IgnoredParameter>,
    ) -> Result<TlsMode, InvalidDatabaseUrl> {
        if self.certificate.is_some() != self.key.is_some() {
            return Err(InvalidDatabaseUrl::HalfKeyPair);
        }
        if let (Some(mode), Some((name, ssl))) = (self.mode, self.ssl)
            && (mode < TlsMode::Require) != (ssl < TlsMode::Require)
        {
            return Err(InvalidDatabaseUrl::Contradiction(name, "sslmode"));
        }
        let mut mode = match self.mode.max(self.ssl.map(|(_, mode)| mode)) {
            Some(mode) => mode,
            None if self.trusts_system => TlsMode::VerifyFull,
            None => TlsMode::Prefer,
        };
        if self.trusts_system && mode != TlsMode::VerifyFull {
            return Err(InvalidDatabaseUrl::value(
                "sslrootcert",
                "a file, or system with sslmode=verify-full",
            ));
        }
        // As in libpq. sqlx would not look at the file.
        if self.root.is_some() && mode == TlsMode::Require {
            mode = TlsMode::VerifyCa;
        }
        if self.binds_channel && mode < TlsMode::VerifyFull {
            mode = TlsMode::VerifyFull;
            ignored.push(IgnoredParameter {
                name: "channel_binding".to_owned(),
                advice: Some("instead, the certificate is checked as with sslmode=verify-full"),
            });
        }
        if self.root.is_some() && mode < TlsMode::VerifyCa {
            ignored.push(IgnoredParameter {
                name: "sslrootcert".to_owned(),
                advice: Some("it needs sslmode=verify-full"),
            });
        }
        Ok(mode)
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &PemFile> {
        [&self.root, &self.certificate, &self.key]
            .into_iter()
            .flatten()
    }
}

impl PemFile {
    /// Fails if the file cannot be read, or does not have the PEM block.
    pub(super) fn check(&self) -> Result<(), InvalidSetting> {
        let Self {
            source,
            path,
            label,
            is_root: _,
        } = self;
        let invalid = |problem: String| InvalidSetting {
            key: "database.url",
            rule: format!("{source}: the file {} {problem}", path.display()),
        };
        // A relative path needs the folder in which it was looked for.
        let text = read_file(path).map_err(|error| {
            let folder = match Path::new(".").canonicalize() {
                Ok(folder) if path.is_relative() => format!(" in {}", folder.display()),
                _ => String::new(),
            };
            invalid(format!("cannot be read{folder}: {error}"))
        })?;
        let is_key = label.starts_with("PRIVATE KEY");
        if is_key && text.contains("ENCRYPTED PRIVATE KEY-----") {
            return Err(invalid(
                "is encrypted. Decrypt it with openssl pkey.".to_owned(),
            ));
        }
        if text.contains(label) {
            Ok(())
        } else {
            let kind = label.trim_end_matches('-').to_lowercase();
            Err(invalid(format!("has no {kind} in PEM form")))
        }
    }
}
