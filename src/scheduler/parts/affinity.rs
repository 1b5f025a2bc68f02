//! Memory of sessions and threads (SPEC S9, P9, P10). It is bounded: the least recently used entry
//! is dropped first.
//!
//! A session matters for routing because of its prompt cache, and the cache is where the session
//! was *served*, not where it was sent. An attempt that fails, or one of two parallel requests that
//! is briefly served elsewhere, must not make the router forget the account that has the prompt
//! cached. So a binding records separately which account was granted last, which one served last
//! and when, and the home, which may have a copy of its own. Remembering only the last account
//! would be simpler, but sessions would then move after each failover and write their prompts
//! again.
//!
//! The end of a cache is not known. It is assumed five minutes after the last request that was
//! served. Nothing here decides; `select` does.

use std::collections::BTreeMap;
use std::time::Duration;

use super::cost::PromptCache;
use super::policy::{CACHE_LIFETIME, HOME_RETURN, SESSIONS_MAX, THREADS_MAX};
use super::request::{AccountId, SessionKey, ThreadKey};
use super::time::Mono;

/// Sessions and threads.
#[derive(Debug)]
pub(crate) struct Affinity {
    sessions: Recency<SessionKey, Session>,
    threads: Recency<ThreadKey, (AccountId, Mono)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Session {
    binding: Option<Binding>,
    used: Mono,
    /// P9: kept longer than the binding.
    thinking: bool,
}

/// The home and the current account of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Binding {
    /// The first account that served it, or a better one that served it later.
    pub(crate) home: Option<AccountId>,
    /// The account granted last.
    pub(crate) current: AccountId,
    /// When the home was granted the last request that it then served; its cache dates from then.
    home_served: Option<Mono>,
    /// The same for the account that served it last, in case an account that was only granted has
    /// replaced it as `current`.
    served: Option<(AccountId, Mono)>,
    /// While away from home: since when the home could have served it again.
    home_usable: Option<Mono>,
    pub(crate) critical: Critical,
}

/// Whether a session has left an account because of its critical week.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Critical {
    #[default]
    Leaves,
    /// It has left one before. If it left every time, it could alternate between two accounts.
    HasLeft,
}

impl Binding {
    fn new(account: AccountId) -> Binding {
        Binding {
            home: None,
            current: account,
            home_served: None,
            served: None,
            home_usable: None,
            critical: Critical::default(),
        }
    }

    /// Whether this account has the session's prompt cached.
    pub(crate) fn cache_on(&self, now: Mono, account: AccountId) -> PromptCache {
        let is_warm = |at: Option<Mono>| at.is_some_and(|at| at + CACHE_LIFETIME > now);
        let here = self.served.is_some_and(|(id, at)| id == account && is_warm(Some(at)));
        let at_home = self.home == Some(account) && is_warm(self.home_served);
        match here || at_home {
            true => PromptCache::Warm,
            false => PromptCache::Cold,
        }
    }

    /// Whether any account has it cached.
    pub(crate) fn is_cached(&self, now: Mono) -> bool {
        let warm = |account| self.cache_on(now, account) == PromptCache::Warm;
        self.last_served().is_some_and(warm) || self.home.is_some_and(warm)
    }

    /// The account that served it last.
    pub(crate) fn last_served(&self) -> Option<AccountId> {
        self.served.map(|(account, _)| account)
    }

    /// Whether the session has been away from a usable home for so long that it returns in any
    /// case.
    pub(crate) fn is_overdue(&self, now: Mono) -> bool {
        self.home_usable.is_some_and(|since| since + HOME_RETURN <= now)
    }
}

/// What a decision has found out about the home of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    Usable,
    Unusable,
}

impl Affinity {
    pub(crate) fn new() -> Affinity {
        Affinity { sessions: Recency::new(SESSIONS_MAX), threads: Recency::new(THREADS_MAX) }
    }

    /// The binding, unless it has been unused for `idle`.
    pub(crate) fn binding(
        &self,
        now: Mono,
        session: SessionKey,
        idle: Duration,
    ) -> Option<Binding> {
        let session = self.sessions.get(&session)?;
        session.binding.filter(|_| session.used + idle > now)
    }

    /// Binds the session to this account.
    pub(crate) fn bind(
        &mut self,
        now: Mono,
        session: SessionKey,
        account: AccountId,
        idle: Duration,
    ) {
        let known = self.binding(now, session, idle);
        let mut binding = known.unwrap_or_else(|| Binding::new(account));
        binding.current = account;
        let entry = self.sessions.touch(session, Session::default());
        entry.used = now;
        entry.binding = Some(binding);
    }

