//! The tokens of the API's clients.

use std::fmt;
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::config_types::SecretList;

/// The minimum length of a token. A client can send guesses.
const MIN_TOKEN_CHARACTERS: usize = 16;

/// The minimum number of different characters of a token. A random token of [`MIN_TOKEN_CHARACTERS`] hex digits has more.
const MIN_DIFFERENT_CHARACTERS: usize = 6;

/// The maximum length of a token, so that a request's head can carry it.
const MAX_TOKEN_CHARACTERS: usize = 1024;

/// The maximum length of a name. The table `cloudflare_upload_requests` stores it.
const MAX_NAME_CHARACTERS: usize = 64;

/// The name of a token without a name.
const DEFAULT_NAME: &str = "default";

/// The text before the SHA-256 of a token.
const DIGEST_PREFIX: &str = "sha256:";

/// The requests that a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    /// Requests that change nothing.
    Read,
    /// All requests.
    Write,
}

/// The name of a token. The requests of one client have the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TokenName(Arc<str>);

impl TokenName {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A token. Only its digest is kept.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) name: TokenName,
    pub(super) scope: Scope,
    digest: [u8; 32],
}

impl fmt::Debug for Token {
    /// Writes only the scope. The name is a token if an operator has swapped the two.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({:?})", self.scope)
    }
}

/// The tokens of all clients.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(try_from = "SecretList")]
pub(super) struct Tokens(Vec<Token>);

impl TryFrom<SecretList> for Tokens {
    type Error = String;

    fn try_from(entries: SecretList) -> Result<Self, String> {
        let mut tokens: Vec<Token> = Vec::new();
        for (position, entry) in entries.iter().enumerate() {
            let number = position + 1;
            let token = Token::parse(entry).map_err(|rule| format!("entry {number} {rule}"))?;
            if tokens.iter().any(|other| other.digest == token.digest) {
                return Err(format!(
                    "entry {number} has the token of another entry. Make another token, for example with openssl rand -hex 32."
                ));
            }
            if tokens.iter().any(|other| other.name == token.name) {
                return Err(format!(
                    "entry {number} has the name of another entry. Write NAME:SCOPE:TOKEN with another name."
                ));
            }
            tokens.push(token);
        }
        Ok(Self(tokens))
    }
}

impl Token {
    /// Parses an entry of the setting. The error follows the number of the entry, and shows nothing of it.
    fn parse(entry: &SecretString) -> Result<Self, String> {
        let entry = entry.expose_secret();
        let is_digest = entry.starts_with(DIGEST_PREFIX);
        let (name, scope, token) = match entry.split_once(':') {
            Some((name, scope_and_token)) if !is_digest => {
                let scope_and_token = scope_and_token.split_once(':');
                let (scope, token) = scope_and_token
                    .and_then(|(scope, token)| Some((Scope::parse(scope)?, token)))
                    .ok_or("must be TOKEN, NAME:read:TOKEN or NAME:write:TOKEN")?;
                (name, scope, token)
            }
            // A colon cannot be a part of a bearer token (RFC 6750, section 2.1).
            Some(_) | None => (DEFAULT_NAME, Scope::Write, entry),
        };
        if !is_name(name) {
            return Err(format!(
                "must have a name of 1 to {MAX_NAME_CHARACTERS} letters, digits and - . _"
            ));
        }
        let digest = if let Some(hex) = token.strip_prefix(DIGEST_PREFIX) {
            parse_digest(hex)?
        } else {
            check_token(token)?;
            digest(token)
        };
        Ok(Self {
            name: TokenName(name.into()),
            scope,
            digest,
        })
    }
}

impl Scope {
    fn parse(word: &str) -> Option<Self> {
        match word {
            "read" => Some(Self::Read),
            "write" => Some(Self::Write),
            _ => None,
        }
    }
}

