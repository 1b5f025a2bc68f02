//! The life of a request: receive → admit (wait, heartbeats) → forward → stream → settle.
//!
//! ```text
//!            ┌──────────────── next account ─────────────────┐
//!            ▼                                               │
//! receive ─ admit ──granted──▶ attempt ──curable, uncommitted┘
//!            │  ▲                 │
//!     queued │  │ verdict         ├── delivered ─────────────▶ settle
//!            ▼  │                 └── the client has left ───▶ settle
//!           wait ── gave up ──▶ our answer, or the upstream's own last one ──▶ settle
//! ```
//!
//! The idea: a request is one call on the thread that has read it, from its head to its line in the
//! log, and every wait in between goes through [`ClientWait`], which watches the client. So the
//! states above are places in this file instead of values that must be kept consistent, and a
//! client that disconnects ends whatever is in progress at that place. The alternative, a state
//! machine that any thread may drive, would save the stacks of waiting requests. But it would have
//! to store the lease, the client's socket and the upstream's answer between two steps, and that is
//! where proxies lose them.
//!
//! Invariants:
//!
//! - A retry takes the uncommitted writer by value ([`Uncommitted`]), so there is none after the
//!   first byte. Opening the answer earlier would take the other accounts' chance away.
//! - A lease ends in exactly one outcome. Dropping its guard ends it as abandoned, so an early
//!   return frees the account; a guard kept in a struct that outlives the attempt would not.
//! - A failed account is excluded for this request only. Only a wait in the queue lifts that: time
//!   has passed, and an account is chosen anew.
//! - Our own answer is the last resort, after the upstream's own words ([`failed`]), and the log
//!   gets exactly one line in every case.

use std::rc::Rc;
use std::sync::Arc;

use super::attempt;
use super::client_wait::{ClientWait, Heartbeats, Limits};
use super::context::Context;
use super::course::Attempted;
use super::ended::{Ended, Line, answer};
use super::failed::{self, Failed};
use super::header_accounts;
use super::no_account;
use super::relay;
use super::reply::{self, Reply};
use super::request::{ClientRequest, Record};
use super::stream::{ClientForm, Uncommitted};
use crate::clock::{self, Stopwatch};
use crate::config::Config;
use crate::event::{Event, Held, Outcome, RequestMeta, Stage, Tracked};
use crate::gate::{Admitted, Granted, LeaseGuard, Verdict, Waiting};
use crate::http::headers;
use crate::http::peek::{self, BODY_BYTES_MAX, Peek};
use crate::scheduler::time::Now;
use crate::scheduler::{Limit, Refusal, RefusalReason, Ticket};
use crate::server::door::{Door, Entry, Framing};
use crate::server::paths::{Local, Route};
use crate::server::{DoorRefusal, Inbound, RequestHead};

/// A call of a local route, which `control` answers; it is not part of a request's life.
pub(crate) struct LocalCall {
    /// The settings when it arrived.
    pub(crate) config: Arc<Config>,
    /// Its request line.
    pub(crate) line: Line,
    /// The route.
    pub(crate) route: Local,
    /// The body, if there is one.
    pub(crate) body: Vec<u8>,
    /// The writer to the client.
    pub(crate) out: Uncommitted,
    /// Running since its head was read.
    pub(crate) watch: Stopwatch,
    /// Its entry in the table of requests in flight.
    pub(crate) tracked: Tracked,
}

/// Serves one request on the calling thread, or returns it if it is for a local route. A refused
/// head is answered and logged.
pub(crate) fn serve(
    context: &Arc<Context>,
    head: Result<RequestHead, DoorRefusal>,
    inbound: Inbound<'_>,
) -> Option<LocalCall> {
    let watch = Stopwatch::start();
    let head = match head {
        Ok(head) => head,
        Err(refusal) => {
            refuse(context, inbound, Line::unread(), &refusal.into(), watch);
            return None;
        }
    };
    let config = context.config();
    let key = config.proxy.api_key.as_ref().map_or(&b""[..], |key| key.expose().as_bytes());
    let door = Door { host: &config.proxy.host, key, require_key: config.proxy.require_key };
    match door.check(&head, inbound.peer()) {
        Err(refusal) => {
            refuse(context, inbound, Line::of(&head), &refusal.into(), watch);
            None
        }
        Ok(entry) => receive(context, config, inbound, head, entry, watch),
    }
}

impl Line {
    fn of(head: &RequestHead) -> Line {
        Line { method: Arc::from(head.method.as_str()), path: path_of(&head.target) }
    }

    /// The request line of a head that could not be parsed.
    fn unread() -> Line {
        Line { method: Arc::from("-"), path: Arc::from("-") }
    }
}

/// Answers at once and closes the connection, because nothing more on it can be trusted or awaited.
fn refuse(context: &Context, inbound: Inbound<'_>, line: Line, reply: &Reply, watch: Stopwatch) {
    inbound.refuse(&reply::on_the_wire(reply));
    let cause = Some(reply.message.clone());
    let ended = Ended { status: Some(reply.status), outcome: Outcome::Refused, cause };
    ended.tell(context, line, watch.elapsed());
}

