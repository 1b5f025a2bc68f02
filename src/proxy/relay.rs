//! Requests that are the client's own affair (SPEC P3, T5): relayed to `upstream` with what the
//! client brought, never with a pooled credential, never retried, never judged.

use std::borrow::Cow;

use ureq::http::Uri;

use super::classify::{ERROR_BYTES_MAX, kind_of};
use super::ended::{Ended, answer};
use super::forward::{self, Answer, Connection, Failure, Order, Unanswered};
use super::reply::{self, Reply};
use super::request::ClientRequest;
use super::stream::Uncommitted;
use crate::config::Secret;
use crate::config::masking::Masked;
use crate::event::{Outcome, Stage};
use crate::http::headers::{self, Auth, Beta};
use crate::http::sse::{self, Form};
use crate::server::paths::Route;

/// Whether `request` is to be relayed instead of pooled.
pub(super) fn is_own(request: &ClientRequest) -> bool {
    match &request.route {
        Route::OauthToken => true,
        Route::Other | Route::Batches { .. } => headers::has_own_credential(&request.headers),
        Route::Pooled(_) | Route::Local(_) => false,
    }
}

/// Relays the request as it is.
pub(super) fn run(request: &ClientRequest, out: Uncommitted) -> Ended {
    let Ok(uri) = Uri::try_from(format!("{}{}", request.config.upstream.as_str(), request.target))
    else {
        return answer(out, &reply::bad_target());
    };
    let key = request.config.proxy.api_key.as_ref().map_or(&b""[..], |key| key.expose().as_bytes());
    let (auth, connection) = match request.route {
        // A refresh token is single-use: it must not be sent twice over a connection that dies.
        Route::OauthToken => (Auth::Untouched { proxy_key: key }, Connection::Fresh),
        _ => (Auth::Own, Connection::Pooled),
    };
    remember_credentials(request);
    let headers = headers::upstream(&request.headers, auth, Beta::AsSent);
    let parts = [Cow::Borrowed(request.body.as_slice())];
    let order = Order {
        method: &request.method,
        uri: &uri,
        headers: &headers,
        body: request.has_body.then_some(parts.as_slice()),
    };
    request.tracked.stage(Stage::Connecting);
    request.record.borrow_mut().attempts += 1;
    let upstream =
        match forward::send(&request.context.agent(), &order, &request.client_wait, connection) {
            Ok(answer) => answer,
            Err(Unanswered::Failed(Failure::Stopped(_))) => {
                return Ended::client_gone(Stage::Waiting, None);
            }
            Err(Unanswered::Failed(Failure::Network(failure))) => {
                return answer(out, &reply::network(failure.code.word(), &failure.text));
            }
            Err(Unanswered::NobodysFault(text)) => {
                return answer(out, &reply::nobodys_fault(&text));
            }
        };
    request.tracked.stage(Stage::Streaming);
    let has_body = &*request.method != "HEAD";
    if upstream.status >= 400 && has_body && !matches!(request.route, Route::OauthToken) {
        return refused(request, upstream, out);
    }
    pass_on(request, upstream, out)
}

/// Gives the answer to the client as it comes.
fn pass_on(request: &ClientRequest, mut upstream: Answer, out: Uncommitted) -> Ended {
    let status = Some(upstream.status);
    let header = |name| upstream.headers.text(name);
    let is_stream = Form::of(header("content-type"), header("content-encoding")) == Form::Events;
    let headers = headers::downstream(&upstream.headers);
    let Ok(mut committed) = out.open(upstream.status, headers, upstream.body) else {
        return Ended::client_gone(Stage::Streaming, None);
    };
    if is_stream {
        committed.guard_errors();
    }
    loop {
        match upstream.read(&request.client_wait, |bytes| (bytes.is_empty(), committed.push(bytes)))
        {
            Ok((_, Err(_))) | Err(Failure::Stopped(_)) => {
                return Ended::client_gone(Stage::Streaming, status);
            }
            Ok((true, Ok(()))) => break,
            Ok((false, Ok(()))) => {}
            Err(Failure::Network(failure)) => {
                committed.broken(None);
                let cause = Some(format!("the answer broke off: {}", failure.text));
                return Ended { status, outcome: Outcome::Broken, cause };
            }
        }
    }
    request.record.borrow_mut().first_byte = committed.line().first_byte();
    match committed.finish() {
        Ok(()) => Ended { status, outcome: Outcome::Local, cause: None },
        Err(_) => Ended::client_gone(Stage::Streaming, status),
    }
}

/// Makes the client's own credentials known, so that nothing shows them (SPEC D4).
fn remember_credentials(request: &ClientRequest) {
    let keys = request.headers.iter().filter(|(name, _)| headers::is_key_header(name));
    let keys = keys.filter_map(|(_, value)| std::str::from_utf8(headers::bare_key(value)).ok());
    // What looks like no key may be a placeholder, and a word of every text.
    for key in keys.filter(|key| key.starts_with("sk-ant-")) {
        drop(Secret::of_a_client(key));
    }
}

/// An error is given to the client without any credential; one that nobody can look into, in our
/// words.
fn refused(request: &ClientRequest, mut upstream: Answer, out: Uncommitted) -> Ended {
    let mut body = Vec::new();
    loop {
        let read = upstream.read(&request.client_wait, |bytes| {
            body.extend_from_slice(bytes);
            bytes.len()
        });
        match read {
            Ok(0) => break,
            Ok(_) if body.len() <= ERROR_BYTES_MAX => {}
            Ok(_) => return answer(out, &in_our_words(upstream.status)),
            Err(Failure::Stopped(_)) => return Ended::client_gone(Stage::Waiting, None),
            Err(Failure::Network(failure)) => {
                return answer(out, &reply::network(failure.code.word(), &failure.text));
            }
        }
    }
    if sse::is_encoded(upstream.headers.text("content-encoding")) {
        return answer(out, &in_our_words(upstream.status));
    }
    let status = upstream.status;
    match out.whole(status, headers::downstream(&upstream.headers), &Masked::bytes(body)) {
        Ok(()) => Ended { status: Some(status), outcome: Outcome::Local, cause: None },
        Err(_) => Ended::client_gone(Stage::Streaming, Some(status)),
    }
}

/// An error whose body cannot be passed on.
fn in_our_words(status: u16) -> Reply {
    Reply::new(status, kind_of(status), format!("the upstream answered with status {status}"))
}
