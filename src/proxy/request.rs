//! One request and what becomes of it: what was received, and the facts for its one line in the
//! log.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::client_wait::ClientWait;
use super::context::Context;
use super::ended::Ended;
use crate::account::limits::headers::family_or_id;
use crate::account::sync::Brought;
use crate::clock::Stopwatch;
use crate::config::{CLIENT_TIMEOUT_MS, Config, SessionAffinity};
use crate::event::{Event, Finished, Tracked};
use crate::http::digest::digest;
use crate::http::headers::{ClientOptions, Headers};
use crate::http::ids;
use crate::http::peek::{Peek, session_key, session_tag};
use crate::report::capture::Trace;
use crate::scheduler::time::Mono;
use crate::scheduler::{
    AccountId, Kin, Kind, Request, RouteClass, SessionKey, Shape, ThreadKey, Usage,
};
use crate::server::paths::{Pooled, Route};

/// Of what a client declares about its own time limit this share is used (SPEC Q6).
const DECLARED_TOLERANCE_SHARE: f64 = 0.95;
/// The profile of a request that names none (SPEC S8).
const PROFILE_DEFAULT: &str = "claude";

/// A request that goes upstream.
pub(crate) struct ClientRequest {
    /// What all requests share.
    pub(crate) context: Arc<Context>,
    /// The settings when it came.
    pub(crate) config: Arc<Config>,
    /// `POST`.
    pub(crate) method: Arc<str>,
    /// Path and query as received.
    pub(crate) target: String,
    /// The path without its query.
    pub(crate) path: Arc<str>,
    /// The client's headers.
    pub(crate) headers: Headers,
    /// The body, byte for byte.
    pub(crate) body: Vec<u8>,
    /// Whether there was a body at all.
    pub(crate) has_body: bool,
    /// What the body says.
    pub(crate) peek: Peek,
    /// What the headers ask of us.
    pub(crate) options: ClientOptions,
    /// Where it goes.
    pub(crate) route: Route,
    /// When its head was read.
    pub(crate) arrived: Mono,
    /// Runs since then.
    pub(crate) watch: Stopwatch,
    /// Its line in the table of requests in flight.
    pub(crate) tracked: Rc<Tracked>,
    /// Its one wait.
    pub(crate) client_wait: Rc<ClientWait>,
    /// The facts of its end.
    pub(crate) record: RefCell<Record>,
    /// What `--log-to` keeps of it.
    pub(crate) trace: RefCell<Trace>,
    /// Its names for people, made once.
    pub(crate) names: OnceCell<Names>,
}

/// A request's session and model as they are shown to people.
#[derive(Clone, Default)]
pub(crate) struct Names {
    /// A short tag of the session.
    pub(crate) session: Option<Arc<str>>,
    /// The model that was asked for.
    pub(crate) model: Option<Arc<str>>,
}

/// What is known of a request's course when it ends.
#[derive(Default)]
pub(crate) struct Record {
    /// Who served it, or was the last to try.
    pub(crate) account: Option<(Arc<str>, Kind)>,
    /// Calls upstream.
    pub(crate) attempts: u32,
    /// All its waits together.
    pub(crate) queued: Duration,
    /// From the request's last byte to the answer's first.
    pub(crate) first_byte: Option<Duration>,
    /// Tokens, if the answer told.
    pub(crate) tokens: Option<Usage>,
    /// The accounts that were refreshed for it, each at most once (SPEC T2).
    pub(crate) refreshed: Vec<AccountId>,
    /// The accounts that its own headers describe (V1), until it is certain where it is served.
    pub(crate) brought: Vec<Brought>,
}

/// The time that a client gives a request, if it is what `maxpool env` exports, which raises the
/// client's limit on silent streams to the same (SPEC Q6). The exports cannot declare it by a
/// header without overwriting the user's own headers, but the client tells its request's limit in
/// seconds (Claude Code 2.1.330).
fn limit_of_env(timeout: Option<&str>, config: &Config) -> Option<Duration> {
    let timeout: u64 = timeout?.parse().ok()?;
    let exported = config.raised_limit(CLIENT_TIMEOUT_MS);
    // What nobody has raised tells nothing.
    let raised = exported > CLIENT_TIMEOUT_MS && timeout == exported / 1000;
    raised.then_some(Duration::from_secs(timeout))
}