/// Methods for which a request without a body is sent with a length of 0 (RFC 9110 section 8.6).
const METHODS_WITH_BODY: [&str; 3] = ["POST", "PUT", "PATCH"];

fn path_of(target: &str) -> Arc<str> {
    Arc::from(target.split('?').next().unwrap_or_default())
}

/// Reads the body and its facts, then forwards the request.
fn receive(
    context: &Arc<Context>,
    config: Arc<Config>,
    mut inbound: Inbound<'_>,
    head: RequestHead,
    entry: Entry,
    watch: Stopwatch,
) -> Option<LocalCall> {
    let now = clock::now();
    let line = Line::of(&head);
    let (method, path) = (Arc::clone(&line.method), Arc::clone(&line.path));
    let tracked = context.events.in_flight().begin(meta_of(&line, now));
    if entry.form.expects_continue {
        inbound.ask_for_body();
    }
    let body = match inbound.read_body(entry.form.framing, BODY_BYTES_MAX) {
        Ok(body) => body,
        Err(error) => {
            refuse(context, inbound, line, &reply::bad_body(error), watch);
            return None;
        }
    };
    let RequestHead { target, version, headers, .. } = head;
    let form = ClientForm {
        chunks: version >= (1, 1),
        head_only: &*method == "HEAD",
        keep_alive: version >= (1, 1) && !headers.asks_to_close() && context.keeps_connections(),
    };
    let out = inbound.into_outbound(config.timeouts.client);
    let out = Uncommitted::new(out, form, Stopwatch::start());
    if let Route::Local(route) = entry.route {
        return Some(LocalCall { config, line, route, body, out, watch, tracked });
    }
    let peek = if entry.route.has_body_to_read() { peek::peek(&body) } else { Peek::default() };
    let limits = limits(&config, &peek);
    let tracked = Rc::new(tracked);
    let mut trace = context.trace();
    trace.request(&method, &target, headers.iter());
    trace.body(&body);
    let request = ClientRequest {
        context: Arc::clone(context),
        options: headers::client_options(&headers),
        config,
        has_body: entry.form.framing != Framing::NoBody || METHODS_WITH_BODY.contains(&&*method),
        method,
        target,
        path,
        headers,
        body,
        peek,
        route: entry.route,
        arrived: now.mono,
        watch,
        client_wait: Rc::new(ClientWait::new(out.line(), Rc::clone(&tracked), limits)),
        tracked,
        record: std::cell::RefCell::new(Record::default()),
        trace: std::cell::RefCell::new(trace),
        names: std::cell::OnceCell::new(),
    };
    let names = request.names().clone();
    request.tracked.describe(names.session, names.model);
    let ended = forward(&request, out);
    request.finish(ended);
    None
}

/// Forwards a request in the way that its route requires.
fn forward(request: &ClientRequest, out: Uncommitted) -> Ended {
    if request.context.is_stopping() {
        answer(out, &reply::restarting())
    } else if relay::is_own(request) {
        relay::run(request, out)
    } else {
        run(request, out)
    }
}

fn meta_of(line: &Line, now: Now) -> RequestMeta {
    RequestMeta {
        since: now.mono,
        at: now.wall,
        method: Arc::clone(&line.method),
        path: Arc::clone(&line.path),
        ..RequestMeta::default()
    }
}

fn limits(config: &Config, peek: &Peek) -> Limits {
    let timeouts = &config.timeouts;
    let head = if peek.stream { timeouts.headers } else { timeouts.non_stream_headers };
    Limits { connect: timeouts.connect, head, idle: timeouts.idle }
}

/// A pooled request: tries one account after another until it is served or none is left.
fn run(request: &ClientRequest, mut out: Uncommitted) -> Ended {
    if let Err(reply) = header_accounts::take_header_accounts(request) {
        return answer(out, &reply);
    }
    let mut demand = request.demand();
    begin_heartbeats(request);
    let mut last: Option<Failed> = None;
    let mut own: Option<Failed> = None;
    loop {
        let (hold, granted) = match request.context.gate.admit(demand.clone()) {
            Admitted::Granted(hold, granted) => (hold, granted),
            Admitted::Refused(refusal) => match refusal.reason {
                RefusalReason::UnknownProfile => {
                    return answer(out, &reply::unknown_profile(&demand.profile));
                }
                RefusalReason::ThinkingNeedsClaude if request.is_unread() => {
                    return answer(out, &reply::unread_body());
                }
                _ => return give_up(out, own.or(last), &Surrender::Refused(refusal)),
            },
            Admitted::Queued(waiting) => {
                // Logged now: after the wait it would blame an account that has done nothing since.
                if let Some(failed) = &last {
                    failed::tell_failover(request, failed, None);
                }
                match wait(request, waiting) {
                    Waited::Granted(hold, granted) => {
                        last = None;
                        demand.excluded.clear();
                        demand.attempts = 0;
                        (hold, granted)
                    }
                    Waited::Over(surrender) => return give_up(out, own.or(last), &surrender),
                    Waited::ClientGone => {
                        return Ended::client_gone(
                            Stage::Queued,
                            request.client_wait.status_seen(),
                        );
                    }
                }
            }
        };
        demand.clock = granted.clock;
        demand.trail = granted.trail.clone();
        let account = granted.account;
        if let Some(failed) = &last {
            failed::tell_failover(request, failed, Some(&granted.name));
        }
        match attempt::run(request, &demand, hold, &granted, out) {
            Attempted::Ended(ended) => return ended,
            Attempted::Failed { out: uncommitted, failed } => {
                out = uncommitted;
                demand.excluded.push(account);
                demand.attempts += 1;
                demand.last_failure = failed.wait();
                let is_the_end = failed.after.is_the_end();
                demand.trail.add(failed.after.clone(), &request.config.policy);
                let tries_left =
                    request.body.len() <= request.config.retry.buffer_bytes_max || !failed.was_sent;
                // It tells the client more than that another account is limited.
                own = last.filter(Failed::is_about_the_request).or(own);
                last = Some(*failed);
                if !tries_left || is_the_end {
                    return give_up(out, own.or(last), &Surrender::OneTry);
                }
            }
        }
    }
}

