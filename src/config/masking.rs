//! Takes every secret that this process has held out of a text, wherever the text goes (SPEC D4).
//!
//! Secrets are looked for by value, not by shape: a provider's key looks like anything, and an
//! upstream that repeats it in an error may escape it. So the text is searched as it is, and again
//! with its JSON and percent escapes undone, layer by layer, and each secret is looked for in its
//! base64 forms too. What is found is cut out of the original text.
//!
//! [`Secret::new`](super::Secret::new) makes a secret known here, so none can be forgotten. What
//! leaves the program is a [`Masked`], which nothing but a search makes: a line of the log and of
//! the dashboard, a recording, an error body kept for a client, an answer of our own, a panic.
//! Streams and headers, which have no whole text, and the command line ask [`text`] or [`bytes()`]
//! in the one place that writes them. The content of a good answer is not asked about. A
//! text without a secret costs one pass over it.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// What replaces a secret. Nothing of it is shown, not even its length.
pub(crate) const MASK: &str = "[masked]";

/// The text without any secret.
pub(crate) fn text(text: &str) -> Cow<'_, str> {
    match found(text.as_bytes()) {
        ranges if ranges.is_empty() => Cow::Borrowed(text),
        ranges => Cow::Owned(String::from_utf8_lossy(&cut(text.as_bytes(), &ranges)).into_owned()),
    }
}

/// The same for bytes; `None` if there is no secret in them.
pub(crate) fn bytes(bytes: &[u8]) -> Option<Vec<u8>> {
    let ranges = found(bytes);
    (!ranges.is_empty()).then(|| cut(bytes, &ranges))
}

/// A text without any secret. Only what takes them out makes one, so a way out that asks for it
/// cannot be given anything else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Masked<T>(T);

impl Masked<String> {
    pub(crate) fn text(original: &str) -> Masked<String> {
        Masked(text(original).into_owned())
    }
}

impl Masked<Vec<u8>> {
    pub(crate) fn bytes(original: Vec<u8>) -> Masked<Vec<u8>> {
        Masked(bytes(&original).unwrap_or(original))
    }

    /// The same of a text that may have been cut anywhere: without the beginning of a secret at its
    /// end.
    pub(crate) fn torn(original: Vec<u8>) -> Masked<Vec<u8>> {
        Masked(torn(&original))
    }
}

impl<T> std::ops::Deref for Masked<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// A text that may have been cut anywhere, without any secret and without the beginning of one at
/// its end.
fn torn(bytes: &[u8]) -> Vec<u8> {
    let mut ranges = found(bytes);
    ranges.extend(torn_start(bytes).map(|start| start..bytes.len()));
    ranges.sort_by_key(|range| range.start);
    cut(bytes, &ranges)
}

/// The first `limit` bytes without any secret; one that spans the limit is hidden whole.
pub(crate) fn start_of(bytes: &[u8], limit: usize) -> Vec<u8> {
    if limit >= bytes.len() {
        return torn(bytes);
    }
    let mut ranges = found(bytes);
    ranges.retain(|range| range.start < limit);
    let end = ranges.iter().map(|range| range.end).max().unwrap_or(0).max(limit);
    cut(&bytes[..end], &ranges)
}

/// Makes a secret known.
pub(super) fn remember(secret: &Arc<str>) {
    let is_new = secret.len() >= SECRET_BYTES_MIN && known().ours.add(secret, SECRETS_MAX);
    if is_new {
        GENERATION.fetch_add(1, Ordering::Release);
    }
}

/// Makes a secret known that a client has brought. A client that invents keys drives out only those
/// of clients.
pub(super) fn remember_of_a_client(secret: &Arc<str>) {
    let is_new =
        secret.len() >= SECRET_BYTES_MIN && known().of_clients.add(secret, CLIENT_SECRETS_MAX);
    if is_new {
        GENERATION.fetch_add(1, Ordering::Release);
    }
}

#[derive(Default)]
struct Known {
    ours: Secrets,
    of_clients: Secrets,
}

/// Secrets in the order in which they came.
#[derive(Default)]
struct Secrets {
    all: HashSet<Arc<str>>,
    order: VecDeque<Arc<str>>,
}

