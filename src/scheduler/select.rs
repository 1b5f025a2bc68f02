//! Which account a request gets (SPEC S7): the one it is bound to, else the first in the order of
//! passes.
//!
//! A conversation's prompt is cached on the account that served it last, and writing it again
//! elsewhere costs more than ten times as much as reading it there. So a session stays where its
//! cache is, and a score never moves it: only an account that is out, a better tier or a better
//! priority does. Moving sessions to the account with the best score at the moment was tried; it
//! does more harm than the scores do good. For the same reason an account near its limit is
//! *avoided*, not out: its sessions finish their work from the cache, and others come only when no
//! other account can serve them. Treating it as full threw away the last tenth of every window
//! while requests waited for hours.
//!
//! A critical week moves a session once, and only when that costs little: a long conversation
//! leaves when its cache has expired. Moving all sessions at once rewrote a fifth more cache than
//! all other rules together and did not get more work done.
//!
//! New and displaced sessions take the first account in a fixed order: accounts that are paid for
//! already before those that cost money, subscriptions before API keys before providers,
//! comfortable accounts before tight ones, then priority, then score. Because the order is fixed, a
//! score only chooses among accounts that are equally suitable.
//!
//! Nothing here changes the scheduler, so that the same code serves admission, the queue and
//! `explain`.

use std::sync::Arc;

use super::Scheduler;
use super::parts::account::{Account, Target};
use super::parts::affinity::{Binding, Critical, Home};
use super::parts::block::WaitCause;
use super::parts::cost::{PromptCache, expected};
use super::parts::id::{Kin, RouteClass};
use super::parts::obstacle::Obstacle;
use super::parts::policy::CRITICAL_CACHE_MAX;
use super::parts::quota::Family;
use super::parts::ranking::{Available, Ranking};
use super::parts::request::{
    Access, AccountId, Avoided, Kind, Request, Routing, SessionKey, Shape, Why,
};
use super::parts::score::{Facts, terms};
use super::parts::snapshot::{Group, Pass, PassOrder, Payment, Terms, Tier};
use super::parts::time::{Mono, Now};
use super::parts::trail::Trail;

/// The parts of a request that decide where it may go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask<'a> {
    pub(super) profile: &'a str,
    pub(super) class: RouteClass,
    pub(super) kin: Kin,
    pub(super) family: Option<&'a Family>,
    pub(super) model: Option<&'a Arc<str>>,
    /// For explanations.
    pub(super) session: Option<SessionKey>,
    pub(super) weight: u32,
    /// P9, by the request or its session.
    pub(super) thinking: bool,
    pub(super) route: Route,
    /// V1.
    pub(super) brought: &'a [AccountId],
    /// Left out until then.
    pub(super) tried: &'a [AccountId],
    pub(super) tried_until: Mono,
    /// P7.
    pub(super) trail: &'a Trail,
    pub(super) last_failure: Option<WaitCause>,
    pub(super) patience: Patience,
    pub(super) binding: Option<Binding>,
    pub(super) shape: Shape,
    pub(super) body_bytes: u64,
    pub(super) restraint: Restraint,
    /// How many others wait.
    pub(super) others_waiting: usize,
}

/// Where it must go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Any,
    Pinned(AccountId),
    Thread(AccountId),
}

/// Can it be held at all?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    CanWait,
    CannotWait,
}

/// Whether the brink and cold starts keep a request waiting (S6). They never cause a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Restraint {
    Heeded,
    Waived,
}

impl<'a> Ask<'a> {
    pub(super) fn target(&self) -> Target<'a> {
        Target { class: self.class, family: self.family, model: self.model.map(AsRef::as_ref) }
    }

    pub(super) fn cache_on(&self, now: Mono, account: AccountId) -> PromptCache {
        self.binding.map_or(PromptCache::Cold, |binding| binding.cache_on(now, account))
    }

    /// Whether any account has the prompt.
    pub(super) fn is_cached(&self, now: Mono) -> bool {
        self.binding.is_some_and(|binding| binding.is_cached(now))
    }

    /// S5: what it is expected to cost. Counting tokens uses no quota.
    pub(super) fn cost(&self, cache: PromptCache) -> u64 {
        match self.shape {
            Shape::CountTokens => 0,
            Shape::Stream | Shape::NonStream | Shape::Fallback => expected(self.body_bytes, cache),
        }
    }
}

/// Weight given lately to all that serve, Claude accounts and providers apart.
#[derive(Clone, Copy, Debug, Default)]
struct Recently {
    claude: u64,
    providers: u64,
}