/// Sends heartbeats on a stream that has not begun when the grace period is over (Q4).
fn begin_heartbeats(request: &ClientRequest) {
    if request.wants_stream() {
        let first = request.arrived + request.config.queue.stream_forward_grace;
        request.client_wait.beat(Heartbeats { first, every: beat_every(request) });
    }
}

fn beat_every(request: &ClientRequest) -> std::time::Duration {
    // A heartbeat of 0 would keep the worker from ever sleeping.
    request.config.queue.heartbeat.max(HEARTBEAT_MIN)
}

/// The shortest interval between two heartbeats.
const HEARTBEAT_MIN: std::time::Duration = std::time::Duration::from_millis(50);

enum Waited {
    Granted(LeaseGuard, Granted),
    Over(Surrender),
    ClientGone,
}

/// Why a request gets no further account.
enum Surrender {
    /// The scheduler refused it at once.
    Refused(Refusal),
    /// It waited and reached a limit.
    Expired(Limit, Refusal),
    /// Its body is too large to be kept for a second attempt.
    OneTry,
}

/// Waits in the queue.
fn wait(request: &ClientRequest, mut waiting: Waiting) -> Waited {
    let start = Stopwatch::start();
    request.tracked.stage(Stage::Queued);
    request.tracked.account(None);
    // The result of the wait is not the fault of an account that was tried before it.
    request.record.borrow_mut().account = None;
    if request.wants_stream() {
        let queue = &request.config.queue;
        let first = clock::mono() + queue.heartbeat.min(queue.stream_forward_grace);
        request.client_wait.beat(Heartbeats { first, every: beat_every(request) });
    }
    tell_held(request, waiting.ticket());
    let verdict = loop {
        match request.client_wait.wait_for(waiting.bell()) {
            Err(_) => break None,
            Ok(()) => {
                if let Some(verdict) = waiting.verdict() {
                    break Some(verdict);
                }
            }
        }
    };
    let waited = start.elapsed();
    request.record.borrow_mut().queued += waited;
    match verdict {
        None => Waited::ClientGone,
        Some(Verdict::Granted(hold, granted)) => {
            let (session, account) = (request.session_tag(), Arc::clone(&granted.name));
            request.context.tell(Event::Released { session, account, waited });
            Waited::Granted(hold, granted)
        }
        Some(Verdict::Expired(limit, refusal)) => Waited::Over(Surrender::Expired(limit, refusal)),
        Some(Verdict::Refused(refusal)) => Waited::Over(Surrender::Refused(refusal)),
    }
}

fn tell_held(request: &ClientRequest, ticket: Ticket) {
    let (cause, queued, release) = request.context.gate.look(|scheduler, now| {
        let queue = scheduler.snapshot(now).queue;
        (scheduler.waits_for(ticket), queue.waiting, queue.next_release.map(|wait| now.wall + wait))
    });
    // It was served between the look and now.
    let Some(cause) = cause else { return };
    request.context.tell(Event::Held(Held {
        session: request.session_tag(),
        cause,
        until: release,
        queued,
    }));
}

/// Answers a request that gets no account: with the upstream's own last answer if there is one,
/// else with our own words.
fn give_up(out: Uncommitted, last: Option<Failed>, surrender: &Surrender) -> Ended {
    let reply = match surrender {
        Surrender::Expired(Limit::Suspense, refusal) => match last {
            Some(last) => return failed::pass_on(out, last),
            None => no_account::expired(Limit::Suspense, refusal),
        },
        Surrender::Expired(limit, refusal) => no_account::expired(*limit, refusal),
        Surrender::Refused(refusal) => {
            match last {
                Some(last) if last.outranks(refusal) => return failed::pass_on(out, last),
                _ => {}
            }
            no_account::refused(refusal)
        }
        Surrender::OneTry => match last {
            Some(last) => return failed::pass_on(out, last),
            None => reply::body_too_large(BODY_BYTES_MAX),
        },
    };
    answer(out, &reply)
}