impl Tokens {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Finds the token that a client presents. The time does not depend on the presented text, except its length.
    pub(super) fn find(&self, presented: &str) -> Option<&Token> {
        let presented = digest(presented);
        let mut found = None;
        for token in &self.0 {
            if bool::from(token.digest.ct_eq(&presented)) {
                found = Some(token);
            }
        }
        found
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    (1..=MAX_NAME_CHARACTERS).contains(&name.len()) && name.bytes().all(is_plain)
}

fn parse_digest(text: &str) -> Result<[u8; 32], String> {
    let mut digest = [0; 32];
    hex::decode_to_slice(text, &mut digest)
        .map_err(|_| "must have 64 hex digits after sha256:".to_owned())?;
    Ok(digest)
}

/// Checks that a header can carry the token (RFC 6750, section 2.1), and that it cannot be guessed.
fn check_token(token: &str) -> Result<(), String> {
    let text = token.trim_end_matches('=');
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
    if !text.bytes().all(is_allowed) {
        return Err(
            "must have a token of letters, digits and - . _ ~ + /, with = only at its end"
                .to_owned(),
        );
    }
    let mut different: Vec<u8> = text.bytes().collect();
    different.sort_unstable();
    different.dedup();
    let is_weak = token.len() < MIN_TOKEN_CHARACTERS || different.len() < MIN_DIFFERENT_CHARACTERS;
    if is_weak || token.len() > MAX_TOKEN_CHARACTERS {
        return Err(format!(
            "must have a token of {MIN_TOKEN_CHARACTERS} to {MAX_TOKEN_CHARACTERS} characters, and at least \
             {MIN_DIFFERENT_CHARACTERS} different ones. Make one with openssl rand -hex 32."
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn tokens(entries: &[&str]) -> Result<Tokens, String> {
        let list = toml::Value::try_from(entries).expect("a list");
        let list: SecretList = list.try_into().expect("secrets");
        Tokens::try_from(list)
    }

    fn names_and_scopes(tokens: &Tokens) -> Vec<(&str, Scope)> {
        let tokens = tokens.0.iter();
        tokens
            .map(|token| (token.name.as_str(), token.scope))
            .collect()
    }

    #[test]
    fn entry_has_name_scope_and_token() {
        let digest = format!("sha256:{}", hex::encode(digest(TOKEN)));
        for (entry, name, scope) in [
            (TOKEN.to_owned(), "default", Scope::Write),
            (digest.clone(), "default", Scope::Write),
            (
                digest.to_uppercase().replace("SHA256", "sha256"),
                "default",
                Scope::Write,
            ),
            (format!("app:read:{TOKEN}"), "app", Scope::Read),
            (format!("my-app.2:write:{digest}"), "my-app.2", Scope::Write),
        ] {
            let tokens = tokens(&[&entry]).expect("it is valid");

            assert_eq!(names_and_scopes(&tokens), [(name, scope)], "{entry}");
            assert!(tokens.find(TOKEN).is_some(), "{entry}");
            assert!(tokens.find("0123456789abcdeF").is_none());
            assert!(tokens.find("").is_none());
        }
    }

    #[test]
    fn refuses_entries_without_showing_them() {
        for (entries, rule) in [
            (&["SECRETSECRET"][..], "16 to 1024 characters"),
            (&["SECRETSECRETSECRETSECRET"], "6 different"),
            (&["SECRET 0123456789abcdef"], "letters, digits and"),
            (&["SECRET:0123456789abcdef"], "must be TOKEN, NAME"),
            (&["app:raed:SECRET0123456789"], "must be TOKEN, NAME"),
            (&["app:read:SECRET:0123456789"], "letters, digits and"),
            (&[":read:SECRET0123456789"], "must have a name"),
            (&["SECRET SECRET:read:0123456789abcdef"], "must have a name"),
            (&["sha256:SECRET"], "64 hex digits"),
            (&["app:write:sha256:SECRET"], "64 hex digits"),
            (
                &["SECRET0123456789", "app:read:SECRET0123456789"],
                "the token of another",
            ),
            (
                &["SECRET0123456789", "SECRET9876543210"],
                "entry 2 has the name",
            ),
        ] {
            let error = tokens(entries).expect_err("it is refused");

            assert!(error.contains(rule), "{entries:?}: {error}");
            assert!(!error.contains("SECRET"), "{error}");
        }
    }

    #[test]
    fn debug_shows_no_name_and_digest() {
        let entry = format!("swapped:read:{TOKEN}");

        let shown = format!("{:?}", tokens(&[&entry]).expect("it is valid"));

        assert_eq!(shown, "Tokens([Token(Read)])");
    }
}
