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
//! A retry needs the uncommitted writer by value, so none can be written after the first byte. Whatever happens, the lease ends
//! in exactly one outcome and the log gets exactly one line.

use std::rc::Rc;
use std::sync::Arc;

use rustix::event::EventfdFlags;

use super::attempt::{self, Attempted};
use super::context::Context;
use super::failed::{self, Failed};
use super::job::{Ended, Job, Record};
use super::local;
use super::patience::{Heartbeats, Limits, Patience};
use super::relay;
use super::reply::{self, Reply};
use super::runtime;
use super::stream::{ClientForm, Uncommitted};
use crate::account::SingleFlight;
use crate::clock::{self, Stopwatch};
use crate::config::Config;
use crate::event::{Event, Finished, Held, Outcome, RequestMeta, Stage};
use crate::gate::{Admitted, Granted, LeaseGuard, Verdict, Waiting};
use crate::http::headers;
use crate::http::peek::{self, BODY_BYTES_MAX, Peek};
use crate::net::wait::Stop;
use crate::scheduler::{Limit, Refusal, RefusalReason, Ticket};
use crate::server::door::{Door, DoorRefusal, Entry, Framing};
use crate::server::paths::{Pooled, Route};
use crate::server::{BodyError, Inbound, RequestHead};

/// Serves one request on the calling thread. A head that was refused is answered and logged.
pub(crate) fn serve(
    context: &Arc<Context>,
    head: Result<RequestHead, DoorRefusal>,
    inbound: Inbound<'_>,
) {
    let watch = Stopwatch::start();
    let head = match head {
        Ok(head) => head,
        Err(refusal) => return refuse(context, inbound, Line::unread(), &refusal.into(), watch),
    };
    let config = context.config();
    let key = config.proxy.api_key.as_ref().map_or(&b""[..], |key| key.expose().as_bytes());
    let door = Door { host: &config.proxy.host, key, require_key: config.proxy.require_key };
    match door.check(&head, inbound.peer()) {
        Err(refusal) => refuse(context, inbound, Line::of(&head), &refusal.into(), watch),
        Ok(entry) => receive(context, config, inbound, head, entry, watch),
    }
}

/// What the log says of a request line.
struct Line {
    method: Arc<str>,
    path: Arc<str>,
}

impl Line {
    fn of(head: &RequestHead) -> Line {
        Line { method: Arc::from(head.method.as_str()), path: path_of(&head.target) }
    }

    /// Of a head that could not be read.
    fn unread() -> Line {
        Line { method: Arc::from("-"), path: Arc::from("-") }
    }
}

/// Answers on the spot and ends the connection: nothing more of it can be trusted or waited for.
fn refuse(context: &Context, inbound: Inbound<'_>, line: Line, reply: &Reply, watch: Stopwatch) {
    inbound.refuse(&reply::on_the_wire(reply));
    context.tell(Event::Finished(Box::new(Finished {
        method: line.method,
        path: line.path,
        account: None,
        status: Some(reply.status),
        outcome: Outcome::Refused,
        cause: Some(reply.message.clone()),
        queued: std::time::Duration::ZERO,
        first_byte: None,
        total: watch.elapsed(),
        tokens: None,
        session: None,
        model: None,
        attempts: 0,
    })));
}

/// Methods whose requests say that they have no body by a length of 0 (RFC 9110 section 8.6).
const METHODS_WITH_BODY: [&str; 3] = ["POST", "PUT", "PATCH"];

fn path_of(target: &str) -> Arc<str> {
    Arc::from(target.split('?').next().unwrap_or_default())
}

