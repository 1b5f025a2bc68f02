//! `--log-to DIR` (D3): one file per request with heads, bodies, every attempt and the error, for
//! debugging.
//!
//! A request only collects: a [`Trace`] holds bounded copies and is sent to a writer thread when it
//! is dropped. The channel and the bytes in it are bounded; what does not fit is dropped and
//! counted, so that neither a slow nor a failing disk disturbs a request. Credentials and cookies
//! are masked before anything is written (D4).

mod page;

use std::fmt;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

pub(crate) use page::Header;
use page::{BODY_BYTES_MAX, Page, Part};

use crate::clock::civil;
use crate::error::{Error, Result};
use crate::event::Events;
use crate::http::sse::is_encoded;
use crate::scheduler::time::Wall;

/// Requests waiting to be written.
const WAITING_MAX: usize = 256;
/// Bytes waiting to be written.
const WAITING_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Bytes of a body kept beyond the shown ones, to find a secret that crosses that limit.
const BODY_BYTES_MORE: usize = 16 * 1024;
/// Attempts kept of one request.
const ATTEMPTS_MAX: usize = 64;
/// File names tried for one request.
const NAMES_MAX: u64 = 16;
/// One of this many failures of the disk is logged.
const FAILURES_TOLD_EVERY: u64 = 100;

/// The recorder of requests. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Capture {
    shared: Arc<Shared>,
    sender: Sender<Message>,
}

#[derive(Default)]
struct Shared {
    numbers: AtomicU64,
    waiting_bytes: AtomicUsize,
    dropped: AtomicU64,
}

enum Message {
    Page(Page),
    Stop(Sender<()>),
}

impl Capture {
    /// Creates the directory if it is missing, logs that everything is recorded, and starts the
    /// writer.
    ///
    /// # Errors
    /// The directory cannot be created or written to; the text names it.
    pub(crate) fn start(directory: &Path, at: Wall, events: &Events) -> Result<Capture> {
        prepare(directory, at, events)?;
        let (sender, receiver) = bounded(WAITING_MAX);
        let shared = Arc::new(Shared::default());
        let writer = Writer {
            directory: directory.to_owned(),
            shared: Arc::clone(&shared),
            events: events.clone(),
            failures: 0,
            told_dropped: 0,
        };
        thread::Builder::new()
            .name("capture".into())
            .stack_size(512 * 1024)
            .spawn(move || writer.run(&receiver))
            .map_err(|error| {
                Error::ours(format!("cannot record requests: no thread could be started: {error}"))
            })?;
        let shown = directory.display();
        let text = format!(
            "every request and answer is recorded in {shown}, including prompts; credentials are \
             masked"
        );
        events.warning(at, text);
        Ok(Capture { shared, sender })
    }

    /// A request starts.
    pub(crate) fn begin(&self, at: Wall) -> Trace {
        let number = self.shared.numbers.fetch_add(1, Relaxed) + 1;
        let page = Page { at, number, ..Page::default() };
        Trace { capture: Some(self.clone()), page, attempts: 0, encoding: None }
    }

    /// Writes what is waiting, and gives up after `limit` if the disk is too slow.
    pub(crate) fn finish(&self, limit: Duration) {
        let (done, is_done) = bounded(1);
        if self.sender.send_timeout(Message::Stop(done), limit).is_ok() {
            // It is written now, or the limit has passed.
            let _ = is_done.recv_timeout(limit);
        }
    }

    fn send(&self, page: Page) {
        let bytes = page.bytes;
        let waiting = self.shared.waiting_bytes.fetch_add(bytes, Relaxed);
        let fits = waiting.saturating_add(bytes) <= WAITING_BYTES_MAX;
        if !fits || self.sender.try_send(Message::Page(page)).is_err() {
            self.shared.waiting_bytes.fetch_sub(bytes, Relaxed);
            self.shared.dropped.fetch_add(1, Relaxed);
        }
    }
}

/// What is recorded of one request. It is written when dropped, however the request ended.
#[derive(Default)]
pub(crate) struct Trace {
    /// `None` if nothing is recorded.
    capture: Option<Capture>,
    page: Page,
    attempts: usize,
    /// The encoding of the next body; a compressed one cannot be searched for secrets.
    encoding: Option<String>,
}

impl Trace {
    /// A trace that records nothing.
    pub(crate) fn off() -> Trace {
        Trace::default()
    }

