//! The keys of a JSON document, without its values.

use serde_json::Value;

/// The most keys that are returned.
const MAX_KEYS: usize = 40;

/// The deepest key.
const MAX_DEPTH: usize = 8;

/// The most characters of a pointer.
const MAX_CHARACTERS: usize = 100;

/// Returns the JSON pointers (RFC 6901) of the deepest keys, and whether keys are left out. An array counts as its first item.
pub(super) fn pointers(document: &Value) -> (Vec<String>, bool) {
    let mut pointers = Vec::new();
    let mut is_incomplete = false;
    // The next one is at the end.
    let mut waiting = vec![(String::new(), document, 0)];
    while let Some((pointer, value, depth)) = waiting.pop() {
        if pointers.len() >= MAX_KEYS {
            return (pointers, true);
        }
        let children = children(&pointer, value);
        if children.is_empty() || depth >= MAX_DEPTH {
            is_incomplete |= !children.is_empty();
            if !pointer.is_empty() {
                pointers.push(shortened(pointer));
            }
            continue;
        }
        let children = children.into_iter().rev();
        waiting.extend(children.map(|(pointer, value)| (pointer, value, depth + 1)));
    }
    (pointers, is_incomplete)
}

/// Returns the values inside of a value. No more than can be returned, so a large document needs little memory.
fn children<'a>(pointer: &str, value: &'a Value) -> Vec<(String, &'a Value)> {
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().take(MAX_KEYS + 1);
            let child = |key: &str| {
                // A key of the document may be long. The rest of it would be cut anyway.
                let key: String = key.chars().take(MAX_CHARACTERS + 1).collect();
                let key = key.replace('~', "~0").replace('/', "~1");
                format!("{pointer}/{key}")
            };
            fields.map(|(key, value)| (child(key), value)).collect()
        }
        Value::Array(items) => {
            let first = items.first();
            first
                .map(|item| (format!("{pointer}/0"), item))
                .into_iter()
                .collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

fn shortened(pointer: String) -> String {
    match pointer.char_indices().nth(MAX_CHARACTERS) {
        None => pointer,
        Some((end, _)) => format!("{}…", &pointer[..end]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn returns_deepest_keys_without_values() {
        let document = json!({"a": {"b/c": "SECRET", "~d": [{"e": 1}, {"f": 2}]}, "g": {}});

        let (mut pointers, is_incomplete) = pointers(&document);

        pointers.sort();
        assert_eq!(pointers, ["/a/b~1c", "/a/~0d/0/e", "/g"]);
        assert!(!is_incomplete);
    }

    #[test]
    fn bounds_number_depth_and_length() {
        let many = (0..50).map(|number| (number.to_string(), Value::Null));
        let many = pointers(&Value::Object(many.collect()));
        assert_eq!((many.0.len(), many.1), (MAX_KEYS, true));

        let deep = (0..20).fold(Value::Null, |inner, _| json!({"k": inner}));
        assert_eq!(pointers(&deep), (vec!["/k".repeat(MAX_DEPTH)], true));

        let long = json!({"ü".repeat(200): 1});
        assert_eq!(pointers(&long).0[0].chars().count(), MAX_CHARACTERS + 1);
    }

    #[test]
    fn returns_nothing_for_plain_value() {
        assert_eq!(pointers(&json!("SECRET")), (Vec::new(), false));
    }
}
