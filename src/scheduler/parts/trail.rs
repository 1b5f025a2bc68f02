//! The history of one request (SPEC P7): where it was refused, and its suspense.
//!
//! The scheduler knows accounts, and keeps nothing about a request between two attempts. So what a
//! refusal means for the next attempt of the same request travels with the request: the end of an
//! attempt returns an [`Aftermath`], which the worker adds to the [`Trail`] before it asks again.
//!
//! A request that was refused everywhere without evidence is neither answered nor held in the
//! queue: it waits in *suspense* and tries again from time to time, with one call each. As soon as
//! an account that refused it has served an unrelated request, it tries that account; if it is
//! refused there again, the refusal is its own.

use std::sync::Arc;
use std::time::Duration;

use super::block::Evidence;
use super::id::AccountId;
use super::policy::{Policy, SUSPENSE_LOOK, TRAIL_MAX};
use super::suspicion::{Cooldown, Fingerprint};
use super::time::Mono;

/// Where a request was refused, and how it waits for an explanation. Opaque: filled by
/// [`Trail::add`], carried in a request (`scheduler::Request`).
#[derive(Clone, Debug, Default)]
pub struct Trail {
    /// At most one per account.
    refusals: Vec<PastRefusal>,
    /// Accounts that answered 403 without saying why (P7).
    forbidden: Vec<(AccountId, Arc<Evidence>)>,
    suspense: Option<Suspense>,
    /// There was an answer that waiting cannot improve.
    never_held: bool,
}

/// What the end of an attempt means for its own request. Pass it to [`Trail::add`].
#[derive(Clone, Debug, Default)]
pub struct Aftermath {
    pub(crate) refusal: Option<PastRefusal>,
    pub(crate) forbidden: Option<(AccountId, Arc<Evidence>)>,
    pub(crate) never_held: bool,
    pub(crate) ends: bool,
}

/// One account's refusal of this request.
#[derive(Clone, Debug)]
pub(crate) struct PastRefusal {
    pub(crate) account: AccountId,
    pub(crate) at: Mono,
    pub(crate) why: RefusedFor,
}

/// What keeps a request from an account that has refused it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefusedFor {
    /// It must leave the account alone until then, whoever else may use it.
    Delay(Mono),
    /// The reason is not known yet.
    Unproven { unproven: Unproven, fingerprint: Fingerprint },
}

/// A kind of refusal without evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unproven {
    /// 429, with its `retry-after`.
    Limit(Option<Duration>),
    /// 500.
    Error,
    /// A 200 that is empty or an HTML page (P6).
    NoAnswer,
}

#[derive(Clone, Copy, Debug)]
struct Suspense {
    since: Mono,
    /// The next attempt; none is due while one is in progress.
    look_at: Mono,
    looks: u32,
}

impl Aftermath {
    /// The refusal has turned out to be the request's own, so it is answered now.
    #[must_use]
    pub fn is_the_end(&self) -> bool {
        self.ends
    }
}

impl Trail {
    /// Adds the result of the last attempt.
    pub fn add(&mut self, after: Aftermath, policy: &Policy) {
        self.never_held |= after.never_held;
        self.forbidden.extend(after.forbidden);
        let Some(refusal) = after.refusal else {
            return;
        };
        if let (Some(suspense), RefusedFor::Unproven { unproven, .. }) =
            (&mut self.suspense, refusal.why)
        {
            suspense.looks = suspense.looks.saturating_add(1);
            suspense.look_at = refusal.at + delay(policy, unproven, suspense.looks);
        }
        self.refusals.retain(|known| known.account != refusal.account);
        if self.refusals.len() < TRAIL_MAX {
            self.refusals.push(refusal);
        }
    }

