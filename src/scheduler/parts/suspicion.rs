//! Suspicion (SPEC P7, *Unproven*): the effect of a refusal without evidence, until an unrelated
//! request clears or proves it.
//!
//! A 500 or a bare 429 says that something went wrong but not what: it may be the account, the API,
//! or this one request. Taking the account from all requests at once would let a single bad request
//! stop the pool; ignoring the refusal would send request after request to an account that is down.
//! So the account is only *avoided*, for as long as a cooldown would last. An unrelated request
//! that it serves clears it; an unrelated request that meets the same refusal proves it, and only
//! then is the account set aside. Requests that share session and first message are kin and prove
//! nothing about each other.
//!
//! ```text
//!            refused                  unrelated, same fingerprint
//!   trusted ─────────▶ suspected ─────────────────────────────────▶ proven (a block as well)
//!      ▲                   │                                           │
//!      └── served ◀────────┴────────────────── served ─────────────────┘
//! ```

use std::sync::Arc;
use std::time::Duration;

use super::block::Evidence;
use super::id::{Kin, RouteClass};
use super::policy::{SUSPICION_MEMORY, SUSPICIONS_MAX};
use super::time::{Mono, Now};

/// A refusal without its numbers and ids: equal for the same trouble on different accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// Computed from a refusal's route class, status, type and message, without every word that
    /// contains a digit.
    #[must_use]
    pub fn of(class: RouteClass, status: u16, kind: &str, message: &str) -> Fingerprint {
        let words = message
            .split_whitespace()
            .filter(|word| !word.bytes().any(|byte| byte.is_ascii_digit()));
        let mut hash = FNV_OFFSET;
        let mut add = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME);
        add(class as u8);
        status.to_be_bytes().into_iter().for_each(&mut add);
        for word in std::iter::once(kind).chain(words) {
            word.bytes().chain(std::iter::once(0)).for_each(&mut add);
        }
        Fingerprint(hash)
    }
}

/// FNV-1a, which is good enough to compare short texts.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

/// The suspicions against one account, and the requests that it has served recently.
#[derive(Debug, Default)]
pub(crate) struct Suspicions {
    list: Vec<Suspicion>,
    served: [Served; RouteClass::ALL.len()],
}

/// One unexplained refusal.
#[derive(Clone, Debug)]
pub(crate) struct Suspicion {
    pub(crate) class: RouteClass,
    pub(crate) evidence: Arc<Evidence>,
    /// The account is avoided until then.
    pub(crate) until: Mono,
    fingerprint: Fingerprint,
    raised_by: Raiser,
    /// Consecutive refusals; those that were in progress at the same time count as one.
    in_a_row: u32,
    last: Mono,
}

/// Which requests met a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Raiser {
    One(Kin),
    Unrelated,
}

/// How far a refusal is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// No unrelated request has met the same.
    Unproven,
    /// An unrelated request has met the same.
    Proven,
}

/// A refusal without evidence, or one on the way to the account.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    /// When the refused request was sent.
    pub(crate) sent: Mono,
    pub(crate) class: RouteClass,
    pub(crate) kin: Kin,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) evidence: Arc<Evidence>,
}

/// The most recently sent requests that a route class has served: the latest one, and the latest
/// one that is not its kin. These two suffice to tell for any request whether an unrelated one was
/// served since.
#[derive(Clone, Copy, Debug, Default)]
struct Served {
    last: Option<(Mono, Kin)>,
    other: Option<Mono>,
}

impl Served {
    fn add(&mut self, sent: Mono, kin: Kin) {
        match self.last {
            Some((at, known)) if known == kin => self.last = Some((at.max(sent), kin)),
            Some((at, _)) if at > sent => self.other = self.other.max(Some(sent)),
            Some((at, _)) => *self = Served { last: Some((sent, kin)), other: Some(at) },
            None => self.last = Some((sent, kin)),
        }
    }

    fn unrelated_to(&self, kin: Kin) -> Option<Mono> {
        match self.last {
            Some((at, last)) if last != kin => Some(at),
            Some(_) | None => self.other,
        }
    }
}