impl Secrets {
    /// Adds one and forgets the oldest beyond `most`. True if it was not known.
    fn add(&mut self, secret: &Arc<str>, most: usize) -> bool {
        if !self.all.insert(Arc::clone(secret)) {
            return false;
        }
        self.order.push_back(Arc::clone(secret));
        if self.order.len() > most
            && let Some(oldest) = self.order.pop_front()
        {
            self.all.remove(&oldest);
        }
        true
    }
}

static GENERATION: AtomicU64 = AtomicU64::new(0);

fn known() -> MutexGuard<'static, Known> {
    static KNOWN: OnceLock<Mutex<Known>> = OnceLock::new();
    KNOWN.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// The forms of all secrets, by how they begin.
#[derive(Default)]
struct Needles {
    generation: u64,
    /// Which first two bytes there are, a bit each: what lets most positions of a text be passed in
    /// a moment.
    begins: Vec<u64>,
    by_head: HashMap<[u8; HEAD_BYTES], Vec<Vec<u8>>>,
}

impl Needles {
    /// Those of now.
    fn current() -> Arc<Needles> {
        static CURRENT: OnceLock<Mutex<Arc<Needles>>> = OnceLock::new();
        let current = CURRENT.get_or_init(Mutex::default);
        let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = GENERATION.load(Ordering::Acquire);
        if current.generation != generation {
            let known = known();
            let secrets = known.ours.order.iter().chain(&known.of_clients.order);
            let secrets: Vec<Arc<str>> = secrets.cloned().collect();
            drop(known);
            *current = Arc::new(Needles::of(&secrets, generation));
        }
        Arc::clone(&current)
    }

    fn of(secrets: &[Arc<str>], generation: u64) -> Needles {
        let mut needles =
            Needles { generation, begins: vec![0; (1 << 16) / 64], by_head: HashMap::new() };
        for secret in secrets {
            needles.add(secret.as_bytes().to_vec());
            let escaped = escaped_forms(secret);
            for form in base64_forms(secret.as_bytes()).into_iter().chain(escaped) {
                needles.add(form);
            }
        }
        // The longest first: one secret may begin like another.
        for forms in needles.by_head.values_mut() {
            forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
            forms.dedup();
        }
        needles
    }

    fn add(&mut self, form: Vec<u8>) {
        let Some(&head) = form.first_chunk::<HEAD_BYTES>() else {
            return;
        };
        let [word, bit] = begin(head[0], head[1]);
        self.begins[word] |= 1 << bit;
        self.by_head.entry(head).or_default().push(form);
    }

    /// Where `text` ends with the beginning of a secret.
    fn torn(&self, text: &[u8]) -> Option<usize> {
        (0..text.len()).find(|&at| {
            let rest = &text[at..];
            let forms = rest.first_chunk::<HEAD_BYTES>().and_then(|head| self.by_head.get(head));
            let begins = |form: &Vec<u8>| form.len() > rest.len() && form.starts_with(rest);
            forms.is_some_and(|forms| forms.iter().any(begins))
        })
    }

    /// Where secrets are in `text`.
    fn search(&self, text: &[u8], mut found: impl FnMut(Range<usize>)) {
        let mut at = 0;
        while at + HEAD_BYTES <= text.len() {
            let [word, bit] = begin(text[at], text[at + 1]);
            if self.begins.get(word).is_some_and(|bits| bits >> bit & 1 == 1)
                && let Some(head) = text[at..].first_chunk::<HEAD_BYTES>()
                && let Some(forms) = self.by_head.get(head)
                && let Some(form) = forms.iter().find(|form| text[at..].starts_with(form))
            {
                found(at..at + form.len());
                at += form.len();
            } else {
                at += 1;
            }
        }
    }
}

/// The word and the bit of [`Needles::begins`] for two bytes.
fn begin(first: u8, second: u8) -> [usize; 2] {
    let both = usize::from(u16::from_be_bytes([first, second]));
    [both / 64, both % 64]
}