    /// The client's request head.
    pub(crate) fn request<'a>(
        &mut self,
        method: &str,
        target: &str,
        headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) {
        self.line(|| format!("{method} {target}"));
        self.head(headers);
    }

    /// An upstream call starts.
    pub(crate) fn attempt<'a>(
        &mut self,
        account: &str,
        url: &dyn fmt::Display,
        headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) {
        self.attempts += 1;
        if self.attempts > ATTEMPTS_MAX {
            return;
        }
        let number = self.attempts;
        self.line(|| format!("--- attempt {number}: {account}, {url}"));
        self.head(headers);
    }

    /// The head of an answer, the upstream's or our own.
    pub(crate) fn answer<'a>(
        &mut self,
        from: &str,
        status: u16,
        after: Duration,
        headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) {
        if self.attempts > ATTEMPTS_MAX {
            return;
        }
        self.line(|| format!("--- answer of {from}: {status} after {} ms", after.as_millis()));
        self.head(headers);
    }

    /// A body, or the next piece of one.
    pub(crate) fn body(&mut self, bytes: &[u8]) {
        if self.capture.is_none() || self.attempts > ATTEMPTS_MAX {
            return;
        }
        if !matches!(self.page.parts.last(), Some(Part::Body { .. } | Part::Encoded { .. })) {
            self.page.parts.push(match self.encoding.take() {
                Some(encoding) => Part::Encoded { encoding, length: 0 },
                None => Part::Body { bytes: Vec::new(), length: 0 },
            });
        }
        match self.page.parts.last_mut() {
            Some(Part::Body { bytes: kept, length }) => {
                *length += bytes.len() as u64;
                let room = (BODY_BYTES_MAX + BODY_BYTES_MORE).saturating_sub(kept.len());
                let room = room.min(bytes.len());
                kept.extend_from_slice(&bytes[..room]);
                self.page.bytes += room;
            }
            Some(Part::Encoded { length, .. }) => *length += bytes.len() as u64,
            Some(Part::Line(_) | Part::Head(_)) | None => {}
        }
    }

    /// What went wrong.
    pub(crate) fn error(&mut self, text: &str) {
        self.line(|| format!("--- error: {text}"));
    }

    /// How the request ended, with the number of attempts that were not kept.
    pub(crate) fn end(&mut self, status: Option<u16>, total: Duration) {
        let unseen = self.attempts.saturating_sub(ATTEMPTS_MAX);
        if unseen > 0 {
            self.line(|| format!("--- {unseen} more attempts were not recorded"));
        }
        let status =
            status.map_or_else(|| "no status".to_owned(), |status| format!("status {status}"));
        self.line(|| format!("--- end: {status}, {} ms", total.as_millis()));
    }

    fn line(&mut self, text: impl FnOnce() -> String) {
        if self.capture.is_some() {
            let text = text();
            self.page.bytes += text.len();
            self.page.parts.push(Part::Line(text));
        }
    }

    fn head<'a>(&mut self, headers: impl Iterator<Item = (&'a str, &'a [u8])>) {
        if self.capture.is_some() {
            let headers: Vec<Header> =
                headers.map(|(name, value)| (name.to_owned(), value.to_vec())).collect();
            self.page.bytes +=
                headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
            let encoding = headers.iter().find(|(name, _)| name == "content-encoding");
            self.encoding = encoding
                .map(|(_, value)| String::from_utf8_lossy(value).trim().to_owned())
                .filter(|encoding| is_encoded(Some(encoding)));
            self.page.parts.push(Part::Head(headers));
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if let Some(capture) = self.capture.take() {
            capture.send(std::mem::take(&mut self.page));
        }
    }
}

/// Creates the directory with mode 0700. An existing directory gets that mode if it is empty;
/// otherwise its mode is left alone, with a warning.
fn prepare(directory: &Path, at: Wall, events: &Events) -> Result<()> {
    let cannot = |doing: &str, error: &io::Error| Error::file(doing, directory, error);
    match fs::metadata(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(|error| cannot("create", &error))?;
        }
        Err(error) => return Err(cannot("open", &error)),
        Ok(found) if found.mode() & 0o077 != 0 => {
            let is_empty =
                fs::read_dir(directory).map_err(|error| cannot("read", &error))?.next().is_none();
            let tightened = is_empty
                && fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).is_ok();
            if !tightened {
                let shown = directory.display();
                let text = format!(
                    "{shown} can be listed by others; make it 0700 (the recordings in it are 0600)"
                );
                events.warning(at, text);
            }
        }
        Ok(_) => {}
    }
    let probe = directory.join(".maxpool-probe");
    new_file(&probe)
        .and_then(|_| fs::remove_file(&probe))
        .map_err(|error| cannot("write into", &error))
}

fn new_file(path: &Path) -> io::Result<fs::File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

struct Writer {
    directory: PathBuf,
    shared: Arc<Shared>,
    events: Events,
    failures: u64,
    told_dropped: u64,
}

impl Writer {
    fn run(mut self, receiver: &Receiver<Message>) {
        for message in receiver.iter() {
            match message {
                Message::Page(page) => self.write(&page),
                Message::Stop(done) => {
                    // The caller waits for the channel to close.
                    drop(done);
                    return;
                }
            }
        }
    }

    fn write(&mut self, page: &Page) {
        let text = page::render(page);
        let result = self.create(page).and_then(|mut file| file.write_all(text.as_bytes()));
        self.shared.waiting_bytes.fetch_sub(page.bytes, Relaxed);
        if let Err(error) = result {
            self.failures += 1;
            if self.failures % FAILURES_TOLD_EVERY == 1 {
                let shown = self.directory.display();
                let count = self.failures;
                self.events.warning(
                    page.at,
                    format!("requests are not recorded in {shown}: {error} ({count} lost so far)"),
                );
            }
        }
        let dropped = self.shared.dropped.load(Relaxed);
        if dropped > self.told_dropped {
            let lost = dropped - self.told_dropped;
            self.told_dropped = dropped;
            self.events.warning(
                page.at,
                format!("{lost} requests were not recorded because the disk is too slow"),
            );
        }
    }

    /// Creates the request's file; two processes of a restart may choose the same name.
    fn create(&self, page: &Page) -> io::Result<fs::File> {
        let mut number = page.number;
        loop {
            match new_file(&self.directory.join(file_name(page.at, number))) {
                Err(error)
                    if error.kind() == io::ErrorKind::AlreadyExists
                        && number < page.number + NAMES_MAX =>
                {
                    number += 1;
                }
                result => return result,
            }
        }
    }
}

/// `YYYYMMDD_HHMMSS.mmm_NNNNN.log`, in UTC.
fn file_name(at: Wall, number: u64) -> String {
    let at = civil(at);
    format!(
        "{:04}{:02}{:02}_{:02}{:02}{:02}.{:03}_{:05}.log",
        at.year,
        at.month,
        at.day,
        at.hour,
        at.minute,
        at.second,
        at.ms,
        number % 100_000
    )
}

#[cfg(test)]
mod tests;
