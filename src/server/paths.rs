//! What a target refers to: a local route, a pooled path, or something that is relayed (P1, P3).

use std::borrow::Cow;

use super::target::{decode, decode_fully, split};

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// Answered here, never forwarded.
    Local(Local),
    /// A pooled path.
    Pooled(Pooled),
    /// A message batch: relayed like [`Route::Other`], but a batch id always goes to the account
    /// that created it.
    Batches {
        /// The batch's id; absent for create and list.
        id: Option<String>,
    },
    /// The client's own token request (T5): never with a pooled credential.
    OauthToken,
    /// Anything else: with the client's own credential if it sent one, else by S7.
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
    /// `GET /`, `HEAD /`, `HEAD /api/hello`.
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
    /// `POST /maxpool/accounts/<name>/{enable,disable,retry}`.
    Account {
        /// Percent-decoded.
        name: String,
        /// The change.
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
    /// `retry`.
    Retry,
    /// `refresh`: its token is refreshed if it has expired.
    Refresh,
}

/// Classifies a target that [`super::door`] has accepted.
///
/// Paths are compared in their normal form, so that no spelling sends a control path or a token
/// request upstream with a pooled credential. Our own routes must be spelled exactly: an account
/// name in them may contain a slash.
pub(crate) fn route(method: &str, target: &str) -> Route {
    let (path, query) = split(target);
    // Nearly every request, and nothing needs to be decoded.
    if path == "/v1/messages" {
        return Route::Pooled(Pooled::Messages);
    }
    let decoded = decode_fully(path);
    let segments = plain_segments(&decoded);
    match segments.as_slice() {
        [] if matches!(method, "GET" | "HEAD") => Route::Local(Local::Root),
        ["api", "hello"] if method == "HEAD" => Route::Local(Local::Root),
        [first, ..] if first.eq_ignore_ascii_case("maxpool") => {
            let spelled: Vec<Cow<'_, str>> = path.split('/').skip(1).map(decode).collect();
            let spelled: Vec<&str> = spelled.iter().map(AsRef::as_ref).collect();
            Route::Local(local(method, &spelled, query))
        }
        [v1, oauth, token]
            if v1.eq_ignore_ascii_case("v1")
                && oauth.eq_ignore_ascii_case("oauth")
                && token.eq_ignore_ascii_case("token") =>
        {
            Route::OauthToken
        }
        ["v1", "messages"] => Route::Pooled(Pooled::Messages),
        ["v1", "messages", "count_tokens"] => Route::Pooled(Pooled::CountTokens),
        ["v1", "messages", "batches", rest @ ..] => {
            Route::Batches { id: rest.first().map(|id| (*id).to_owned()) }
        }
        ["v1", "models", ..] => Route::Pooled(Pooled::Models),
        ["v1", "complete"] => Route::Pooled(Pooled::Complete),
        _ => Route::Other,
    }
}

/// The segments as the most lenient server reads them: repeated slashes joined, without parameters,
/// surrounding whitespace, or what follows an encoded question mark.
fn plain_segments(decoded: &str) -> Vec<&str> {
    let path = decoded.split(['?', '#']).next().unwrap_or_default();
    path.split('/')
        .filter_map(|segment| segment.split(';').next())
        .map(str::trim)
        .filter(|segment| !segment.is_empty())
        .collect()
}

impl Route {
    /// Whether the proxy reads the body (P4).
    pub(crate) fn has_body_to_read(&self) -> bool {
        matches!(self, Route::Pooled(Pooled::Messages | Pooled::CountTokens | Pooled::Complete))
    }
}

impl Local {
    /// Whether the route always needs the key, from loopback too (P1). A wrong path or method may
    /// be told without it.
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
        ["maxpool", "accounts", name, "retry"] => (account(name, Switch::Retry), "POST"),
        ["maxpool", "accounts", name, "refresh"] => (account(name, Switch::Refresh), "POST"),
        _ => return Local::Unknown,
    };
    if allow.split(", ").any(|allowed| allowed == method) {
        route
    } else {
        Local::WrongMethod { allow }
    }
}

fn account(name: &str, to: Switch) -> Local {
    Local::Account { name: name.to_owned(), to }
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

/// The first non-empty value of a query parameter.
fn parameter(query: &str, name: &str) -> Option<String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let mut values = pairs.filter(|(key, value)| decode(key) == name && !value.is_empty());
    values.next().map(|(_, value)| decode(&value.replace('+', " ")).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes() {
        let account = |name: &str, to| Route::Local(Local::Account { name: name.into(), to });
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
            ("P1", "POST", "/maxpool/accounts/a/retry", Route::Local(Local::Account { name: "a".into(), to: Switch::Retry })),
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
            ("P3 plain form", "POST", "//v1/messages/?beta=true", Route::Pooled(Pooled::Messages)),
            ("P3 plain form", "POST", "/v1%2fmessages;x", Route::Pooled(Pooled::Messages)),
            ("P3 plain form", "GET", "/v1/messages/batches//msgbatch_1", Route::Batches { id: Some("msgbatch_1".into()) }),
            ("P3 another word", "POST", "/v1/messages%20x", Route::Other),
            ("P1 plain form", "GET", "//;x", Route::Local(Local::Root)),
        ];
        for (rule, method, target, expected) in rows {
            assert_eq!(route(method, target), expected, "{rule} {method} {target}");
        }
    }

    /// Spellings that some server would read as this path.
    fn spellings(path: &str) -> Vec<String> {
        let encoded: String = path
            .bytes()
            .map(|byte| match byte {
                b'/' => "/".to_owned(),
                byte => format!("%{byte:02X}"),
            })
            .collect();
        vec![
            path.to_owned(),
            format!("/{path}"),
            format!("///{path}"),
            path.replace('/', "//"),
            format!("{path}/"),
            format!("{path}//"),
            format!("{path};x"),
            format!("{path};a=b/"),
            format!("{path}%3bx"),
            format!("{path}%20"),
            format!("{path}%3Fx"),
            format!("{path}?a=/../b"),
            format!("{path}%23"),
            path.replacen('/', "/;/", 2),
            path.replace('/', ";x/").replacen(";x/", "/", 1),
            path.replace('/', "%2f").replacen("%2f", "/", 1),
            path.replace('/', "%252F").replacen("%252F", "/", 1),
            path.replace('/', "%25252F").replacen("%25252F", "/", 1),
            encoded.replace('%', "%25"),
            encoded,
            path.to_uppercase(),
        ]
    }

    #[test]
    fn p2_no_spelling_of_a_reserved_or_relayed_path_is_pooled() {
        for target in spellings("/v1/oauth/token") {
            assert_eq!(route("POST", &target), Route::OauthToken, "T5 {target}");
        }
        for path in ["/maxpool", "/maxpool/status", "/maxpool/accounts/a/enable"] {
            for target in spellings(path) {
                let route = route("GET", &target);
                assert!(matches!(route, Route::Local(_)), "P1 {target}: {route:?}");
            }
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