impl Recently {
    fn of(accounts: &[Account]) -> Recently {
        let mut sums = Recently::default();
        for account in accounts.iter().filter(|account| account.serves()) {
            let sum = if account.is_claude() { &mut sums.claude } else { &mut sums.providers };
            *sum = sum.saturating_add(account.recent.weight());
        }
        sums
    }

    fn beside(self, account: &Account) -> u64 {
        if account.is_claude() { self.claude } else { self.providers }
    }
}

/// What was chosen, and what the session should remember of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    pub(super) index: usize,
    pub(super) why: Why,
    pub(super) home: Home,
    pub(super) critical: Critical,
}

impl Scheduler {
    /// The deciding parts of a request, and what is remembered of its session.
    pub(super) fn ask<'a>(
        &self,
        now: Now,
        request: &'a Request,
        tried: &'a [AccountId],
        tried_until: Mono,
    ) -> Ask<'a> {
        let binding = request
            .session
            .and_then(|session| self.affinity.binding(now.mono, session, self.policy.session_idle));
        let route = match (request.pinned, request.thread) {
            (Some(account), _) => Route::Pinned(account),
            (None, Some(thread)) => {
                let owner = self.affinity.thread_owner(now.mono, thread, self.policy.session_idle);
                let home = || binding.map(|binding| binding.home.unwrap_or(binding.current));
                owner.or_else(home).map_or(Route::Any, Route::Thread)
            }
            (None, None) => Route::Any,
        };
        let is_holdable = request.holdable && !request.trail.is_never_held();
        let patience = match self.has_queue() && is_holdable && !self.is_too_large(request) {
            true => Patience::CanWait,
            false => Patience::CannotWait,
        };
        Ask {
            profile: &request.profile,
            class: request.class,
            kin: request.kin,
            family: request.family.as_ref(),
            model: request.model.as_ref(),
            session: request.session,
            weight: request.weight,
            thinking: request.signed_thinking
                || request.session.is_some_and(|session| self.affinity.is_thinking(session)),
            route,
            brought: &request.brought,
            tried,
            tried_until,
            trail: &request.trail,
            last_failure: request.last_failure,
            patience,
            binding,
            shape: request.shape,
            body_bytes: request.body_bytes,
            others_waiting: self.queue.in_line(),
            restraint: match patience {
                Patience::CanWait => Restraint::Heeded,
                Patience::CannotWait => Restraint::Waived,
            },
        }
    }

    /// A queue without a single place is none.
    pub(super) fn has_queue(&self) -> bool {
        self.policy.queue_enabled && self.policy.max_queued > 0
    }

    pub(super) fn is_too_large(&self, request: &Request) -> bool {
        request.body_bytes > self.policy.max_queued_body_bytes
    }

    /// Sorts the accounts into those that can serve and the others, in the order of the scan, which
    /// starts after the account chosen last.
    pub(super) fn rank(&self, now: Now, ask: &Ask<'_>, ranking: &mut Ranking) {
        ranking.available.clear();
        ranking.out.clear();
        ranking.restrained = 0;
        let best_subscription = self.best_subscription(ask);
        let recent = Recently::of(&self.accounts);
        let start = self.accounts.partition_point(|account| Some(account.id) <= self.last_chosen);
        for index in (start..self.accounts.len()).chain(0..start) {
            let account = &self.accounts[index];
            match self.first_obstacle(now, account, ask) {
                None => {}
                Some(obstacle) => {
                    ranking.restrained += usize::from(obstacle.is_restraint());
                    ranking.out.push(index);
                    continue;
                }
            }
            let tier = account.tier(now, &self.policy, ask.family);
            let avoided: Vec<Avoided> = account.avoided(now, &self.policy, ask.target()).collect();
            ranking.available.push(Available {
                index,
                tier,
                order: PassOrder(
                    match account.overage(now) {
                        None => Payment::Included,
                        Some(_) => Payment::PaidOverage,
                    },
                    group(account, best_subscription),
                    pass(tier, &avoided),
                ),
                avoided,
                priority: account.spec.priority,
                terms: self.terms(now, account, ask, recent),
            });
        }
    }

    /// The priority of the best subscription that the request could use, out or not. Only API keys
    /// are compared with it.
    fn best_subscription(&self, ask: &Ask<'_>) -> Option<i64> {
        if !self.accounts.iter().any(|account| account.spec.kind == Kind::ApiKey) {
            return None;
        }
        let subscriptions = self
            .accounts
            .iter()
            .filter(|account| account.spec.kind == Kind::Oauth && mismatch(account, ask).is_none());
        subscriptions.map(|account| account.spec.priority).min()
    }

    /// S7, among those available.
    pub(super) fn choose(
        &self,
        now: Now,
        ask: &Ask<'_>,
        available: &[Available],
    ) -> Option<Choice> {
        let first = available.first()?;
        let by = |one: &Available, why: Why| Choice {
            index: one.index,
            why,
            home: Home::Unusable,
            critical: ask.binding.map(|it| it.critical).unwrap_or_default(),
        };
        match ask.route {
            Route::Any => {}
            Route::Pinned(_) => return Some(by(first, Why::Pinned)),
            Route::Thread(_) => return Some(by(first, Why::Thread)),
        }
        if let Some(one) = self.least_lately_refused(ask, available) {
            return Some(by(one, Why::Score(one.terms.total())));
        }
        if let Routing::Preferred(id) = self.routing
            && let Some(one) = self.find(available, id)
        {
            return Some(by(one, Why::Preferred));
        }
        match ask.binding {
            Some(binding) => Some(self.bound(now, ask, binding, available)?),
            None => {
                let best = best(available, Pass::Normal)?;
                Some(by(best, Why::Score(best.terms.total())))
            }
        }
    }

    /// P7: where a request in suspense looks that every account at hand has refused. By turns,
    /// since the best of them may be the one that refuses everything.
    fn least_lately_refused<'a>(
        &self,
        ask: &Ask<'_>,
        available: &'a [Available],
    ) -> Option<&'a Available> {
        if !ask.trail.is_in_suspense() {
            return None;
        }
        let refused_at = |one: &Available| {
            let refusal = ask.trail.refusal_by(self.accounts[one.index].id);
            refusal.map(|refusal| refusal.at)
        };
        let all = available.iter().all(|one| refused_at(one).is_some());
        all.then(|| available.iter().min_by_key(|one| refused_at(one)))?
    }

    /// S7b: where the cache is, or home if that costs no cache; else like any other.
    fn bound(
        &self,
        now: Now,
        ask: &Ask<'_>,
        binding: Binding,
        available: &[Available],
    ) -> Option<Choice> {
        let outranked = |one: &Available| available.iter().any(|other| outranks(other, one));
        let is_warm = |id: AccountId| binding.cache_on(now.mono, id) == PromptCache::Warm;
        // Until it has served something, the account granted last is only the next best guess.
        let served = binding.last_served().filter(|id| is_warm(*id));
        let current = [served, Some(binding.current)]
            .into_iter()
            .flatten()
            .find_map(|id| self.find(available, id));
        let is_warm_here = current.is_some_and(|one| is_warm(self.accounts[one.index].id));
        let away = binding.home.filter(|home| *home != binding.current);
        let home = away
            .and_then(|home| self.find(available, home))
            .filter(|one| is_comfortable(one) && !outranked(one));
        // What it leaves behind there must be little, or cold.
        let is_light = !is_warm_here || ask.body_bytes / 4 <= CRITICAL_CACHE_MAX;
        let leaves_critical =
            |one: &Available| is_light && leaves_critical(one, binding, available);
        let critical = match current {
            Some(one) if leaves_critical(one) => Critical::HasLeft,
            Some(_) | None => binding.critical,
        };
        let choice = |one: &Available, why: Why| Choice {
            index: one.index,
            why,
            home: match home {
                Some(home) if home.index != one.index => Home::Usable,
                Some(_) | None => Home::Unusable,
            },
            critical,
        };
        if let (Some(one), Some(id)) = (home, away)
            && (current.is_none() || is_warm(id) || !is_warm_here || binding.is_overdue(now.mono))
        {
            return Some(choice(one, Why::Home));
        }
        if let Some(one) = current
            && !outranked(one)
            && !leaves(one, available)
            && !leaves_critical(one)
            && (is_warm_here || one.order.2 < Pass::Avoided)
        {
            let is_home = binding.home == Some(self.accounts[one.index].id);
            return Some(choice(one, if is_home { Why::Home } else { Why::Current }));
        }
        let best = best(available, Pass::Reserve)?;
        Some(choice(best, Why::Score(best.terms.total())))
    }

    fn find<'a>(&self, available: &'a [Available], id: AccountId) -> Option<&'a Available> {
        available.iter().find(|one| self.accounts[one.index].id == id)
    }

    fn terms(&self, now: Now, account: &Account, ask: &Ask<'_>, recent: Recently) -> Terms {
        let facts = Facts {
            active_weight: account.active_weight,
            request_weight: ask.weight,
            five_hour_pressure: account.five_hour_pressure(now.wall),
            week_pressure: account.week_pressure(now.wall, ask.family),
            recent: account.recent.weight(),
            recent_all: recent.beside(account),
            ramp: account.recovering(now.mono, &self.policy),
            failures: account.failures,
        };
        terms(&self.policy, &facts)
    }
}

