//! One call to one upstream: sends the request, returns the answer's head and a reader of its body.
//!
//! It decides nothing about accounts. If a pooled connection turns out to be dead before any byte
//! of the answer has arrived, it is replaced by a new one, once, because the upstream had closed it
//! before it could see the request.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::io::{self, Read};
use std::rc::Rc;
use std::time::Duration;

use rustix::io::Errno;
use ureq::http::header::{self, HeaderValue};
use ureq::http::{Method, Request, Response, Uri};
use ureq::{Agent, BodyReader, SendBody};

use super::client_wait::ClientWait;
use super::stream::Body;
use crate::error::reason;
use crate::http::headers::Headers;
use crate::net::resolve::LookupFailed;
use crate::net::wait::{self, Stop, Waiter};

/// Size of one read of an answer after a smaller one was filled; most streams send less at a time.
const READ_BYTES: usize = 16 * 1024;
/// The initial size, which saves 7 MB with 600 streams.
const READ_BYTES_FIRST: usize = 4 * 1024;

/// The request to send.
pub(crate) struct Order<'a> {
    /// `POST`.
    pub(crate) method: &'a str,
    /// The address.
    pub(crate) uri: &'a Uri,
    /// All headers except `host` and framing.
    pub(crate) headers: &'a Headers,
    /// The body as consecutive pieces; `None` for a request without a body.
    pub(crate) body: Option<&'a [Cow<'a, [u8]>]>,
}

impl Order<'_> {
    /// The length of the whole body.
    fn body_bytes(&self) -> usize {
        self.body.into_iter().flatten().map(|part| part.len()).sum()
    }

    /// An upper bound of the head's size on the wire, including the lines that the HTTP client
    /// adds.
    fn head_bytes(&self) -> usize {
        let uri_bytes = self.uri.path().len() + self.uri.query().map_or(0, str::len);
        let host_bytes = self.uri.authority().map_or(0, |host| host.as_str().len());
        // The rest is for the version, the length and the line ends.
        self.method.len() + uri_bytes + host_bytes + self.headers.bytes() + 128
    }
}

/// The head of an answer whose body is still to be read.
pub(crate) struct Answer {
    /// Status code.
    pub(crate) status: u16,
    /// All header lines.
    pub(crate) headers: Headers,
    /// How the body is delimited for the client.
    pub(crate) body: Body,
    reader: BodyReader<'static>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Answer({})", self.status)
    }
}

/// Why a request has no usable answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// The network, the upstream or our own side ended the call.
    Failed(Failure),
    /// Neither an account nor the network is to blame, and no other account would do better: the
    /// request could not be written, no socket could be created, or the upstream switched to
    /// another protocol without being asked. In words for the client.
    NobodysFault(String),
}

impl Unanswered {
    /// The request cannot be written.
    pub(crate) fn unsendable(error: &ureq::Error) -> Unanswered {
        Unanswered::NobodysFault(format!("maxpool could not send the request: {error}"))
    }
}

/// Why there is no answer, or no more of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Our own side ended it.
    Stopped(Stop),
    /// The network or the upstream did.
    Network(NetworkFailure),
}

/// A failure on the way to an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NetworkFailure {
    /// Its class.
    pub(crate) code: NetworkCode,
    /// The system's error text, without account names and credentials.
    pub(crate) text: String,
}

/// Classes of network failures, as shown to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NetworkCode {
    /// The name cannot be resolved.
    Dns,
    /// Nothing listens there.
    Refused,
    /// There is no route to it.
    Unreachable,
    /// The connection was reset or closed too early.
    Reset,
    /// It took too long.
    Timeout,
    /// TLS could not be negotiated, or the certificate is not trusted.
    Tls,
    /// The answer is not HTTP.
    Garbage,
    /// Anything else.
    Other,
}

impl NetworkCode {
    /// The word for logs and messages.
    pub(crate) fn word(self) -> &'static str {
        match self {
            NetworkCode::Dns => "dns",
            NetworkCode::Refused => "refused",
            NetworkCode::Unreachable => "unreachable",
            NetworkCode::Reset => "reset",
            NetworkCode::Timeout => "timeout",
            NetworkCode::Tls => "tls",
            NetworkCode::Garbage => "garbage",
            NetworkCode::Other => "network",
        }
    }
}