impl ClientRequest {
    /// Whether the client expects an event stream, so that heartbeats can be sent.
    pub(crate) fn wants_stream(&self) -> bool {
        self.shape() == Shape::Stream
    }

    fn shape(&self) -> Shape {
        match &self.route {
            Route::Pooled(Pooled::CountTokens) => Shape::CountTokens,
            Route::Pooled(Pooled::Messages | Pooled::Complete) if self.peek.stream => Shape::Stream,
            _ => Shape::NonStream,
        }
    }

    /// P3: the account to which an id in the path or in the body belongs. Once that account is
    /// removed any other may try.
    fn owner(&self) -> Option<AccountId> {
        let in_path = || {
            let segments = self.path.split('/').filter(|segment| !segment.is_empty());
            segments.filter_map(|segment| self.context.owner_of_batch(segment)).next()
        };
        let in_body = || {
            let ids = ids::named(&self.body);
            ids.iter().find_map(|id| self.context.owner_of_batch(id))
        };
        let owner = match &self.route {
            Route::Batches { id: Some(id) } => self.context.owner_of_batch(id),
            Route::Pooled(_) => in_body(),
            Route::Batches { id: None } | Route::Other => in_path().or_else(in_body),
            Route::OauthToken | Route::Local(_) => None,
        };
        owner.filter(|id| self.context.accounts.get(*id).is_some())
    }

    /// P3.
    pub(crate) fn class(&self) -> RouteClass {
        match &self.route {
            Route::Pooled(Pooled::Messages | Pooled::Complete) => RouteClass::Messages,
            Route::Pooled(Pooled::CountTokens) => RouteClass::CountTokens,
            Route::Pooled(Pooled::Models) => RouteClass::Models,
            Route::Batches { .. } | Route::OauthToken | Route::Other | Route::Local(_) => {
                RouteClass::Rest
            }
        }
    }

    /// P7: another session or another first message makes a request unrelated. Without messages the
    /// call itself stands for them.
    fn kin(&self) -> Kin {
        let session = session_key(&self.options, &self.peek).unwrap_or_default();
        let first = match self.peek.first_message {
            Some(first) => first,
            None => digest(&[self.method.as_bytes(), self.path.as_bytes(), &self.body]),
        };
        Kin(session ^ first.rotate_left(1))
    }

    /// The request as the scheduler sees it.
    pub(crate) fn demand(&self) -> Request {
        let queue = &self.config.queue;
        let shape = self.shape();
        let session = self.session();
        let mut demand = Request::new(self.context.next_request(), self.arrived);
        demand.profile = Arc::from(self.options.profile.as_deref().unwrap_or(PROFILE_DEFAULT));
        demand.weight = self.peek.weight(self.body.len());
        demand.class = self.class();
        demand.kin = self.kin();
        demand.model.clone_from(&self.names().model);
        demand.family = self.peek.model.as_deref().map(family_or_id);
        demand.session = session;
        demand.signed_thinking = self.peek.signed_thinking || self.is_unread();
        demand.thread = self.peek.thread.as_ref().filter(|thread| thread.continues).map(|thread| {
            ThreadKey(digest(&[thread.id.as_deref().unwrap_or_default().as_bytes()]))
        });
        demand.pinned = self.owner();
        demand.brought = self.record.borrow().brought.iter().map(Brought::id).collect();
        demand.shape = shape;
        demand.body_bytes = self.body.len() as u64;
        demand.holdable = demand.body_bytes <= self.config.policy.max_queued_body_bytes;
        demand.tolerance = match shape {
            Shape::Stream => {
                let timeout = self.headers.text("x-stainless-timeout");
                let raised = || limit_of_env(timeout, &self.config);
                Some(match self.options.stream_idle.or_else(raised) {
                    Some(declared) => declared.mul_f64(DECLARED_TOLERANCE_SHARE),
                    None => queue.stream_client_tolerance,
                })
            }
            Shape::NonStream | Shape::Fallback | Shape::CountTokens => None,
        };
        demand.resume = session
            .map(|SessionKey(session)| session ^ digest(&[self.conversation()]).rotate_left(1));
        demand
    }