    /// Records what the decision found: the state of the home, and whether the session left a
    /// critical account.
    pub(crate) fn note(&mut self, now: Mono, session: SessionKey, home: Home, critical: Critical) {
        let Some(binding) = self.bound(session) else {
            return;
        };
        binding.critical = critical;
        binding.home_usable = match home {
            Home::Usable => binding.home_usable.or(Some(now)),
            Home::Unusable => None,
        };
    }

    /// This account has served a request that was granted at that time.
    pub(crate) fn served(&mut self, session: SessionKey, account: AccountId, granted: Mono) {
        let Some(binding) = self.bound(session) else {
            return;
        };
        if binding.served.is_none_or(|(_, at)| at <= granted) {
            binding.served = Some((account, granted));
        }
        if binding.home == Some(account) {
            binding.home_served = binding.home_served.max(Some(granted));
        }
    }

    /// Makes this account the session's home.
    pub(crate) fn settle(&mut self, session: SessionKey, account: AccountId) {
        if let Some(binding) = self.bound(session) {
            binding.home = Some(account);
            binding.home_usable = None;
            binding.home_served = match binding.served {
                Some((served, at)) if served == account => Some(at),
                Some(_) | None => None,
            };
        }
    }

    fn bound(&mut self, session: SessionKey) -> Option<&mut Binding> {
        self.sessions.get_mut(&session)?.binding.as_mut()
    }

    pub(crate) fn is_thinking(&self, session: SessionKey) -> bool {
        self.sessions.get(&session).is_some_and(|entry| entry.thinking)
    }

    /// Returns true if that is new.
    pub(crate) fn note_thinking(&mut self, session: SessionKey) -> bool {
        !std::mem::replace(&mut self.sessions.touch(session, Session::default()).thinking, true)
    }

    pub(crate) fn thread_owner(
        &self,
        now: Mono,
        thread: ThreadKey,
        idle: Duration,
    ) -> Option<AccountId> {
        let (owner, used) = *self.threads.get(&thread)?;
        (used + idle > now).then_some(owner)
    }

    pub(crate) fn note_thread(&mut self, now: Mono, thread: ThreadKey, account: AccountId) {
        *self.threads.touch(thread, (account, now)) = (account, now);
    }

    /// Removes entries unused for `idle`, a few at a time; protection of thinking stays until it is
    /// displaced.
    pub(crate) fn expire(&mut self, now: Mono, idle: Duration) {
        for _ in 0..EXPIRED_PER_LOOK {
            match self.sessions.oldest() {
                Some((key, entry)) if !entry.thinking && entry.used + idle <= now => {
                    self.sessions.remove(&key);
                }
                _ => break,
            }
        }
        for _ in 0..EXPIRED_PER_LOOK {
            match self.threads.oldest() {
                Some((key, (_, used))) if *used + idle <= now => self.threads.remove(&key),
                _ => break,
            }
        }
    }

    pub(crate) fn bindings(&self, now: Mono, idle: Duration) -> usize {
        let bound = |entry: &&Session| entry.binding.is_some() && entry.used + idle > now;
        self.sessions.values().filter(bound).count()
    }

    pub(crate) fn thinking_sessions(&self) -> usize {
        self.sessions.values().filter(|entry| entry.thinking).count()
    }

    pub(crate) fn threads(&self) -> usize {
        self.threads.len()
    }
}

/// The memory of one session, for a process that takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownSession {
    /// Its key.
    pub session: SessionKey,
    /// Its home; `None` if it is not bound, or was bound away from home from the start.
    pub home: Option<AccountId>,
    /// The account that served it last; `None` if it is not bound.
    pub current: Option<AccountId>,
    /// How long it has been unused.
    pub idle: Duration,
    /// P9: it contains signed thinking.
    pub thinking: bool,
}

/// The same for a thread (P10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownThread {
    /// Its key.
    pub thread: ThreadKey,
    /// The account that owns it.
    pub owner: AccountId,
    /// How long it has been unused.
    pub idle: Duration,
}

impl Affinity {
    /// The `count` most recently used sessions, latest first.
    pub(crate) fn known_sessions(
        &self,
        now: Mono,
        idle: Duration,
        count: usize,
    ) -> Vec<KnownSession> {
        let latest = self.sessions.latest();
        let known = latest.filter_map(|(key, session)| {
            let binding = session.binding.filter(|_| session.used + idle > now);
            (binding.is_some() || session.thinking).then(|| KnownSession {
                session: key,
                home: binding.and_then(|binding| binding.home),
                current: binding.map(|binding| binding.current),
                idle: now.since(session.used),
                thinking: session.thinking,
            })
        });
        known.take(count).collect()
    }

