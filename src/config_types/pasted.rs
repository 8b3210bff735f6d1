//! Values as people paste them: with a line end, a byte order mark or quotes around them.

/// The characters that have no width. A byte order mark is one of them.
const ZERO_WIDTH: [char; 3] = ['\u{feff}', '\u{200b}', '\u{2060}'];

/// Removes white space, line ends and byte order marks around a value.
#[must_use]
pub(crate) fn trim_pasted(text: &str) -> &str {
    text.trim_matches(|character: char| {
        character.is_whitespace() || ZERO_WIDTH.contains(&character)
    })
}

/// Removes the quotes around a value. `docker run --env-file` passes them on, unlike a shell.
#[must_use]
pub(crate) fn trim_quotes(text: &str) -> &str {
    ['"', '\'']
        .into_iter()
        .find_map(|quote| text.strip_prefix(quote)?.strip_suffix(quote))
        .map_or(text, trim_pasted)
}
