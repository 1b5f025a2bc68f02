//! Suggestions for misspelt commands, options, keys and account names: the most similar one that
//! exists.

/// The most similar of `words`, if one is similar enough to be meant. Of two equally similar ones
/// the first wins.
pub(crate) fn nearest<'a>(
    typed: &str,
    words: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let typed: Vec<char> = typed.to_lowercase().chars().take(LENGTH_MAX).collect();
    let steps_max = match typed.len() {
        0 | 1 => return None,
        2..=3 => 1,
        4..=8 => 2,
        _ => 3,
    };
    let distances = words.into_iter().map(|word| {
        let letters: Vec<char> = word.to_lowercase().chars().take(LENGTH_MAX).collect();
        // A prefix stands for the word, and the name before the @ for an e-mail address.
        let is_start = letters
            .strip_prefix(&typed[..])
            .is_some_and(|rest| typed.len() >= 3 || rest.first() == Some(&'@'));
        (if is_start { 1 } else { distance(&typed, &letters) }, word)
    });
    let (steps, word) = distances.min_by_key(|(steps, _)| *steps)?;
    (steps <= steps_max).then_some(word)
}

/// `; did you mean status?`, or nothing.
pub(crate) fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map(|word| format!("; did you mean {word}?")).unwrap_or_default()
}

/// Only this many letters of a word are compared, because the input may be any text.
const LENGTH_MAX: usize = 64;

/// The number of letters to insert, delete, replace, or swap with a neighbour to turn one word into
/// the other (the restricted Damerau-Levenshtein distance).
fn distance(from: &[char], to: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, letter) in from.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, other) in to.iter().enumerate() {
            let replaced = row[j] + usize::from(letter != other);
            let mut steps = replaced.min(row[j + 1] + 1).min(next[j] + 1);
            if i > 0 && j > 0 && *letter == to[j - 1] && from[i - 1] == *other {
                steps = steps.min(before[j - 1] + 1);
            }
            next.push(steps);
        }
        before = std::mem::replace(&mut row, next);
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant_is_found() {
        let commands = ["server", "status", "service", "accounts", "rename", "env", "run"];
        for (typed, meant) in [
            ("staus", Some("status")),
            ("sttaus", Some("status")),
            ("STATUS", Some("status")),
            ("acounts", Some("accounts")),
            ("acc", Some("accounts")),
            ("serve", Some("server")),
            ("rnu", Some("run")),
            ("enb", Some("env")),
            ("x", None),
            ("", None),
            ("frobnicate", None),
            ("constructor", None),
        ] {
            assert_eq!(nearest(typed, commands), meant, "{typed}");
        }
        assert_eq!(nearest("anything", []), None);
        assert_eq!(nearest("me", ["work@example.com", "me@example.com"]), Some("me@example.com"));
        let long = "é".repeat(10_000);
        assert_eq!(nearest(&long, ["é"]), None);
    }
}
