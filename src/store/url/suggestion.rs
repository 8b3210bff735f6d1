//! Suggestions for misspelt parameters.

/// Other names of parameters, in lower case and without separators.
const OTHER_NAMES: [(&str, &str); 9] = [
    ("database", "dbname"),
    ("db", "dbname"),
    ("username", "user"),
    ("hostname", "host"),
    ("server", "host"),
    ("socket", "host"),
    ("unixsock", "host"),
    ("pass", "password"),
    ("pwd", "password"),
];

/// The longest name that is compared.
const MAX_LENGTH: usize = 40;

/// Returns the known name that an unknown one probably means. A name about TLS always gets one, because ignoring it would be unsafe.
pub(super) fn suggestion(unknown: &str, known: &[&'static str]) -> Option<&'static str> {
    let plain = plain(unknown);
    if let Some((_, name)) = OTHER_NAMES.iter().find(|(other, _)| *other == plain) {
        return Some(name);
    }
    let similar = known
        .iter()
        .map(|name| (edit_distance(&plain, &self::plain(name)), *name))
        .filter(|(distance, name)| *distance <= if name.len() < 6 { 1 } else { 2 })
        .min_by_key(|(distance, _)| *distance);
    match similar {
        Some((_, name)) => Some(name),
        None => ["ssl", "tls"]
            .iter()
            .any(|prefix| plain.starts_with(prefix))
            .then_some("sslmode"),
    }
}

/// Returns the name in lower case and without separators.
fn plain(name: &str) -> String {
    let characters = name.chars().filter(|c| !matches!(c, '-' | '_' | '.' | ' '));
    characters
        .flat_map(char::to_lowercase)
        .take(MAX_LENGTH)
        .collect()
}

/// Returns the number of characters to insert, delete, replace, or swap with the next one.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut distance = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                distance = distance.min(rows[i - 2][j - 2] + 1);
            }
            row.push(distance);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}