    /// The part of the body by which a request that comes back is known (SPEC Q6): what Claude Code
    /// sends without streaming after its streams differs in `stream` and `max_tokens`.
    fn conversation(&self) -> &[u8] {
        let messages = self.peek.messages.clone();
        messages.and_then(|span| self.body.get(span)).unwrap_or(&self.body)
    }

    /// The body is no whole JSON object, so it may hold what was not found in it: signed thinking,
    /// too (SPEC P9).
    pub(crate) fn is_unread(&self) -> bool {
        self.route.has_body_to_read() && !self.peek.whole && !self.body.is_empty()
    }

    /// The session's key (SPEC S9); the same text gives the same key, and kinds of keys do not mix.
    pub(crate) fn session(&self) -> Option<SessionKey> {
        let key = match self.config.scheduler.session_affinity {
            SessionAffinity::Off => None,
            SessionAffinity::Auto => session_key(&self.options, &self.peek),
            SessionAffinity::Header => self
                .options
                .session
                .is_some()
                .then(|| session_key(&self.options, &self.peek))
                .flatten(),
        };
        key.map(SessionKey)
    }

    /// What it is called before people.
    pub(crate) fn names(&self) -> &Names {
        self.names.get_or_init(|| Names {
            session: self.session().map(|SessionKey(key)| Arc::from(session_tag(key))),
            model: self.peek.model.as_deref().map(Arc::from),
        })
    }

    /// A short tag of the session for people.
    pub(crate) fn session_tag(&self) -> Option<Arc<str>> {
        self.names().session.clone()
    }

    /// The key of the thread that an answer belongs to (SPEC P10).
    pub(crate) fn thread_named(&self, in_answer: Option<&str>) -> Option<ThreadKey> {
        let thread = self.peek.thread.as_ref()?;
        let id = in_answer.or(thread.id.as_deref())?;
        Some(ThreadKey(digest(&[id.as_bytes()])))
    }

    /// Emits the request's one line.
    pub(crate) fn finish(self, ended: Ended) {
        let ended = ended.or_cut(&self.context);
        let record = self.record.take();
        let total = self.watch.elapsed();
        {
            let mut trace = self.trace.borrow_mut();
            if let Some(cause) = &ended.cause {
                trace.error(cause);
            }
            trace.end(ended.status, total);
        }
        let names = self.names().clone();
        self.context.tell(Event::Finished(Box::new(Finished {
            method: Arc::clone(&self.method),
            path: Arc::clone(&self.path),
            account: record.account,
            status: ended.status,
            outcome: ended.outcome,
            cause: ended.cause,
            queued: record.queued,
            first_byte: record.first_byte,
            total,
            tokens: record.tokens,
            session: names.session,
            model: names.model,
            attempts: record.attempts,
        })));
    }
}

/// The scheduler's word for token counts that were read from an answer.
pub(crate) fn usage_of(usage: crate::http::answer_json::Usage) -> Usage {
    Usage {
        input: usage.input,
        output: usage.output,
        cache_read: usage.cache_read,
        cache_write: usage.cache_write,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q6_limits_that_env_has_raised() {
        let seconds = Duration::from_secs;
        for (timeout, wait_max, expected) in [
            (None, seconds(86_400), None),
            (Some("600"), seconds(86_400), None),
            (Some("3000"), seconds(86_400), None),
            (Some("86400"), seconds(86_400), Some(seconds(86_400))),
            (Some("90000"), seconds(86_400), None),
            (Some("3000"), seconds(1800), None),
            (Some("700"), Duration::from_millis(700_500), Some(seconds(700))),
            (Some("2147483"), seconds(100 * 86_400), Some(seconds(2_147_483))),
            // It may be the client's own as well.
            (Some("600"), seconds(500), None),
            (Some("600"), seconds(600), None),
            (Some("-1"), seconds(0), None),
            (Some("1e9"), seconds(0), None),
            (Some("99999999999999999999"), seconds(0), None),
        ] {
            let mut config = Config::default();
            config.policy.max_wait = wait_max;
            assert_eq!(limit_of_env(timeout, &config), expected, "{timeout:?} {wait_max:?}");
        }
    }
}
