//! Parses the answer of the sign-in page (SPEC T1): the callback request, or what a user pastes
//! instead. Pure.

use subtle::ConstantTimeEq as _;

use crate::account::oauth::{cleaned, is_sendable};
use crate::config::Secret;

/// The meaning of a callback or a pasted text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Return {
    Code(Secret),
    /// The user or the provider refused, with this message.
    Denied(String),
    /// Its state is missing or wrong: it belongs to somebody else, or to an earlier attempt.
    WrongState,
    /// Something else.
    Nothing,
}

/// Parses the target of a request to the loopback listener, such as `/callback?code=…&state=…`.
pub(crate) fn of_target(target: &str, state: &Secret) -> Return {
    match target.split_once('?') {
        Some(("/callback", query)) => of_query(query, state),
        _ => Return::Nothing,
    }
}

/// Whether a target has the one path that is served, whatever its query.
pub(super) fn is_callback(target: &str) -> bool {
    target.split('?').next() == Some("/callback")
}

/// Parses a pasted line: the callback's URL, `code#state` as the provider's page shows it, or the
/// code alone.
pub(crate) fn of_paste(line: &str, state: &Secret) -> Return {
    // Terminals mark pasted text, and people copy quotation marks with it.
    let line = line.replace("\u{1b}[200~", "").replace("\u{1b}[201~", "");
    let line = line.trim().trim_matches(['"', '\'', '<', '>']).trim();
    if let Some((_, query)) = line.split_once('?') {
        return of_query(query.split('#').next().unwrap_or(query), state);
    }
    if let Some((code, given)) = line.split_once('#') {
        return if is_same(given, state) { of_code(code) } else { Return::WrongState };
    }
    if line.len() < BARE_CODE_BYTES_MIN {
        return Return::Nothing;
    }
    of_code(line)
}

fn of_query(query: &str, state: &Secret) -> Return {
    let find = |name: &str| {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let mut same = pairs.filter(|(given, _)| *given == name);
        same.next().map(|(_, value)| decoded(value))
    };
    if !find("state").is_some_and(|given| is_same(&given, state)) {
        return Return::WrongState;
    }
    if let Some(error) = find("error") {
        let words = find("error_description").filter(|words| !words.is_empty());
        let words = words.map_or_else(|| error.clone(), |words| format!("{error}: {words}"));
        return Return::Denied(cleaned(&words, &[state]));
    }
    find("code").map_or(Return::Nothing, |code| of_code(&code))
}

fn of_code(code: &str) -> Return {
    // A shorter text, such as a stray key, cannot be a code and is not sent anywhere.
    if is_sendable(code) && code.len() >= CODE_BYTES_MIN {
        Return::Code(Secret::new(code))
    } else {
        Return::Nothing
    }
}

fn is_same(given: &str, state: &Secret) -> bool {
    given.as_bytes().ct_eq(state.expose().as_bytes()).into()
}

/// Decodes `application/x-www-form-urlencoded`; invalid escapes stay as they are.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = |byte: u8| char::from(byte).to_digit(16);
        let escaped = match (first, after) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(high, low)| high * 16 + low),
            _ => None,
        };
        match escaped.and_then(|byte| u8::try_from(byte).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(if first == b'+' { b' ' } else { first });
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

const CODE_BYTES_MIN: usize = 4;
/// Codes have about forty characters. A typed word is not a code, and a wrong code would end the
/// login.
const BARE_CODE_BYTES_MIN: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callbacks_and_pastes_are_told_apart() {
        let state = Secret::new("s-1_x");
        let code = |text: &str| Return::Code(Secret::new(text));
        let denied = |text: &str| Return::Denied(text.to_owned());
        for (rule, target, expected) in [
            ("T1 callback", "/callback?code=abcd&state=s-1_x", code("abcd")),
            (
                "T1 any order, escaped",
                "/callback?x=1&state=s%2D1_x&code=ab%2Bcd%23",
                code("ab+cd#"),
            ),
            ("T1 wrong state", "/callback?code=abcd&state=s-1_y", Return::WrongState),
            ("T1 no state", "/callback?code=abcd", Return::WrongState),
            ("T1 empty state", "/callback?code=abcd&state=", Return::WrongState),
            ("T1 denied", "/callback?error=access_denied&state=s-1_x", denied("access_denied")),
            (
                "T1 denied in words",
                "/callback?error=access_denied&error_description=the+user%0Asaid%20no&state=s-1_x",
                denied("access_denied: the user said no"),
            ),
            (
                "T1 denied by a stranger",
                "/callback?error=access_denied&state=z",
                Return::WrongState,
            ),
            ("T1 no code", "/callback?state=s-1_x", Return::Nothing),
            ("T1 a code that cannot be one", "/callback?code=a%0Abcd&state=s-1_x", Return::Nothing),
            ("T1 another page", "/favicon.ico", Return::Nothing),
            ("T1 no query", "/callback", Return::Nothing),
            ("T1 one path", "/callback/?code=abcd&state=s-1_x", Return::Nothing),
            ("T1 another path", "/x/callback?code=abcd&state=s-1_x", Return::Nothing),
            ("T1 broken escapes", "/callback?code=%zz%4&state=s-1_x", code("%zz%4")),
        ] {
            assert_eq!(of_target(target, &state), expected, "{rule}: {target}");
        }
        for (rule, line, expected) in [
            ("T1 the URL", "http://localhost:9/callback?code=abcd&state=s-1_x", code("abcd")),
            (
                "T1 the URL with a fragment",
                " \"http://localhost:9/callback?code=abcd&state=s-1_x#done\"\r",
                code("abcd"),
            ),
            (
                "T1 the URL of another attempt",
                "http://localhost:9/callback?code=abcd&state=other",
                Return::WrongState,
            ),
            ("T1 the code with its state", "abcd#s-1_x", code("abcd")),
            ("T1 the code with another state", "abcd#s-2", Return::WrongState),
            ("T1 the code", "\u{1b}[200~abcdefghijklmnop\u{1b}[201~", code("abcdefghijklmnop")),
            ("T1 a word", "what", Return::Nothing),
            ("T1 nothing", "", Return::Nothing),
            ("T1 a stray key", "y", Return::Nothing),
            ("T1 words", "what now", Return::Nothing),
        ] {
            assert_eq!(of_paste(line, &state), expected, "{rule}: {line:?}");
        }
    }
}