/// The length of a suspicion: `cooldownMs`, doubling, at most `maxCooldownMs`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cooldown {
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
}

impl Cooldown {
    /// After this many consecutive refusals.
    pub(crate) fn after(self, refusals: u32) -> Duration {
        let doublings = refusals.saturating_sub(1).min(31);
        self.first.saturating_mul(1 << doublings).min(self.longest)
    }
}

impl Suspicions {
    /// Records a refusal. Returns how far it is proven, and the length of the suspicion or
    /// cooldown.
    pub(crate) fn refused(
        &mut self,
        now: Mono,
        refused: Refused,
        cooldown: Cooldown,
    ) -> (Finding, Duration) {
        self.list.retain(|one| one.until.max(one.last + SUSPICION_MEMORY) > now);
        let Refused { sent, class, kin, fingerprint, evidence } = refused;
        let known =
            self.list.iter_mut().find(|one| one.class == class && one.fingerprint == fingerprint);
        let Some(one) = known else {
            if self.list.len() >= SUSPICIONS_MAX {
                let oldest = (0..self.list.len()).min_by_key(|index| self.list[*index].last);
                oldest.map(|index| self.list.swap_remove(index));
            }
            let wait = cooldown.after(1);
            self.list.push(Suspicion {
                class,
                evidence,
                until: now + wait,
                fingerprint,
                raised_by: Raiser::One(kin),
                in_a_row: 1,
                last: now,
            });
            return (Finding::Unproven, wait);
        };
        if sent >= one.last {
            one.in_a_row = one.in_a_row.saturating_add(1);
        }
        if one.raised_by != Raiser::One(kin) {
            one.raised_by = Raiser::Unrelated;
        }
        let wait = cooldown.after(one.in_a_row);
        one.last = now;
        one.until = now + wait;
        one.evidence = evidence;
        match one.raised_by {
            Raiser::One(_) => (Finding::Unproven, wait),
            Raiser::Unrelated => (Finding::Proven, wait),
        }
    }

    /// A request of this class, sent at that time, was served.
    pub(crate) fn served(&mut self, sent: Mono, class: RouteClass, kin: Kin) {
        self.served[class as usize].add(sent, kin);
        self.list.retain(|one| one.class != class || one.last > sent);
    }

    /// Whether an unrelated request of this class, sent at `since` or later, was served.
    pub(crate) fn has_served_since(&self, class: RouteClass, kin: Kin, since: Mono) -> bool {
        self.served[class as usize].unrelated_to(kin).is_some_and(|sent| sent >= since)
    }

    /// Removes suspicions raised only by these kin: the refusal turned out to be their own.
    pub(crate) fn lift(&mut self, fingerprint: Fingerprint, kin: Kin) {
        let own =
            |one: &Suspicion| one.fingerprint == fingerprint && one.raised_by == Raiser::One(kin);
        self.list.retain(|one| !own(one));
    }

    pub(crate) fn clear(&mut self) {
        self.list.clear();
    }

    /// The suspicions in force.
    pub(crate) fn in_force(&self, now: Now) -> impl Iterator<Item = &Suspicion> {
        self.list.iter().filter(move |one| one.until > now.mono)
    }