/// Reads the body and looks at it, then sends the request on its way.
fn receive(
    context: &Arc<Context>,
    config: Arc<Config>,
    mut inbound: Inbound<'_>,
    head: RequestHead,
    entry: Entry,
    watch: Stopwatch,
) {
    let now = clock::now();
    let line = Line::of(&head);
    let (method, path) = (Arc::clone(&line.method), Arc::clone(&line.path));
    let meta = RequestMeta {
        since: now.mono,
        at: now.wall,
        method: Arc::clone(&method),
        path: Arc::clone(&path),
        ..RequestMeta::default()
    };
    let tracked = context.events.in_flight().begin(meta);
    if entry.form.expects_continue {
        inbound.ask_for_body();
    }
    let body = match inbound.read_body(entry.form.framing, BODY_BYTES_MAX) {
        Ok(body) => body,
        Err(BodyError::TooLarge) => {
            let reply = reply::body_too_large(BODY_BYTES_MAX);
            return refuse(context, inbound, line, &reply, watch);
        }
        Err(BodyError::Broken) => {
            return refuse(context, inbound, line, &reply::body_broken(), watch);
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
        return local::serve(
            context,
            &config,
            &local::Call { method, path, route, body },
            out,
            watch,
        );
    }
    let looked_at = matches!(
        entry.route,
        Route::Pooled(Pooled::Messages | Pooled::CountTokens | Pooled::Complete)
    );
    let peek = if looked_at { peek::peek(&body) } else { Peek::default() };
    let limits = Limits {
        connect: config.timeouts.connect,
        head: if peek.stream {
            config.timeouts.headers
        } else {
            config.timeouts.non_stream_headers
        },
        idle: config.timeouts.idle,
    };
    let mut trace = context.trace();
    trace.request(&method, &target, headers.iter());
    trace.body(&body);
    let job = Job {
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
        patience: Rc::new(Patience::new(out.line(), limits)),
        tracked,
        record: std::cell::RefCell::new(Record::default()),
        trace: std::cell::RefCell::new(trace),
        names: std::cell::OnceCell::new(),
    };
    let names = job.names().clone();
    job.tracked.describe(names.session, names.model);
    let ended = if context.is_stopping() {
        answer(out, &reply::restarting())
    } else if relay::is_own(&job) {
        relay::run(&job, out)
    } else {
        run(&job, out)
    };
    job.finish(ended);
}

/// A pooled request: from account to account until it is served or there is nothing left to try.
fn run(job: &Job, mut out: Uncommitted) -> Ended {
    if let Err(reply) = runtime::take_header_accounts(job) {
        return answer(out, &reply);
    }
    let mut request = job.request();
    if job.wants_stream() {
        let grace = job.config.queue.stream_forward_grace;
        job.patience.beat(Heartbeats { first: job.arrived + grace, every: beat_every(job) });
    }
    let mut last: Option<Failed> = None;
    loop {
        let (hold, granted) = match job.context.gate.admit(request.clone()) {
            Admitted::Granted(hold, granted) => (hold, granted),
            Admitted::Refused(refusal) if refusal.reason == RefusalReason::UnknownProfile => {
                return answer(out, &reply::unknown_profile(&request.profile));
            }
            Admitted::Refused(refusal)
                if refusal.reason == RefusalReason::ThinkingNeedsClaude && job.is_unread() =>
            {
                return answer(out, &reply::unread_body());
            }
            Admitted::Refused(refusal) => return give_up(out, last, &Surrender::Refused(refusal)),
            Admitted::Queued(waiting) => {
                // Told now: after the wait it would blame an account that has done nothing since.
                if let Some(failed) = &last {
                    failed::tell_failover(job, failed, None);
                }
                match wait(job, waiting) {
                    Waited::Granted(hold, granted) => {
                        last = None;
                        request.excluded.clear();
                        request.attempts = 0;
                        (hold, granted)
                    }
                    Waited::Over(surrender) => return give_up(out, last, &surrender),
                    Waited::ClientGone => {
                        return Ended::client_gone(Stage::Queued, job.patience.status_seen());
                    }
                }
            }
        };
        request.clock = granted.clock;
        let account = granted.account;
        if let Some(failed) = last.take() {
            failed::tell_failover(job, &failed, Some(&granted.name));
        }
        match attempt::run(job, &request, hold, &granted, out) {
            Attempted::Ended(ended) => return ended,
            Attempted::Failed { out: uncommitted, failed } => {
                out = uncommitted;
                request.excluded.push(account);
                request.attempts += 1;
                request.last_failure = failed.wait();
                let tries_left =
                    job.body.len() <= job.config.retry.buffer_bytes_max || !failed.was_sent;
                last = Some(*failed);
                if !tries_left {
                    return give_up(out, last, &Surrender::OneTry);
                }
            }
        }
    }
}

fn beat_every(job: &Job) -> std::time::Duration {
    // A heartbeat of 0 would never let the worker sleep.
    job.config.queue.heartbeat.max(HEARTBEAT_MIN)
}

/// The shortest time between two heartbeats.
const HEARTBEAT_MIN: std::time::Duration = std::time::Duration::from_millis(50);

enum Waited {
    Granted(LeaseGuard, Granted),
    Over(Surrender),
    ClientGone,
}

/// Why a request is given no further account.
enum Surrender {
    /// The scheduler said so at once.
    Refused(Refusal),
    /// It waited, and its time is up.
    Expired(Limit, Refusal),
    /// Its body is too large to be kept for a second try.
    OneTry,
}

/// Waits in the queue.
fn wait(job: &Job, mut waiting: Waiting) -> Waited {
    let start = Stopwatch::start();
    job.tracked.stage(Stage::Queued);
    job.tracked.account(None);
    if job.wants_stream() {
        let queue = &job.config.queue;
        let first = clock::mono() + queue.heartbeat.min(queue.stream_forward_grace);
        job.patience.beat(Heartbeats { first, every: beat_every(job) });
    }
    tell_held(job, waiting.ticket());
    let verdict = loop {
        match job.patience.wait_for(waiting.bell()) {
            Err(_) => break None,
            Ok(()) => {
                if let Some(verdict) = waiting.verdict() {
                    break Some(verdict);
                }
            }
        }
    };
    let waited = start.elapsed();
    job.record.borrow_mut().queued += waited;
    match verdict {
        None => Waited::ClientGone,
        Some(Verdict::Granted(hold, granted)) => {
            let (session, account) = (job.session_tag(), Arc::clone(&granted.name));
            job.context.tell(Event::Released { session, account, waited });
            Waited::Granted(hold, granted)
        }
        Some(Verdict::Expired(limit, refusal)) => Waited::Over(Surrender::Expired(limit, refusal)),
        Some(Verdict::Refused(refusal)) => Waited::Over(Surrender::Refused(refusal)),
    }
}

fn tell_held(job: &Job, ticket: Ticket) {
    let (cause, queued, release) = job.context.gate.look(|scheduler, now| {
        let queue = scheduler.snapshot(now).queue;
        (scheduler.waits_for(ticket), queue.waiting, queue.next_release.map(|wait| now.wall + wait))
    });
    // Served already, between the look and now.
    let Some(cause) = cause else { return };
    job.context.tell(Event::Held(Held {
        session: job.session_tag(),
        cause,
        until: release,
        queued,
    }));
}

/// Answers a request that gets no account: with the upstream's own last answer if there is one, else in our own words.
fn give_up(out: Uncommitted, last: Option<Failed>, surrender: &Surrender) -> Ended {
    let reply = match surrender {
        Surrender::Expired(limit, refusal) => reply::expired(*limit, refusal),
        Surrender::Refused(refusal) => {
            match last {
                Some(last) if last.outranks(refusal) => return failed::pass_on(out, last),
                _ => {}
            }
            reply::refused(refusal)
        }
        Surrender::OneTry => match last {
            Some(last) => return failed::pass_on(out, last),
            None => reply::body_too_large(BODY_BYTES_MAX),
        },
    };
    answer(out, &reply)
}

/// Gives an answer of our own.
pub(super) fn answer(out: Uncommitted, reply: &Reply) -> Ended {
    let cause = Some(reply.message.clone());
    match out.reply(reply) {
        Ok(delivered) => Ended { status: Some(delivered.status), outcome: Outcome::Refused, cause },
        Err(_) => Ended::client_gone(Stage::Streaming, None),
    }
}

/// Waits for a token refresh that another thread does, watching the client meanwhile.
pub(super) fn wait_for_refresh(job: &Job, flight: &SingleFlight) -> Result<(), Stop> {
    let Ok(bell) = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK) else {
        // No descriptor to be woken by: the refresh is bounded in time, so it can be waited for blindly.
        flight.wait(REFRESH_WAIT_MAX);
        return Ok(());
    };
    let bell = Arc::new(bell);
    let ringer = Arc::clone(&bell);
    flight.on_end(Box::new(move || {
        let _ = rustix::io::write(&*ringer, &1_u64.to_ne_bytes());
    }));
    job.patience.wait_for(rustix::fd::AsFd::as_fd(&*bell))
}

/// Longer than any refresh may take.
const REFRESH_WAIT_MAX: std::time::Duration = std::time::Duration::from_secs(120);
