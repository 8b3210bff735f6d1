//! Settings whose values are words.

/// Returns the value of a word, in any case of letters. The error lists the words.
pub(crate) fn parse_word<T: Copy>(word: &str, words: &[(&str, T)]) -> Result<T, String> {
    let found = words
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(word));
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        match names.split_last() {
            Some((last, others)) if !others.is_empty() => {
                format!("must be {} or {last}", others.join(", "))
            }
            _ => format!("must be {}", names.concat()),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_words_and_accepts_any_case() {
        let words = [("auto", 1), ("text", 2), ("json", 3)];

        assert_eq!(parse_word("JSON", &words), Ok(3));
        let error = parse_word("xml", &words);
        assert_eq!(error, Err("must be auto, text or json".to_owned()));
    }
}
