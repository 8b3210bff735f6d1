//! `reference/configuration.md`: the settings, generated from `config/default.toml`, and the keys
//! of an endpoint.

use crate::generated::{check, code, plain, row, table};
use crate::pages::read;

pub(crate) const PAGE: &str = "docs/src/reference/configuration.md";

/// A setting of `config/default.toml`, with its comment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    section: String,
    name: String,
    default: String,
    meaning: String,
}

impl Setting {
    pub(crate) fn key(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// Returns the environment variable that sets it.
    fn variable(&self) -> String {
        format!("APP__{}", self.key().to_uppercase().replace('.', "__"))
    }

    fn row(&self) -> String {
        let names = format!("{}<br>{}", code(&self.key()), code(&self.variable()));
        row(&[&names, &code(&self.default), &plain(&self.meaning)])
    }
}

/// Reads the settings. A comment is about all the keys below it, up to the next comment.
pub(crate) fn settings(toml: &str) -> Vec<Setting> {
    let (mut section, mut comment, mut is_comment) = ("", String::new(), false);
    let mut settings = Vec::new();
    for line in toml.lines() {
        if let Some(text) = line.strip_prefix('#') {
            if !is_comment {
                comment.clear();
            }
            comment.push_str(text);
            is_comment = true;
            continue;
        }
        is_comment = false;
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'))
        {
            section = name;
            comment.clear();
        } else if let Some((name, default)) = line.split_once(" = ") {
            settings.push(Setting {
                section: section.to_owned(),
                name: name.to_owned(),
                default: default.to_owned(),
                meaning: comment.trim().to_owned(),
            });
        }
    }
    settings
}

/// Returns the keys of endpoints in `config/relay.toml`, set or commented out.
fn endpoint_keys(toml: &str) -> Vec<String> {
    let lines = toml.lines().map(|line| line.trim_start_matches("# "));
    let mut keys: Vec<String> = lines
        .filter_map(|line| line.split_once(" = "))
        .map(|(key, _)| key.to_owned())
        .filter(|key| {
            key.bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        })
        .collect();
    keys.sort();
    keys.dedup();
    keys
}

#[test]
fn page_lists_every_setting() {
    let settings = settings(&read("config/default.toml"));
    assert!(settings.len() > 40, "the settings were found");
    for setting in &settings {
        assert!(
            !setting.meaning.is_empty(),
            "{} has a comment",
            setting.key()
        );
    }

    let sections = settings.chunk_by(|one, next| one.section == next.section);
    let sections: Vec<String> = sections
        .map(|settings| {
            let rows: Vec<String> = settings.iter().map(Setting::row).collect();
            let table = table(&["setting", "default", "meaning"], &rows);
            format!("### {}\n\n{table}\n", settings[0].section)
        })
        .collect();
    check(PAGE, &sections.concat());
}

#[test]
fn page_explains_every_endpoint_key() {
    let page = read(PAGE);
    let keys = endpoint_keys(&read("config/relay.toml"));

    assert!(keys.len() > 25, "the keys were found");
    for key in keys {
        assert!(page.contains(&format!("`{key}`")), "{PAGE} lacks {key}");
    }
}

#[test]
fn reads_settings_with_comments() {
    let toml = "# About the file.\n\n[a]\n# The first,\n# and more.\none = 1\n# The next two.\ntwo = \"x = y\"\nthree = []\n\n[a.b]\n# The last.\nfour = 4\n";

    let read: Vec<[String; 4]> = settings(toml)
        .into_iter()
        .map(|setting| {
            [
                setting.key(),
                setting.variable(),
                setting.default,
                setting.meaning,
            ]
        })
        .collect();

    assert_eq!(
        read,
        [
            ["a.one", "APP__A__ONE", "1", "The first, and more."],
            ["a.two", "APP__A__TWO", "\"x = y\"", "The next two."],
            ["a.three", "APP__A__THREE", "[]", "The next two."],
            ["a.b.four", "APP__A__B__FOUR", "4", "The last."],
        ]
    );
}