    /// Whether no account has refused the request yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.refusals.is_empty() && self.suspense.is_none()
    }

    pub(crate) fn is_in_suspense(&self) -> bool {
        self.suspense.is_some()
    }

    pub(crate) fn is_never_held(&self) -> bool {
        self.never_held
    }

    pub(crate) fn forbidden(&self) -> &[(AccountId, Arc<Evidence>)] {
        &self.forbidden
    }

    pub(crate) fn refusal_by(&self, account: AccountId) -> Option<&PastRefusal> {
        self.refusals.iter().find(|refusal| refusal.account == account)
    }

    pub(crate) fn fingerprints(&self) -> impl Iterator<Item = Fingerprint> {
        self.refusals.iter().filter_map(|refusal| match refusal.why {
            RefusedFor::Unproven { fingerprint, .. } => Some(fingerprint),
            RefusedFor::Delay(_) => None,
        })
    }

    pub(crate) fn may_begin_suspense(&self) -> bool {
        self.suspense.is_none() && !self.never_held && self.last_unproven().is_some()
    }

    /// No account is left to try: if one has refused without evidence, the request waits for an
    /// explanation.
    pub(crate) fn begin_suspense(&mut self, now: Mono, policy: &Policy) {
        if self.suspense.is_none()
            && !self.never_held
            && let Some(unproven) = self.last_unproven()
        {
            let look_at = now + delay(policy, unproven, 0);
            self.suspense = Some(Suspense { since: now, look_at, looks: 0 });
        }
    }

    /// When the next attempt of a request in suspense is due, or its time is up.
    pub(crate) fn look_at(&self, policy: &Policy) -> Option<Mono> {
        let end = self.suspense_ends(policy)?;
        self.suspense.map(|suspense| suspense.look_at.min(end))
    }

    /// The same for an account that has refused it: its own refusal may require a longer delay than
    /// the last one did.
    pub(crate) fn look_at_refuser(&self, refusal: &PastRefusal, policy: &Policy) -> Option<Mono> {
        let own = match refusal.why {
            RefusedFor::Unproven { unproven, .. } => refusal.at + delay(policy, unproven, 0),
            RefusedFor::Delay(until) => until,
        };
        Some(self.look_at(policy)?.max(own).min(self.suspense_ends(policy)?))
    }

    /// Whether it waits for an explanation of this account's refusal; the pause after a pass does
    /// not apply then.
    pub(crate) fn has_suspense_on(&self, account: AccountId) -> bool {
        let is_unproven = |refusal: &PastRefusal| match refusal.why {
            RefusedFor::Unproven { .. } => true,
            RefusedFor::Delay(_) => false,
        };
        self.suspense.is_some() && self.refusal_by(account).is_some_and(is_unproven)
    }

    /// The latest end of a request's suspense.
    pub(crate) fn suspense_ends(&self, policy: &Policy) -> Option<Mono> {
        let most = match self.last_unproven()? {
            Unproven::Limit(_) | Unproven::NoAnswer => policy.unproven_max_wait,
            Unproven::Error => policy.capacity_max_wait,
        };
        self.suspense.map(|suspense| suspense.since + most)
    }

    fn last_unproven(&self) -> Option<Unproven> {
        self.refusals.iter().rev().find_map(|refusal| match refusal.why {
            RefusedFor::Unproven { unproven, .. } => Some(unproven),
            RefusedFor::Delay(_) => None,
        })
    }
}

/// The time to the next attempt, after this many attempts in suspense.
fn delay(policy: &Policy, unproven: Unproven, looks: u32) -> Duration {
    let cooldown = |first| Cooldown { first, longest: policy.max_cooldown };
    match unproven {
        Unproven::Limit(Some(retry_after)) => retry_after,
        Unproven::Limit(None) => cooldown(SUSPENSE_LOOK).after(looks.saturating_add(1)),
        Unproven::Error | Unproven::NoAnswer => {
            cooldown(policy.cooldown).after(looks.saturating_add(1))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::id::RouteClass;
    use super::*;

    fn refused(at: u64, unproven: Unproven) -> Aftermath {
        let fingerprint = Fingerprint::of(RouteClass::Messages, 429, "", "");
        let why = RefusedFor::Unproven { unproven, fingerprint };
        let refusal = PastRefusal { account: AccountId(1), at: Mono(at), why };
        Aftermath { refusal: Some(refusal), ..Aftermath::default() }
    }

    #[test]
    fn looks_follow_the_delays_of_a_cooldown() {
        let policy = Policy::default();
        let secs = Duration::from_secs;
        for (unproven, expected, limit) in [
            (Unproven::Limit(None), [5, 10, 20, 40], 60),
            (Unproven::Limit(Some(secs(7))), [7, 7, 7, 7], 60),
            (Unproven::Error, [30, 60, 120, 240], 900),
            (Unproven::NoAnswer, [30, 60, 120, 240], 60),
        ] {
            let mut trail = Trail::default();
            trail.add(refused(1_000, unproven), &policy);
            assert_eq!(trail.look_at(&policy), None, "other accounts come first");
            trail.begin_suspense(Mono(1_000), &policy);
            let mut at = Mono(1_000);
            for wait in expected {
                let end = Mono(1_000) + secs(limit);
                let due = (at + secs(wait)).min(end);
                assert_eq!(trail.look_at(&policy), Some(due), "{unproven:?}");
                at = at + secs(wait);
                trail.add(refused(at.0, unproven), &policy);
            }
            assert_eq!(trail.suspense_ends(&policy), Some(Mono(1_000) + secs(limit)));
        }
    }

    #[test]
    fn no_suspense_without_an_unproven_refusal_or_for_what_is_never_held() {
        let policy = Policy::default();
        let mut trail = Trail::default();
        trail.begin_suspense(Mono(0), &policy);
        assert!(!trail.is_in_suspense());
        let why = RefusedFor::Delay(Mono(9));
        let refusal = Some(PastRefusal { account: AccountId(1), at: Mono(0), why });
        trail.add(Aftermath { refusal, ..Aftermath::default() }, &policy);
        trail.begin_suspense(Mono(0), &policy);
        assert!(!trail.is_in_suspense(), "a 503 waits in the queue");
        trail.add(refused(0, Unproven::Error), &policy);
        trail.add(Aftermath { never_held: true, ..Aftermath::default() }, &policy);
        trail.begin_suspense(Mono(0), &policy);
        assert!(!trail.is_in_suspense());
    }
}