/// Which connection a request may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connection {
    /// An idle one; if it turns out to be dead, the request is sent again on a new one.
    Pooled,
    /// A new one, because the request must arrive at most once.
    Fresh,
}

/// Sends `order` and waits for the head of the answer; `client_wait` controls every wait.
pub(crate) fn send(
    agent: &Agent,
    order: &Order<'_>,
    client_wait: &Rc<ClientWait>,
    connection: Connection,
) -> Result<Answer, Unanswered> {
    let _entered = wait::enter(Rc::clone(client_wait) as Rc<dyn Waiter>);
    client_wait.begin_attempt();
    let idle_age_max = match connection {
        Connection::Pooled => None,
        Connection::Fresh => Some(Duration::ZERO),
    };
    let head_bytes = order.head_bytes();
    client_wait.wire().head_bytes.set(head_bytes);
    client_wait.wire().request_bytes.set(head_bytes + order.body_bytes());
    let answer = match send_once(agent, order, idle_age_max) {
        Err(error) if died_in_the_pool(&error, client_wait) => {
            client_wait.begin_attempt();
            send_once(agent, order, Some(Duration::ZERO))
        }
        other => other,
    }
    .map_err(|error| {
        our_own(&error, client_wait).unwrap_or_else(|| Unanswered::Failed(failure_of(&error)))
    })?;
    client_wait.head_is_done();
    if answer.status == SWITCHING_PROTOCOLS {
        // `upgrade` is not forwarded, so no client of ours has asked for it (RFC 9110 section
        // 15.2.2).
        return Err(Unanswered::NobodysFault(
            "the upstream switched to another protocol (status 101), which was not requested"
                .into(),
        ));
    }
    Ok(answer)
}

/// Failures on this machine, before the upstream could be at fault.
fn our_own(error: &ureq::Error, client_wait: &ClientWait) -> Option<Unanswered> {
    let is_ours = match error {
        ureq::Error::Http(_) | ureq::Error::BadUri(_) => true,
        // HTTP was violated before any byte of the answer arrived, so by the request.
        ureq::Error::Protocol(_) => client_wait.wire().received.get() == 0,
        ureq::Error::Io(error) => error
            .raw_os_error()
            .is_some_and(|code| OUT_OF_RESOURCES.contains(&Errno::from_raw_os_error(code))),
        _ => false,
    };
    is_ours.then(|| Unanswered::unsendable(error))
}

/// Errors of a socket call that mean that this process or machine has run out of a resource.
const OUT_OF_RESOURCES: [Errno; 4] = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];

const SWITCHING_PROTOCOLS: u16 = 101;

/// Whether the upstream had closed an idle connection before it could see this request.
fn died_in_the_pool(error: &ureq::Error, client_wait: &ClientWait) -> bool {
    let wire = client_wait.wire();
    wire.reused.get()
        && wire.received.get() == 0
        && Stop::of(error).is_none()
        && LookupFailed::of(error).is_none()
}

fn send_once(
    agent: &Agent,
    order: &Order<'_>,
    idle_age_max: Option<Duration>,
) -> Result<Answer, ureq::Error> {
    let request = build(order)?;
    let response = match order.body {
        None => run(agent, request, idle_age_max, SendBody::none())?,
        Some(parts) => {
            let mut pieces = Pieces { parts, at: 0 };
            run(agent, request, idle_age_max, SendBody::from_reader(&mut pieces))?
        }
    };
    Ok(answer_of(order.method, response))
}

fn run(
    agent: &Agent,
    request: Request<()>,
    idle_age_max: Option<Duration>,
    body: SendBody<'_>,
) -> Result<Response<ureq::Body>, ureq::Error> {
    let request = request.map(|()| body);
    match idle_age_max {
        None => agent.run(request),
        Some(age) => agent.run(agent.configure_request(request).max_idle_age(age).build()),
    }
}

fn build(order: &Order<'_>) -> Result<Request<()>, ureq::Error> {
    let method = Method::from_bytes(order.method.as_bytes())
        .map_err(|error| ureq::Error::Http(error.into()))?;
    let mut request = Request::builder().method(method).uri(order.uri.clone()).body(())?;
    let headers = request.headers_mut();
    *headers = order.headers.into();
    if order.body.is_some() {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(order.body_bytes()));
    }
    Ok(request)
}