/// What base64 makes of a secret that stands anywhere in what is encoded: for each place modulo
/// three the characters that depend on the secret alone.
fn base64_forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = Vec::new();
    for before in 0..3_usize {
        let mut padded = vec![0; before];
        padded.extend_from_slice(secret);
        let first = (before * 8).div_ceil(6);
        let last = padded.len() * 8 / 6;
        for text in [STANDARD_NO_PAD.encode(&padded), URL_SAFE_NO_PAD.encode(&padded)] {
            forms.extend(text.get(first..last).map(|form| form.as_bytes().to_vec()));
        }
    }
    forms
}

/// How JSON and URLs may escape a secret that is not ASCII. The layers undo single bytes only.
fn escaped_forms(secret: &str) -> Vec<Vec<u8>> {
    if secret.is_ascii() {
        return Vec::new();
    }
    let json = |unit: &dyn Fn(u16) -> String| {
        let mut buffer = [0; 2];
        let escaped = secret.chars().map(|c| match c.is_ascii() {
            true => c.to_string(),
            false => c.encode_utf16(&mut buffer).iter().map(|code| unit(*code)).collect(),
        });
        escaped.collect::<String>().into_bytes()
    };
    let percent = |byte: &dyn Fn(u8) -> String| {
        let escaped = secret.bytes().map(|b| match b.is_ascii_alphanumeric() {
            true => char::from(b).to_string(),
            false => byte(b),
        });
        escaped.collect::<String>().into_bytes()
    };
    vec![
        json(&|code| format!("\\u{code:04x}")),
        json(&|code| format!("\\u{code:04X}")),
        percent(&|byte| format!("%{byte:02x}")),
        percent(&|byte| format!("%{byte:02X}")),
    ]
}

fn found(original: &[u8]) -> Vec<Range<usize>> {
    let needles = Needles::current();
    let mut ranges: Vec<Range<usize>> = Vec::new();
    needles.search(original, |range| ranges.push(range));
    let mut layer = Layer::undone(original, None);
    for _ in 1..LAYERS_MAX {
        let Some(undone) = layer else {
            break;
        };
        needles.search(&undone.text, |range| {
            ranges.push(undone.starts[range.start]..undone.ends[range.end - 1]);
        });
        layer = Layer::undone(&undone.text, Some(&undone));
    }
    ranges.sort_by_key(|range| range.start);
    ranges
}

/// Where the beginning of a secret stands at the end of a text.
fn torn_start(original: &[u8]) -> Option<usize> {
    let needles = Needles::current();
    let from = original.len().saturating_sub(TORN_BYTES_MAX);
    let text = &original[from..];
    // The cut may be in the middle of an escape, or of one that is escaped itself.
    let ends = (0..=ESCAPE_BYTES_MAX.min(text.len()))
        .map(|cut| text.len() - cut)
        .filter(|&end| end == text.len() || matches!(text.get(end), Some(b'\\' | b'%')));
    let starts = ends.filter_map(|end| {
        let text = &text[..end];
        let mut first = needles.torn(text);
        let mut layer = Layer::undone(text, None);
        for _ in 1..LAYERS_MAX {
            let Some(undone) = layer else {
                break;
            };
            let start = needles.torn(&undone.text).map(|at| undone.starts[at]);
            first = first.into_iter().chain(start).min();
            layer = Layer::undone(&undone.text, Some(&undone));
        }
        first
    });
    starts.min().map(|start| from + start)
}

