//! Requests that are the client's own affair (SPEC P3, T5): relayed to `upstream` with what the
//! client brought, never with a pooled credential, never retried, never judged.

use std::borrow::Cow;

use ureq::http::Uri;

use super::ended::{Ended, answer};
use super::forward::{self, Connection, Failure, Order, Unanswered};
use super::reply;
use super::request::ClientRequest;
use super::stream::Uncommitted;
use crate::event::{Outcome, Stage};
use crate::http::headers::{self, Auth, Beta};
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
    let mut upstream =
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
    let status = Some(upstream.status);
    let headers = headers::downstream(&upstream.headers);
    let Ok(mut committed) = out.open(upstream.status, headers, upstream.body) else {
        return Ended::client_gone(Stage::Streaming, None);
    };
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
                let cause = Some(format!("the answer broke: {}", failure.text));
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