/// A body in several pieces.
struct Pieces<'a> {
    parts: &'a [Cow<'a, [u8]>],
    at: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(part) = self.parts.first() {
            let rest = &part[self.at..];
            if rest.is_empty() {
                self.parts = &self.parts[1..];
                self.at = 0;
                continue;
            }
            let count = rest.len().min(buffer.len());
            buffer[..count].copy_from_slice(&rest[..count]);
            self.at += count;
            return Ok(count);
        }
        Ok(0)
    }
}

fn answer_of(method: &str, response: Response<ureq::Body>) -> Answer {
    let (parts, body) = response.into_parts();
    let status = parts.status.as_u16();
    let headers = Headers::from(parts.headers);
    let chunked = headers.get(header::TRANSFER_ENCODING).is_some();
    let length = headers
        .text(header::CONTENT_LENGTH)
        .and_then(|text| text.parse().ok())
        .filter(|_| !chunked);
    let without_body = matches!(status, 204 | 304);
    let form = match length {
        Some(length) if !without_body => Body::Length(length),
        _ if without_body || method == "HEAD" => Body::None,
        _ => Body::Streamed,
    };
    Answer { status, headers, body: form, reader: body.into_reader() }
}

impl Answer {
    /// Reads the next bytes of the body into the worker's own buffer; returns nothing at the end.
    pub(crate) fn read<T>(
        &mut self,
        client_wait: &Rc<ClientWait>,
        with: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, Failure> {
        thread_local! {
            // One buffer per worker: a new one per request took a fifth of its instructions.
            static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        BUFFER.with(|buffer| {
            let mut buffer = buffer.take();
            if buffer.is_empty() {
                buffer = vec![0; READ_BYTES_FIRST];
            }
            let read = {
                let _entered = wait::enter(Rc::clone(client_wait) as Rc<dyn Waiter>);
                self.reader.read(&mut buffer)
            };
            let result = match read {
                Ok(count) => {
                    let result = with(&buffer[..count]);
                    if count == buffer.len() && count < READ_BYTES {
                        buffer = vec![0; READ_BYTES];
                    }
                    Ok(result)
                }
                Err(error) => Err(failure_of_io(&error)),
            };
            BUFFER.set(buffer);
            result
        })
    }
}

fn failure_of_io(error: &io::Error) -> Failure {
    if let Some(stop) = Stop::of_io(error) {
        return failure_of_stop(stop);
    }
    let wrapped = error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>());
    match wrapped {
        Some(error) => failure_of(error),
        None => network(io_code(error), reason(error)),
    }
}

fn failure_of(error: &ureq::Error) -> Failure {
    if let Some(stop) = Stop::of(error) {
        return failure_of_stop(stop);
    }
    if let Some(failed) = LookupFailed::of(error) {
        return network(NetworkCode::Dns, failed.to_string());
    }
    match error {
        ureq::Error::HostNotFound => {
            network(NetworkCode::Dns, "the upstream's name cannot be resolved".into())
        }
        ureq::Error::Rustls(error) => network(NetworkCode::Tls, error.to_string()),
        ureq::Error::Tls(text) => network(NetworkCode::Tls, (*text).to_owned()),
        ureq::Error::Protocol(error) => {
            network(NetworkCode::Garbage, format!("invalid HTTP answer: {error}"))
        }
        ureq::Error::LargeResponseHeader(_, _) => {
            network(NetworkCode::Garbage, "the response head is too large".into())
        }
        ureq::Error::Io(error) => network(io_code(error), reason(error)),
        error => network(NetworkCode::Other, error.to_string()),
    }
}

fn failure_of_stop(stop: Stop) -> Failure {
    match stop {
        Stop::ClientGone | Stop::LookAheadOver => Failure::Stopped(stop),
        Stop::ConnectTimeout | Stop::SendTimeout | Stop::HeadTimeout | Stop::IdleTimeout => {
            network(NetworkCode::Timeout, stop.to_string())
        }
    }
}

fn network(code: NetworkCode, text: String) -> Failure {
    Failure::Network(NetworkFailure { code, text })
}

fn io_code(error: &io::Error) -> NetworkCode {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => NetworkCode::Refused,
        io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::AddrNotAvailable => NetworkCode::Unreachable,
        io::ErrorKind::TimedOut => NetworkCode::Timeout,
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => NetworkCode::Reset,
        _ => match error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<crate::net::socket::Broken>())
        {
            Some(_) => NetworkCode::Reset,
            None => NetworkCode::Other,
        },
    }
}
