//! The parameters of a URL, decoded.

use percent_encoding::percent_decode_str;

use super::error::InvalidDatabaseUrl;

/// The longest name of a parameter.
const MAX_NAME_BYTES: usize = 64;

/// Splits a query into decoded names and values.
pub(super) fn split(
    query: &str,
) -> impl Iterator<Item = Result<(String, String), InvalidDatabaseUrl>> {
    let pieces = query.split('&').filter(|piece| !piece.is_empty());
    pieces.map(|piece| {
        let (name, value) = piece.split_once('=').ok_or(InvalidDatabaseUrl::NoValue)?;
        Ok((decode(name)?, decode(value)?))
    })
}

/// Decodes percent-encoding. A `%` without two hexadecimal digits stays.
pub(super) fn decode(text: &str) -> Result<String, InvalidDatabaseUrl> {
    let decoded = percent_decode_str(text).decode_utf8();
    let decoded = decoded.map_err(|_| InvalidDatabaseUrl::Undecodable)?;
    // A NUL character ends a value in the protocol, so the server would read another parameter after it.
    if decoded.contains('\0') {
        return Err(InvalidDatabaseUrl::Undecodable);
    }
    Ok(decoded.into_owned())
}

/// Fails unless messages may repeat the name.
pub(super) fn check_name(name: &str) -> Result<(), InvalidDatabaseUrl> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.[]".contains(&byte);
    let is_name = !name.is_empty() && name.len() <= MAX_NAME_BYTES && name.bytes().all(is_plain);
    if is_name {
        Ok(())
    } else {
        Err(InvalidDatabaseUrl::ParameterName)
    }
}