    /// The `count` most recently used threads, latest first.
    pub(crate) fn known_threads(
        &self,
        now: Mono,
        idle: Duration,
        count: usize,
    ) -> Vec<KnownThread> {
        let latest = self.threads.latest();
        let known = latest.filter(|(_, (_, used))| *used + idle > now);
        let known = known.map(|(thread, (owner, used))| KnownThread {
            thread,
            owner: *owner,
            idle: now.since(*used),
        });
        known.take(count).collect()
    }

    /// Adds what another process remembers; what was learned here is newer. Call it for the latest
    /// session last.
    pub(crate) fn recall_session(&mut self, now: Mono, known: &KnownSession) {
        let entry = self.sessions.touch(known.session, Session::default());
        entry.thinking |= known.thinking;
        // The account that served it last may be gone, or known only to that process.
        if let (None, Some(current)) = (entry.binding, known.current.or(known.home)) {
            let used = now.before(known.idle);
            entry.used = used;
            entry.binding = Some(Binding {
                home: known.home,
                // As far as the other process has told, the last request was served there.
                served: known.current.map(|account| (account, used)),
                home_served: (known.home == known.current).then_some(used),
                ..Binding::new(current)
            });
        }
    }

    /// The same for a thread.
    pub(crate) fn recall_thread(&mut self, now: Mono, known: &KnownThread) {
        if self.threads.get(&known.thread).is_none() {
            let used = now.before(known.idle);
            self.threads.touch(known.thread, (known.owner, used));
        }
    }
}

/// Keeps a check short; the memory itself is bounded by its capacity.
const EXPIRED_PER_LOOK: usize = 4;

/// A map that tracks the order in which its entries were used.
#[derive(Debug)]
struct Recency<K, V> {
    capacity: usize,
    clock: u64,
    entries: BTreeMap<K, (u64, V)>,
    order: BTreeMap<u64, K>,
}

impl<K: Ord + Copy, V> Recency<K, V> {
    fn new(capacity: usize) -> Recency<K, V> {
        Recency { capacity, clock: 0, entries: BTreeMap::new(), order: BTreeMap::new() }
    }

    fn len(&self) -> usize {
        self.entries.len()
    }

    fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key).map(|(_, value)| value)
    }

    fn values(&self) -> impl Iterator<Item = &V> {
        self.entries.values().map(|(_, value)| value)
    }

    fn oldest(&self) -> Option<(K, &V)> {
        let (_, key) = self.order.first_key_value()?;
        self.get(key).map(|value| (*key, value))
    }

    /// The entries, most recently used first.
    fn latest(&self) -> impl Iterator<Item = (K, &V)> {
        let keys = self.order.values().rev();
        keys.filter_map(|key| Some((*key, self.get(key)?)))
    }

    fn remove(&mut self, key: &K) {
        if let Some((tick, _)) = self.entries.remove(key) {
            self.order.remove(&tick);
        }
    }

    /// The entry, marked as most recently used and created if it is new; displaces the oldest
    /// beyond the capacity.
    fn touch(&mut self, key: K, new: V) -> &mut V {
        self.clock += 1;
        let clock = self.clock;
        if !self.entries.contains_key(&key)
            && self.entries.len() >= self.capacity
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.entries.remove(&oldest);
        }
        let (tick, value) = self.entries.entry(key).or_insert((clock, new));
        self.order.remove(tick);
        self.order.insert(clock, key);
        *tick = clock;
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r2_what_is_known_is_handed_over_and_never_over_what_is_newer() {
        let (a, b) = (AccountId(1), AccountId(2));
        let now = Mono(1_000_000);
        let mut old = Affinity::new();
        for (session, used) in [(1, 100), (2, 200), (3, 300)] {
            old.bind(now.before(Duration::from_millis(1_000 - used)), SessionKey(session), a, IDLE);
        }
        old.settle(SessionKey(3), b);
        old.note_thinking(SessionKey(2));
        old.note_thread(now, ThreadKey(9), b);
        let known = old.known_sessions(now, IDLE, 2);
        let keys: Vec<u128> = known.iter().map(|known| known.session.0).collect();
        assert_eq!(keys, [2, 3], "the latest use counts, thinking is one");
        let mut new = Affinity::new();
        new.bind(now, SessionKey(2), b, IDLE);
        for known in known.iter().rev() {
            new.recall_session(now, known);
        }
        for known in &old.known_threads(now, IDLE, 10) {
            new.recall_thread(now, known);
        }
        let current = |session| {
            new.binding(now, SessionKey(session), IDLE)
                .map(|binding| (binding.current, binding.home))
        };
        assert_eq!(current(3), Some((a, Some(b))));
        assert_eq!(current(2), Some((b, None)), "it was bound here since");
        assert!(new.is_thinking(SessionKey(2)));
        assert_eq!(new.thread_owner(now, ThreadKey(9), IDLE), Some(b));
        let later = now + IDLE;
        assert_eq!(new.binding(later, SessionKey(3), IDLE), None, "its time goes on");
    }

    const IDLE: Duration = Duration::from_secs(3_600);

    #[test]
    fn a_binding_knows_home_and_current_and_is_forgotten_when_idle() {
        let mut memory = Affinity::new();
        let (session, first, second) = (SessionKey(7), AccountId(1), AccountId(2));
        memory.bind(Mono(0), session, first, IDLE);
        memory.settle(session, first);
        memory.bind(Mono(1_000), session, second, IDLE);
        let bound = memory.binding(Mono(2_000), session, IDLE);
        assert_eq!(bound.map(|bound| (bound.home, bound.current)), Some((Some(first), second)));
        assert_eq!(memory.bindings(Mono(2_000), IDLE), 1);
        assert_eq!(memory.binding(Mono(3_601_000), session, IDLE), None, "S9: idle");
        memory.expire(Mono(3_601_000), IDLE);
        assert_eq!(memory.sessions.len(), 0);
    }

    #[test]
    fn s7_a_cache_is_known_where_the_session_was_served() {
        let mut memory = Affinity::new();
        let (session, home, other) = (SessionKey(7), AccountId(1), AccountId(2));
        let cache = |memory: &Affinity, at: u64, account| {
            let binding = memory.binding(Mono(at), session, IDLE);
            binding.map(|binding| binding.cache_on(Mono(at), account))
        };
        memory.bind(Mono(0), session, home, IDLE);
        assert_eq!(cache(&memory, 1, home), Some(PromptCache::Cold), "not served yet");
        memory.settle(session, home);
        memory.served(session, home, Mono(0));
        assert_eq!(cache(&memory, 299_999, home), Some(PromptCache::Warm));
        assert_eq!(cache(&memory, 300_000, home), Some(PromptCache::Cold));
        memory.bind(Mono(100_000), session, other, IDLE);
        memory.served(session, other, Mono(100_000));
        assert_eq!(cache(&memory, 299_999, home), Some(PromptCache::Warm), "home's copy");
        assert_eq!(cache(&memory, 399_999, other), Some(PromptCache::Warm));
        memory.bind(Mono(200_000), session, home, IDLE);
        assert_eq!(cache(&memory, 200_000, home), Some(PromptCache::Warm), "back");
    }

    #[test]
    fn thinking_outlives_the_binding() {
        let mut memory = Affinity::new();
        memory.bind(Mono(0), SessionKey(1), AccountId(1), IDLE);
        assert!(memory.note_thinking(SessionKey(1)));
        assert!(!memory.note_thinking(SessionKey(1)));
        memory.expire(Mono(u64::MAX / 2), IDLE);
        assert!(memory.is_thinking(SessionKey(1)));
        assert_eq!(memory.thinking_sessions(), 1);
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut memory: Recency<u32, &str> = Recency::new(2);
        memory.touch(1, "a");
        memory.touch(2, "b");
        memory.touch(1, "unused");
        memory.touch(3, "c");
        assert_eq!(
            (memory.get(&1), memory.get(&2), memory.get(&3)),
            (Some(&"a"), None, Some(&"c"))
        );
        assert_eq!((memory.len(), memory.order.len()), (2, 2));
        memory.remove(&1);
        assert_eq!((memory.len(), memory.order.len()), (1, 1));
    }

    #[test]
    fn memory_is_bounded() {
        let mut memory = Affinity::new();
        for n in 0..(SESSIONS_MAX as u128 + 500) {
            memory.bind(Mono(n as u64), SessionKey(n), AccountId(0), IDLE);
            memory.note_thread(Mono(n as u64), ThreadKey(n), AccountId(0));
        }
        assert_eq!((memory.sessions.len(), memory.threads()), (SESSIONS_MAX, THREADS_MAX));
    }
}