fn cut(text: &[u8], ranges: &[Range<usize>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut from = 0;
    for range in ranges {
        if range.start >= from {
            out.extend_from_slice(&text[from..range.start]);
            out.extend_from_slice(MASK.as_bytes());
        }
        from = from.max(range.end);
    }
    out.extend_from_slice(&text[from..]);
    out
}

/// A text with its escapes undone, and where each of its bytes stands in the original.
struct Layer {
    text: Vec<u8>,
    starts: Vec<usize>,
    ends: Vec<usize>,
}

impl Layer {
    /// `text`, which is `of` the original, without one level of escapes; `None` if it has none.
    fn undone(text: &[u8], of: Option<&Layer>) -> Option<Layer> {
        memchr::memchr2(b'\\', b'%', text)?;
        let mut layer = Layer { text: Vec::new(), starts: Vec::new(), ends: Vec::new() };
        let mut at = 0;
        let mut is_changed = false;
        while at < text.len() {
            let (byte, length) = unescaped(&text[at..]);
            is_changed |= length > 1;
            layer.text.push(byte);
            layer.starts.push(of.map_or(at, |of| of.starts[at]));
            layer.ends.push(of.map_or(at + length, |of| of.ends[at + length - 1]));
            at += length;
        }
        is_changed.then_some(layer)
    }
}

/// The first byte that is meant, and how many bytes say it. What is not ASCII may come out as
/// anything else that is not, see [`escaped_forms`].
fn unescaped(text: &[u8]) -> (u8, usize) {
    let hex = |digits: &[u8]| {
        let digits = std::str::from_utf8(digits).ok()?;
        digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(())?;
        u32::from_str_radix(digits, 16).ok()
    };
    match text {
        [b'%', rest @ ..] if rest.len() >= 2 => match hex(&rest[..2]) {
            Some(byte) => (u8::try_from(byte).unwrap_or(b'%'), 3),
            None => (b'%', 1),
        },
        [b'\\', b'u', rest @ ..] if rest.len() >= 4 => match hex(&rest[..4]) {
            Some(code) => (u8::try_from(code).unwrap_or(0xff), 6),
            None => (b'\\', 1),
        },
        [b'\\', b'x', rest @ ..] if rest.len() >= 2 => match hex(&rest[..2]) {
            Some(byte) => (u8::try_from(byte).unwrap_or(b'\\'), 4),
            None => (b'\\', 1),
        },
        [b'\\', b'n', ..] => (b'\n', 2),
        [b'\\', b'r', ..] => (b'\r', 2),
        [b'\\', b't', ..] => (b'\t', 2),
        [b'\\', byte @ (b'\\' | b'/' | b'"' | b'\''), ..] => (*byte, 2),
        [byte, ..] => (*byte, 1),
        [] => (0, 1),
    }
}

/// What is shorter is no secret, and taking it out of every text would leave riddles.
const SECRET_BYTES_MIN: usize = 8;
/// More than rotations bring in a year.
const SECRETS_MAX: usize = 4096;
/// A client that invents keys fills neither the memory nor the time of a search.
const CLIENT_SECRETS_MAX: usize = 256;
/// By how many first bytes forms are told apart.
const HEAD_BYTES: usize = 4;
/// The end of a text in which the beginning of a secret is looked for.
const TORN_BYTES_MAX: usize = 16 * 1024;
/// Bytes of an escape that is escaped itself, without the last.
const ESCAPE_BYTES_MAX: usize = 12;
/// JSON in JSON in a URL.
const LAYERS_MAX: usize = 5;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::Secret;
    use super::*;

    #[test]
    fn d4_a_secret_is_found_in_every_form() {
        let secret = "plain/looking+key.0123";
        drop(Secret::new(secret));
        let json = serde_json::to_string(secret).unwrap();
        let every: String = secret.bytes().map(|byte| format!("\\u{byte:04X}")).collect();
        let percent: String = secret.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let nested = serde_json::to_string(&serde_json::to_string(&json).unwrap()).unwrap();
        let mut forms = vec![
            secret.to_owned(),
            secret.replace('/', "\\/"),
            secret.replace('/', "\\u002f"),
            secret.replace('/', "%2F").replace('+', "%2B"),
            secret.replace('/', "%252F"),
            every.clone(),
            every.replace('\\', "\\\\"),
            percent,
            nested,
        ];
        for before in ["", "x", "user:", "four"] {
            let plain = format!("{before}{secret}@host");
            forms.push(base64::engine::general_purpose::STANDARD.encode(&plain));
            forms.push(base64::engine::general_purpose::URL_SAFE.encode(&plain));
        }
        for form in forms {
            let shown = text(&form).into_owned();
            assert!(shown.contains(MASK), "{form} is shown as {shown}");
            assert!(shown.len() <= form.len() + MASK.len(), "{form}");
            let around = format!("before {form} after {form}");
            let shown = text(&around);
            assert!(shown.starts_with("before ") && shown.contains(" after "), "{shown}");
            assert_eq!(shown.matches(MASK).count(), 2, "{shown}");
        }
    }

    #[test]
    fn d4_a_secret_that_is_not_ascii_is_found_too() {
        let secret = "ключ для\u{1f511} всего";
        drop(Secret::new(secret));
        let json = "\\u043a\\u043b\\u044e\\u0447 \\u0434\\u043b\\u044f\\ud83d\\udd11 \\u0432\\u0441\\u0435\\u0433\\u043e";
        let percent: String = secret.bytes().map(|byte| format!("%{byte:02X}")).collect();
        for form in [
            secret,
            json,
            &json.replace("\\ud83d\\udd11", "\\uD83D\\uDD11").to_uppercase().replace("\\U", "\\u"),
            &percent,
            &percent.to_lowercase(),
        ] {
            assert_eq!(text(&format!("a {form} b")), format!("a {MASK} b"), "{form}");
        }
    }

    #[test]
    fn d4_what_holds_no_secret_stays_as_it_is() {
        drop(Secret::new("another-secret-0001"));
        for plain in
            ["", "%", "\\", "100% of \\u00e9\\n", "another-secret-000", "工作", "\\ud83d\\ude00"]
        {
            assert!(matches!(text(plain), Cow::Borrowed(_)), "{plain}");
        }
        assert_eq!(bytes(b"\xff\xfe another-secret-0001\xff").unwrap(), b"\xff\xfe [masked]\xff");
        assert_eq!(bytes(b"\xff\xfe"), None);
        drop(Secret::new("short"));
        assert_eq!(text("short"), "short");
    }

    #[test]
    fn d4_a_secret_across_a_limit_is_hidden_whole() {
        drop(Secret::new("across-the-limit-0001"));
        let text = b"ab across-the-limit-0001 cd \\u0061cross-the-limit-0001 ef";
        for limit in 0..text.len() + 2 {
            let shown = String::from_utf8(start_of(text, limit)).unwrap();
            assert!(!shown.contains("acr") && !shown.contains("u0061"), "{limit}: {shown}");
            assert!("ab [masked] cd [masked] ef".starts_with(&shown), "{limit}: {shown}");
        }
    }

    #[test]
    fn d4_the_beginning_of_a_secret_at_a_torn_end_is_hidden() {
        let secret = "torn/anywhere+0001";
        drop(Secret::new(secret));
        let every = |form: &dyn Fn(u8) -> String| secret.bytes().map(form).collect::<String>();
        for form in [
            secret.to_owned(),
            secret.replace('/', "\\/"),
            every(&|byte| format!("\\u{byte:04x}")),
            every(&|byte| format!("\\\\u{byte:04x}")),
            every(&|byte| format!("%{byte:02x}")),
            every(&|byte| format!("%25{byte:02X}")),
            base64::engine::general_purpose::STANDARD.encode(secret),
        ] {
            let text = format!("bad key {form}");
            // Four letters of it are no secret yet.
            let first = form.len() * 4 / secret.len() + 8;
            for end in first + 5..=text.len() {
                let shown = String::from_utf8(torn(&text.as_bytes()[..end])).unwrap();
                let rest = shown.strip_prefix("bad key [masked]");
                assert!(rest.is_some_and(|rest| rest.len() < 3), "{form} until {end}: {shown}");
            }
        }
        assert_eq!(torn(b"nothing of it \\"), b"nothing of it \\");
    }

    #[test]
    fn d4_a_client_that_invents_keys_drives_out_none_of_ours() {
        drop(Secret::new("ours-of-the-config-0001"));
        drop(Secret::of_a_client("of-the-first-client-0001"));
        for number in 0..CLIENT_SECRETS_MAX {
            drop(Secret::of_a_client(format!("invented-key-{number:04}")));
        }
        assert_eq!(text("ours-of-the-config-0001 invented-key-0255"), "[masked] [masked]");
        assert_eq!(text("of-the-first-client-0001"), "of-the-first-client-0001");
    }

    #[test]
    fn d4_no_text_makes_it_slow() {
        drop(Secret::new("sk-ant-repeated-0002"));
        for piece in ["sk-a", "%2", "\\u00", "%25", "\\\\"] {
            let long = piece.repeat(400_000 / piece.len());
            assert_eq!(text(&long), long);
        }
    }
}
