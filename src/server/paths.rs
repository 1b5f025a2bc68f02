//! What a target is for: ours, pooled, or somebody else's (P1, P3).

use std::borrow::Cow;

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// Answered here, never forwarded.
    Local(Local),
    /// A pooled path.
    Pooled(Pooled),
    /// A message batch: relayed like [`Route::Other`], but an id stays on the account that created it.
    Batches {
        /// The batch's id; absent for create and list.
        id: Option<String>,
    },
    /// The client's own token request (T5): never with a pooled credential.
    OauthToken,
    /// Anything else: the client's own credential if it brought one, else S7.
    Other,
}

/// The pooled paths of P3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pooled {
    /// `/v1/messages`.
    Messages,
    /// `/v1/messages/count_tokens`.
    CountTokens,
    /// `/v1/models` and below.
    Models,
    /// `/v1/complete`.
    Complete,
}

/// The local routes of P1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Local {
    /// `GET /`, `HEAD /`.
    Root,
    /// `GET /maxpool/status`.
    Status,
    /// `GET /maxpool/metrics`.
    Metrics(Names),
    /// `GET /maxpool/health`.
    Health,
    /// `POST /maxpool/reload`.
    Reload,
    /// `POST /maxpool/routing`.
    Routing,
    /// `POST /maxpool/accounts/<name>/{enable,disable}`.
    Account {
        /// Percent-decoded.
        name: String,
        /// Which of the two.
        to: Switch,
    },
    /// `GET /maxpool/explain?model=&session=&profile=`; an empty value is absent.
    Explain {
        /// `model=`.
        model: Option<String>,
        /// `session=`.
        session: Option<String>,
        /// `profile=`.
        profile: Option<String>,
    },
    /// A known route with another method: 405.
    WrongMethod {
        /// The value of `allow`.
        allow: &'static str,
    },
    /// Anything else below `/maxpool`: 404.
    Unknown,
}

/// Whether metrics may name accounts (`?names=1`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// Numbers only.
    Hidden,
    /// With names.
    Shown,
}

/// What a control route does to an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Switch {
    /// `enable`.
    Enable,
    /// `disable`.
    Disable,
}

/// Classifies a target that [`super::door`] has let through.
///
/// Segments are compared after decoding, so that no spelling takes a control path or a token request to a pooled credential.
pub(crate) fn route(method: &str, target: &str) -> Route {
    let (path, query) = split(target);
    // Nearly every request; nothing of it has to be taken apart.
    if path == "/v1/messages" {
        return Route::Pooled(Pooled::Messages);
    }
    let segments: Vec<Cow<'_, str>> = path.split('/').skip(1).map(decode).collect();
    let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
    if is_local(&segments) {
        return Route::Local(local(method, &segments, query));
    }
    match segments.as_slice() {
        [""] if matches!(method, "GET" | "HEAD") => Route::Local(Local::Root),
        ["v1", "messages"] => Route::Pooled(Pooled::Messages),
        ["v1", "messages", "count_tokens"] => Route::Pooled(Pooled::CountTokens),
        ["v1", "messages", "batches", rest @ ..] => Route::Batches {
            id: rest
                .first()
                .filter(|id| !id.is_empty())
                .map(|id| (*id).to_owned()),
        },
        ["v1", "models", ..] => Route::Pooled(Pooled::Models),
        ["v1", "complete"] => Route::Pooled(Pooled::Complete),
        ["v1", "oauth", "token"] => Route::OauthToken,
        _ => Route::Other,
    }
}

/// Path and query of a target.
pub(crate) fn split(target: &str) -> (&str, &str) {
    target.split_once('?').unwrap_or((target, ""))
}

/// Percent-decodes once; what is no escape stays, and what has none is lent.
pub(crate) fn decode(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(|byte| byte == b'%') {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = match (byte, tail) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        bytes.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    let decoded = String::from_utf8(bytes);
    decoded
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
        .into()
}

impl Local {
    /// Whether the route needs the key from everybody, loopback included (P1). That a path or method is wrong is no secret.
    pub(crate) fn needs_key(&self) -> bool {
        match self {
            Local::Root | Local::Health | Local::Unknown | Local::WrongMethod { .. } => false,
            Local::Status
            | Local::Metrics(_)
            | Local::Reload
            | Local::Routing
            | Local::Account { .. }
            | Local::Explain { .. } => true,
        }
    }
}

/// Ours is what some server on the way could read as `/maxpool`: with slashes before it or parameters after it too.
fn is_local(segments: &[&str]) -> bool {
    let first = segments.iter().find(|segment| !segment.is_empty());
    first.is_some_and(|first| first.split(';').next() == Some("maxpool"))
}

fn local(method: &str, segments: &[&str], query: &str) -> Local {
    let (route, allow) = match segments {
        ["maxpool", "status"] => (Local::Status, "GET, HEAD"),
        ["maxpool", "health"] => (Local::Health, "GET, HEAD"),
        ["maxpool", "metrics"] => (Local::Metrics(names(query)), "GET, HEAD"),
        ["maxpool", "explain"] => (explain(query), "GET, HEAD"),
        ["maxpool", "reload"] => (Local::Reload, "POST"),
        ["maxpool", "routing"] => (Local::Routing, "POST"),
        ["maxpool", "accounts", name, "enable"] => (account(name, Switch::Enable), "POST"),
        ["maxpool", "accounts", name, "disable"] => (account(name, Switch::Disable), "POST"),
        _ => return Local::Unknown,
    };
    if allow.split(", ").any(|allowed| allowed == method) {
        route
    } else {
        Local::WrongMethod { allow }
    }
}

fn account(name: &str, to: Switch) -> Local {
    Local::Account {
        name: name.to_owned(),
        to,
    }
}

fn names(query: &str) -> Names {
    match parameter(query, "names").as_deref() {
        Some("1") => Names::Shown,
        _ => Names::Hidden,
    }
}

fn explain(query: &str) -> Local {
    Local::Explain {
        model: parameter(query, "model"),
        session: parameter(query, "session"),
        profile: parameter(query, "profile"),
    }
}

/// The first value of a query parameter that is not empty.
fn parameter(query: &str, name: &str) -> Option<String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let mut values = pairs.filter(|(key, value)| decode(key) == name && !value.is_empty());
    values
        .next()
        .map(|(_, value)| decode(&value.replace('+', " ")).into_owned())
}

