//! Implements [`Http`] over the program's own connections: one complete call, bounded in time and
//! size.

use std::io::Read as _;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ureq::http::Request;
use ureq::{Agent, SendBody};

use super::http::{Http, HttpCall, HttpFailure, HttpPhase, HttpReply};
use crate::error::reason;
use crate::net::wait::{self, Deadline, Waiter};

/// Performs calls over `agent`, each on a new connection, so that a single-use token is never lost
/// to a dead one.
pub(crate) fn http(agent: Agent) -> Arc<Http> {
    Arc::new(move |call| perform(&agent, call))
}

/// The same, with the agent that is current at the time of the call.
pub(crate) fn http_by(agent: impl Fn() -> Agent + Send + Sync + 'static) -> Arc<Http> {
    Arc::new(move |call| perform(&agent(), call))
}

fn perform(agent: &Agent, call: HttpCall) -> Result<HttpReply, HttpFailure> {
    let waiter = Rc::new(Deadline::after(call.timeout));
    let _entered = wait::enter(Rc::clone(&waiter) as Rc<dyn Waiter>);
    let failure = |cause: String| {
        let phase = if waiter.wire().sent.get() > 0 {
            HttpPhase::MayHaveArrived
        } else {
            HttpPhase::Connect
        };
        HttpFailure { phase, cause }
    };
    let mut request = Request::builder().method(call.method).uri(&call.url);
    for (name, value) in &call.headers {
        request = request.header(*name, value);
    }
    let response = match call.body.as_deref() {
        Some(mut bytes) => {
            request = request.header("content-length", bytes.len());
            let request = request
                .body(SendBody::from_reader(&mut bytes))
                .map_err(|error| failure(error.to_string()))?;
            agent.run(agent.configure_request(request).max_idle_age(Duration::ZERO).build())
        }
        None => {
            let request =
                request.body(SendBody::none()).map_err(|error| failure(error.to_string()))?;
            agent.run(agent.configure_request(request).max_idle_age(Duration::ZERO).build())
        }
    };
    let response = response.map_err(|error| failure(cause_of(&error)))?;
    let (parts, body) = response.into_parts();
    let mut reply = HttpReply {
        status: parts.status.as_u16(),
        headers: parts
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
            .collect(),
        body: Vec::new(),
        cut: None,
    };
    let limit = call.reply_bytes_max as u64;
    let read = body.into_reader().take(limit.saturating_add(1)).read_to_end(&mut reply.body);
    reply.cut = match read {
        Err(error) => Some(error.to_string()),
        Ok(_) if reply.body.len() > call.reply_bytes_max => {
            Some(format!("the answer is longer than {limit} bytes"))
        }
        Ok(_) => None,
    };
    Ok(reply)
}

fn cause_of(error: &ureq::Error) -> String {
    match (wait::Stop::of(error), error) {
        (Some(stop), _) => stop.to_string(),
        (None, ureq::Error::Io(error)) => reason(error),
        (None, error) => error.to_string(),
    }
}