fn pass(tier: Option<Tier>, avoided: &[Avoided]) -> Pass {
    match tier {
        // Paid overage has a place of its own at the end.
        _ if avoided.iter().any(|reason| *reason != Avoided::PaidOverage) => Pass::Avoided,
        None | Some(Tier::Normal | Tier::Soft) => Pass::Normal,
        Some(Tier::Reserve) => Pass::Reserve,
        Some(Tier::Critical | Tier::Exhausted) => Pass::Critical,
    }
}

/// Neither critical nor avoided: a place that a session may be moved to.
fn is_comfortable(one: &Available) -> bool {
    one.order.0 == Payment::Included && one.order.2 < Pass::Critical
}

/// Whether a session leaves this account for another, though its cache is here: what it costs there
/// is not worth the cache. Being near a limit is no reason.
fn leaves(one: &Available, available: &[Available]) -> bool {
    let drives_away = |of: &Available| of.avoided.iter().any(Avoided::drives_away);
    drives_away(one) && available.iter().any(|other| !drives_away(other))
}

/// S4: a session leaves a critical account once, if a better tier is available to it.
fn leaves_critical(one: &Available, binding: Binding, available: &[Available]) -> bool {
    binding.critical == Critical::Leaves
        && one.order.2 == Pass::Critical
        && available.iter().any(|other| is_comfortable(other) && other.order.1 <= one.order.1)
}

