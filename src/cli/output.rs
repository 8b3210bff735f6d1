//! Prints results as tables or JSON.

use std::fmt;
use std::io::{self, Write};
use std::sync::OnceLock;

use comfy_table::{Table, presets};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::Serialize;
use serde_json::value::RawValue;

/// The first error of a write to standard output.
static FAILED_WRITE: OnceLock<io::Error> = OnceLock::new();

/// Writes a line to standard output. [`failed_write`] returns the error if the write fails.
pub(super) fn print_line(text: &str) {
    print_text(&format!("{text}\n"));
}

/// Writes text to standard output. Returns false if a write has failed. [`failed_write`] returns the error.
pub(super) fn print_text(text: &str) -> bool {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    if let Err(error) = written {
        // Only the first error is reported.
        let _is_later = FAILED_WRITE.set(error);
    }
    FAILED_WRITE.get().is_none()
}

/// Returns the error if standard output is incomplete, for example because a disk is full. A reader that closes early, such as
/// `head`, is not an error.
pub(super) fn failed_write() -> Option<&'static io::Error> {
    let error = FAILED_WRITE.get();
    error.filter(|error| error.kind() != io::ErrorKind::BrokenPipe)
}

/// Prints a view as indented JSON.
pub(super) fn print_json(view: &(impl Serialize + ?Sized)) -> anyhow::Result<()> {
    print_line(&serde_json::to_string_pretty(view)?);
    Ok(())
}

/// Prints a view as JSON or as a table with one field per line.
pub(super) fn print_view(view: &impl Serialize, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return print_json(view);
    }
    print_fields(fields(view)?);
    Ok(())
}

/// Prints one name and value per line.
pub(super) fn print_fields(fields: Vec<(String, String)>) {
    let mut table = table();
    for (name, value) in fields {
        table.add_row([name, escape_control(&value)]);
    }
    print_line(&table.trim_fmt());
}

/// Prints rows under a header.
pub(super) fn print_table<const COLUMNS: usize>(
    header: [&str; COLUMNS],
    rows: impl IntoIterator<Item = [String; COLUMNS]>,
) {
    let mut table = table();
    table.set_header(header);
    for row in rows {
        table.add_row(row.map(|cell| escape_control(&cell)));
    }
    print_line(&table.trim_fmt());
}

fn table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}

/// Escapes the control characters that a terminal would interpret. Line breaks stay.
pub(super) fn escape_control(text: &str) -> String {
    let is_plain = |character: char| !character.is_control() || character == '\n';
    text.chars()
        .map(|character| {
            if is_plain(character) {
                character.to_string()
            } else {
                character.escape_default().to_string()
            }
        })
        .collect()
}

/// Returns the fields of a view in their order, each value as text: strings without quotes, null as an empty text.
pub(super) fn fields(view: &impl Serialize) -> serde_json::Result<Vec<(String, String)>> {
    let json = serde_json::to_string(view)?;
    serde_json::Deserializer::from_str(&json).deserialize_map(FieldVisitor)
}

/// Reads the fields of a JSON object in their order. `serde_json::Map` would sort them.
struct FieldVisitor;

impl<'json> Visitor<'json> for FieldVisitor {
    type Value = Vec<(String, String)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'json>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::new();
        while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
            let text = serde_json::from_str::<Option<String>>(value.get());
            let text = text.map_or_else(|_| value.get().to_owned(), Option::unwrap_or_default);
            fields.push((name, text));
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Serialize)]
    struct View {
        name: &'static str,
        count: i64,
        absent: Option<String>,
        metadata: Box<RawValue>,
        is_last: bool,
    }

    #[test]
    fn fields_keep_their_order_and_text() {
        let metadata = r#"{"b": [1, "x"],  "a": null}"#;
        let view = View {
            name: "a \"quoted\"\nname",
            count: 7,
            absent: None,
            metadata: RawValue::from_string(metadata.to_owned()).expect("JSON"),
            is_last: true,
        };

        let fields = fields(&view).expect("an object");

        let fields: Vec<(&str, &str)> = fields.iter().map(|(n, v)| (&**n, &**v)).collect();
        assert_eq!(
            fields,
            [
                ("name", "a \"quoted\"\nname"),
                ("count", "7"),
                ("absent", ""),
                ("metadata", metadata),
                ("is_last", "true"),
            ]
        );
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(escape_control("a\u{1b}[2J\nb"), "a\\u{1b}[2J\nb");
    }
}