fn hex(digit: u8) -> Option<u8> {
    let value = char::from(digit).to_digit(16)?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes() {
        let account = |name: &str, to| {
            Route::Local(Local::Account {
                name: name.into(),
                to,
            })
        };
        let get = "GET, HEAD";
        #[rustfmt::skip] // one row a line
        let rows: Vec<(&str, &str, &str, Route)> = vec![
            ("P1", "GET", "/", Route::Local(Local::Root)),
            ("P1", "HEAD", "/?x=1", Route::Local(Local::Root)),
            ("P1 only GET and HEAD", "POST", "/", Route::Other),
            ("P1", "GET", "/maxpool/status", Route::Local(Local::Status)),
            ("P1", "HEAD", "/maxpool/status?a", Route::Local(Local::Status)),
            ("P1", "GET", "/maxpool/health", Route::Local(Local::Health)),
            ("P1", "GET", "/maxpool/metrics", Route::Local(Local::Metrics(Names::Hidden))),
            ("P1", "GET", "/maxpool/metrics?names=1", Route::Local(Local::Metrics(Names::Shown))),
            ("P1", "GET", "/maxpool/metrics?names=0", Route::Local(Local::Metrics(Names::Hidden))),
            ("P1", "POST", "/maxpool/reload", Route::Local(Local::Reload)),
            ("P1", "POST", "/maxpool/routing", Route::Local(Local::Routing)),
            ("P1", "POST", "/maxpool/accounts/me%40x.org/enable", account("me@x.org", Switch::Enable)),
            ("P1", "POST", "/maxpool/accounts/a%2Fb%20c/disable", account("a/b c", Switch::Disable)),
            ("S12", "GET", "/maxpool/explain?model=claude%2Dopus&session=a+b&profile=", Route::Local(Local::Explain { model: Some("claude-opus".into()), session: Some("a b".into()), profile: None })),
            ("P1 405", "POST", "/maxpool/status", Route::Local(Local::WrongMethod { allow: get })),
            ("P1 405", "GET", "/maxpool/reload", Route::Local(Local::WrongMethod { allow: "POST" })),
            ("P1 405", "GET", "/maxpool/accounts/a/enable", Route::Local(Local::WrongMethod { allow: "POST" })),
            ("P1 404", "GET", "/maxpool", Route::Local(Local::Unknown)),
            ("P1 404", "GET", "/maxpool/", Route::Local(Local::Unknown)),
            ("P1 404", "GET", "/maxpool/status/", Route::Local(Local::Unknown)),
            ("P1 404", "GET", "/maxpool/accounts//x/enable", Route::Local(Local::Unknown)),
            ("P1 never forwarded", "GET", "//maxpool/status", Route::Local(Local::Unknown)),
            ("P1 never forwarded", "GET", "/maxpool;a=b/status", Route::Local(Local::Unknown)),
            ("P1 never forwarded", "GET", "/%6daxpool/health", Route::Local(Local::Health)),
            ("P1 another word", "GET", "/maxpools", Route::Other),
            ("P3", "POST", "/v1/messages?beta=true", Route::Pooled(Pooled::Messages)),
            ("P3", "POST", "/v1/messages/count_tokens?beta=true", Route::Pooled(Pooled::CountTokens)),
            ("P3", "GET", "/v1/models", Route::Pooled(Pooled::Models)),
            ("P3", "GET", "/v1/models/claude-opus-4?limit=1", Route::Pooled(Pooled::Models)),
            ("P3", "POST", "/v1/complete", Route::Pooled(Pooled::Complete)),
            ("P3 batches", "POST", "/v1/messages/batches", Route::Batches { id: None }),
            ("P3 batches", "GET", "/v1/messages/batches?limit=2", Route::Batches { id: None }),
            ("P3 batches", "GET", "/v1/messages/batches/msgbatch_1/results", Route::Batches { id: Some("msgbatch_1".into()) }),
            ("P3 other", "GET", "/v1/files", Route::Other),
            ("P3 other", "POST", "/v1/messages/other", Route::Other),
            ("P3 other", "POST", "/api/event_logging/batch", Route::Other),
            ("P3 other", "GET", "/v1/modelsx", Route::Other),
            ("T5", "POST", "/v1/oauth/token", Route::OauthToken),
            ("T5 in any spelling", "POST", "/v1/oauth/%74oken", Route::OauthToken),
        ];
        for (rule, method, target, expected) in rows {
            assert_eq!(route(method, target), expected, "{rule} {method} {target}");
        }
    }

    #[test]
    fn decoding() {
        #[rustfmt::skip] // one row a line
        let rows = [
            ("a%2fb", "a/b"),
            ("%", "%"),
            ("%4", "%4"),
            ("%zz%41", "%zzA"),
            ("%+1", "%+1"),
            ("%e4%bd%a0", "你"),
            ("%ff", "\u{fffd}"),
        ];
        for (text, expected) in rows {
            assert_eq!(decode(text), expected, "{text}");
        }
    }
}