/// S7b: a better priority, on an account that the passes do not put behind this one. A session
/// starts at reserve, so that normal and reserve are one to it.
fn outranks(other: &Available, one: &Available) -> bool {
    let order = |of: &Available| {
        let PassOrder(payment, group, pass) = of.order;
        (payment, group, pass.max(Pass::Reserve))
    };
    other.priority < one.priority
        && other.order.0 == Payment::Included
        && other.order.2 < Pass::Avoided
        && order(other) <= order(one)
}

/// S7c. The passes up to `from` are one; the first in the scan among equals is taken.
fn best(available: &[Available], from: Pass) -> Option<&Available> {
    let key = |one: &Available| {
        let PassOrder(payment, group, pass) = one.order;
        (payment, group, pass.max(from), one.priority)
    };
    available
        .iter()
        .min_by(|a, b| key(a).cmp(&key(b)).then(a.terms.total().total_cmp(&b.terms.total())))
}

/// S7: over which accounts the passes run first.
fn group(account: &Account, best_subscription: Option<i64>) -> Group {
    match account.spec.kind {
        Kind::Oauth => Group::Subscriptions,
        Kind::ApiKey if best_subscription.is_some_and(|best| account.spec.priority <= best) => {
            Group::Subscriptions
        }
        Kind::ApiKey => Group::ApiKeys,
        Kind::Provider => Group::Providers,
    }
}

/// Why an account is no route of this request, if it is none.
pub(super) fn mismatch(account: &Account, ask: &Ask<'_>) -> Option<Obstacle<'static>> {
    let routed = match ask.route {
        Route::Any => true,
        Route::Pinned(id) | Route::Thread(id) => id == account.id,
    };
    let is_open = match account.spec.access {
        Access::Everyone => true,
        // A pinned request as well: a batch may be another client's.
        Access::Bringers => ask.brought.contains(&account.id),
    };
    let in_profile = matches!(ask.route, Route::Pinned(_)) || account.has_profile(ask.profile);
    match () {
        () if account.leaving => Some(Obstacle::Leaving),
        () if !routed => Some(Obstacle::NotRouted),
        () if !in_profile => Some(Obstacle::OtherProfile),
        // Before `Disabled`: what somebody else brought says nothing about this request's accounts.
        () if !is_open => Some(Obstacle::NotBrought),
        () if !account.spec.enabled => Some(Obstacle::Disabled),
        () if ask.thinking && !account.is_claude() => Some(Obstacle::SignedThinking),
        () => None,
    }
}