    /// When the first of them ends.
    pub(crate) fn first_end(&self, now: Mono) -> Option<Mono> {
        self.list.iter().map(|one| one.until).filter(|until| *until > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOLDOWN: Cooldown =
        Cooldown { first: Duration::from_secs(30), longest: Duration::from_secs(100) };
    const ODD: Kin = Kin(1);
    const PLAIN: Kin = Kin(2);

    fn print(message: &str) -> Fingerprint {
        Fingerprint::of(RouteClass::Messages, 500, "api_error", message)
    }

    fn refused(sent: u64, kin: Kin, message: &str) -> Refused {
        Refused {
            sent: Mono(sent),
            class: RouteClass::Messages,
            kin,
            fingerprint: print(message),
            evidence: Arc::default(),
        }
    }

    fn now(ms: u64) -> Now {
        Now { mono: Mono(ms), ..Now::default() }
    }

    #[test]
    fn fingerprints() {
        let of = |class, status, kind, message| Fingerprint::of(class, status, kind, message);
        let base = of(RouteClass::Messages, 429, "rate_limit_error", "Error");
        assert_ne!(base, of(RouteClass::CountTokens, 429, "rate_limit_error", "Error"), "class");
        assert_ne!(base, of(RouteClass::Messages, 500, "rate_limit_error", "Error"), "status");
        assert_ne!(base, of(RouteClass::Messages, 429, "api_error", "Error"), "type");
        assert_ne!(base, of(RouteClass::Messages, 429, "rate_limit_error", "Other"), "message");
        assert_eq!(print("busy req_01 now"), print("busy req_02 now"), "words with a digit");
    }

    #[test]
    fn an_unrelated_request_proves_and_kin_do_not() {
        let mut one = Suspicions::default();
        let secs = Duration::from_secs;
        assert_eq!(
            one.refused(Mono(10), refused(0, ODD, "x"), COOLDOWN),
            (Finding::Unproven, secs(30))
        );
        assert_eq!(
            one.refused(Mono(20), refused(15, ODD, "x"), COOLDOWN),
            (Finding::Unproven, secs(60)),
            "n counts whoever met them"
        );
        assert_eq!(
            one.refused(Mono(25), refused(16, ODD, "x"), COOLDOWN),
            (Finding::Unproven, secs(60)),
            "under way together: one refusal"
        );
        assert_eq!(
            one.refused(Mono(30), refused(26, PLAIN, "y"), COOLDOWN).0,
            Finding::Unproven,
            "another fingerprint proves nothing"
        );
        assert_eq!(
            one.refused(Mono(40), refused(31, PLAIN, "x"), COOLDOWN),
            (Finding::Proven, secs(100)),
            "at most maxCooldownMs"
        );
        assert_eq!(one.in_force(now(40)).count(), 2);
        assert_eq!(one.in_force(now(100_040)).count(), 0);
    }

    #[test]
    fn a_request_that_was_sent_later_and_served_clears() {
        let mut one = Suspicions::default();
        one.refused(Mono(100), refused(0, ODD, "x"), COOLDOWN);
        one.served(Mono(99), RouteClass::Messages, PLAIN);
        assert_eq!(one.in_force(now(100)).count(), 1, "it was sent before the refusal");
        assert!(!one.has_served_since(RouteClass::Messages, ODD, Mono(100)));
        one.served(Mono(100), RouteClass::CountTokens, PLAIN);
        assert_eq!(one.in_force(now(100)).count(), 1, "another class says nothing");
        one.served(Mono(100), RouteClass::Messages, PLAIN);
        assert_eq!(one.in_force(now(100)).count(), 0);
        assert!(one.has_served_since(RouteClass::Messages, ODD, Mono(100)));
        assert!(!one.has_served_since(RouteClass::Messages, PLAIN, Mono(100)), "that was itself");
        one.served(Mono(200), RouteClass::Messages, ODD);
        assert!(one.has_served_since(RouteClass::Messages, ODD, Mono(100)), "still remembered");
        assert!(one.has_served_since(RouteClass::Messages, PLAIN, Mono(200)));
    }

    #[test]
    fn what_one_request_alone_has_raised_is_lifted() {
        let mut one = Suspicions::default();
        one.refused(Mono(1), refused(0, ODD, "x"), COOLDOWN);
        one.refused(Mono(2), refused(0, ODD, "y"), COOLDOWN);
        one.refused(Mono(3), refused(2, PLAIN, "y"), COOLDOWN);
        one.lift(print("x"), ODD);
        one.lift(print("y"), ODD);
        assert_eq!(one.in_force(now(3)).count(), 1, "what others met stays");
    }

    #[test]
    fn memory_is_bounded() {
        let mut one = Suspicions::default();
        for number in 0..100_u8 {
            let word = String::from_utf8_lossy(&[b'a' + number / 10, b'a' + number % 10]).into();
            let message: String = word;
            one.refused(Mono(u64::from(number)), refused(0, ODD, &message), COOLDOWN);
        }
        assert_eq!(one.list.len(), SUSPICIONS_MAX);
    }
}
