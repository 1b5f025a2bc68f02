//! Which account a request gets (SPEC S3, S7, S8): what stands in the way of each, and the choice
//! among those left.
//!
//! Reads the scheduler's state and changes nothing; the same code serves admission, the queue and
//! `explain`.

use std::sync::Arc;

use super::Scheduler;
use super::account::{Account, concerns, keeps_out};
use super::affinity::Binding;
use super::block::WaitCause;
use super::breaker::Pass;
use super::obstacle::Obstacle;
use super::policy::Overage;
use super::quota::{Family, WindowKind};
use super::ranking::{Available, Level, Ranking};
use super::request::{Access, AccountId, Request, Routing, SessionKey, Why};
use super::score::{Facts, Week, terms};
use super::snapshot::{Terms, Tier};
use super::storm::Room;
use super::time::{Mono, Now};
use super::windows::{Full, Window};

/// What of a request decides where it may go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask<'a> {
    pub(super) profile: &'a str,
    pub(super) family: Option<&'a Family>,
    /// For explanations.
    pub(super) model: Option<&'a Arc<str>>,
    /// The same.
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
    pub(super) last_failure: Option<WaitCause>,
    pub(super) patience: Patience,
    pub(super) binding: Option<Binding>,
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

/// What was chosen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    pub(super) index: usize,
    pub(super) why: Why,
}

impl Scheduler {
    /// What of a request decides, with what is remembered of its session.
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
        Ask {
            profile: &request.profile,
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
            last_failure: request.last_failure,
            patience: match self.has_queue() && request.holdable && !self.is_too_large(request) {
                true => Patience::CanWait,
                false => Patience::CannotWait,
            },
            binding,
        }
    }

    /// A queue without a single place is none.
    pub(super) fn has_queue(&self) -> bool {
        self.policy.queue_enabled && self.policy.max_queued > 0
    }

    pub(super) fn is_too_large(&self, request: &Request) -> bool {
        request.body_bytes > self.policy.max_queued_body_bytes
    }

    /// Everything that keeps this request from this account, until `visit` says stop by returning
    /// false.
    pub(super) fn obstacles<'a>(
        &'a self,
        now: Now,
        account: &'a Account,
        ask: &Ask<'_>,
        mut visit: impl FnMut(Obstacle<'a>) -> bool,
    ) {
        if let Some(obstacle) = mismatch(account, ask) {
            visit(obstacle);
            return;
        }
        if ask.tried.contains(&account.id)
            && !visit(Obstacle::Tried { until: ask.tried_until, cause: ask.last_failure })
        {
            return;
        }
        for block in account.blocks(now).filter(|block| keeps_out(&block.scope, ask.family)) {
            if !visit(Obstacle::Block(block)) {
                return;
            }
        }
        for window in
            account.windows.iter(now.wall).filter(|window| self.is_full(now, window, ask.family))
        {
            if !visit(Obstacle::Window(window)) {
                return;
            }
        }
        if let (Some(end), Overage::Never) = (account.overage(now), self.policy.overage)
            && !visit(Obstacle::Overage { until: end.mono(now) })
        {
            return;
        }
        self.crowding(now, account, ask, visit);
    }

    /// The obstacles that other requests are: caps, ramps, the breaker.
    fn crowding<'a>(
        &self,
        now: Now,
        account: &Account,
        ask: &Ask<'_>,
        mut visit: impl FnMut(Obstacle<'a>) -> bool,
    ) {
        if is_reached(account.in_flight, self.policy.max_active_per_account)
            && !visit(Obstacle::AccountFull)
        {
            return;
        }
        if is_reached(self.in_flight(), self.policy.max_active_global) && !visit(Obstacle::PoolFull)
        {
            return;
        }
        // One that cannot wait is not made to wait by a ramp, unless it would pass those who do.
        let can_wait = ask.patience == Patience::CanWait || !self.queue.is_empty();
        match account.ramp.room(now.mono) {
            Room::From(at) if can_wait => {
                if !visit(Obstacle::Ramp(at)) {
                    return;
                }
            }
            Room::From(_) | Room::Free => {}
        }
        if !account.is_claude() {
            return;
        }
        match self.breaker.pass(now.mono) {
            Pass::Open(until) => visit(Obstacle::BreakerOpen(until)),
            Pass::Probing => visit(Obstacle::BreakerProbing),
            Pass::Paced(next) if can_wait => visit(Obstacle::BreakerPacing(next)),
            Pass::Paced(_) | Pass::Free => true,
        };
    }

    /// S3, S4: does this window keep the request out?
    pub(super) fn is_full(&self, now: Now, window: &Window, family: Option<&Family>) -> bool {
        let threshold = match &window.kind {
            WindowKind::FiveHour | WindowKind::Tokens | WindowKind::Requests => {
                self.policy.switch_threshold
            }
            WindowKind::SevenDay | WindowKind::SevenDayFamily(_) => self.policy.weekly_exhausted,
            WindowKind::Generic => return false,
        };
        concerns(&window.kind, family)
            && window.used.is_some_and(|used| used >= threshold)
            && window.full(now) != Full::Lookable
    }

    /// True if nothing stands in the way.
    pub(super) fn is_available(&self, now: Now, account: &Account, ask: &Ask<'_>) -> bool {
        let mut free = true;
        self.obstacles(now, account, ask, |_| {
            free = false;
            false
        });
        free
    }

    /// Sorts the accounts into those that can serve and the others, in the order of the scan, which
    /// starts after the account chosen last.
    pub(super) fn rank(&self, now: Now, ask: &Ask<'_>, ranking: &mut Ranking) {
        ranking.available.clear();
        ranking.out.clear();
        let start = self.accounts.partition_point(|account| Some(account.id) <= self.last_chosen);
        for index in (start..self.accounts.len()).chain(0..start) {
            let account = &self.accounts[index];
            if !self.is_available(now, account, ask) {
                ranking.out.push(index);
                continue;
            }
            let tier = account.tier(now, &self.policy, ask.family);
            ranking.available.push(Available {
                index,
                tier,
                level: match tier {
                    None | Some(Tier::Normal | Tier::Soft) => Level::Normal,
                    Some(Tier::Reserve) => Level::Reserve,
                    Some(Tier::Critical | Tier::Exhausted) => Level::Critical,
                },
                terms: Terms::default(),
            });
        }
        let recent = Recently::of(&self.accounts);
        for one in &mut ranking.available {
            one.terms = self.terms(now, &self.accounts[one.index], ask, recent);
        }
    }

    /// S7, among those available.
    pub(super) fn choose(&self, ask: &Ask<'_>, available: &[Available]) -> Option<Choice> {
        let find = |id: AccountId| available.iter().find(|one| self.accounts[one.index].id == id);
        let first = available.first()?;
        match ask.route {
            Route::Any => {}
            Route::Pinned(_) => {
                return Some(Choice { index: first.index, why: Why::Pinned });
            }
            Route::Thread(_) => {
                return Some(Choice { index: first.index, why: Why::Thread });
            }
        }
        if let Routing::Preferred(id) = self.routing
            && let Some(one) = find(id)
        {
            return Some(Choice { index: one.index, why: Why::Preferred });
        }
        if let Some(choice) = ask.binding.and_then(|binding| self.bound(binding, available)) {
            return Some(choice);
        }
        let passes = match ask.binding {
            None => &[Level::Normal, Level::Reserve, Level::Critical][..],
            Some(_) => &[Level::Reserve, Level::Critical][..],
        };
        passes.iter().find_map(|pass| self.best(available, *pass))
    }

    /// S7b: home, then the current one, unless a better priority is available.
    fn bound(&self, binding: Binding, available: &[Available]) -> Option<Choice> {
        let usable = || available.iter().filter(|one| one.level <= Level::Reserve);
        let best_priority = usable().map(|one| self.accounts[one.index].spec.priority).min()?;
        let stays = |id: AccountId| {
            let one = usable().find(|one| self.accounts[one.index].id == id)?;
            (self.accounts[one.index].spec.priority <= best_priority).then_some(one.index)
        };
        let home = binding.home.and_then(stays).map(|index| Choice { index, why: Why::Home });
        home.or_else(|| stays(binding.current).map(|index| Choice { index, why: Why::Current }))
    }

    /// The best of one pass; the first in the scan among equals.
    fn best(&self, available: &[Available], pass: Level) -> Option<Choice> {
        let in_pass = available.iter().filter(|one| one.level <= pass);
        let key = |one: &Available| (self.accounts[one.index].spec.priority, one.terms.total());
        let best = in_pass.min_by(|a, b| {
            let ((a_priority, a_score), (b_priority, b_score)) = (key(a), key(b));
            a_priority.cmp(&b_priority).then(a_score.total_cmp(&b_score))
        })?;
        Some(Choice { index: best.index, why: Why::Score(best.terms.total()) })
    }

    fn terms(&self, now: Now, account: &Account, ask: &Ask<'_>, recent: Recently) -> Terms {
        let facts = Facts {
            active_weight: account.active_weight,
            request_weight: ask.weight,
            scarcity: account.scarcity(now.wall, ask.family),
            recent: account.recent.weight(),
            recent_all: recent.beside(account),
            ramp: account.recovering(now.mono, &self.policy),
            failures: account.failures,
            week: match account.weekly_reset_known(now.wall) {
                true => Week::Known,
                false => Week::Unknown,
            },
        };
        terms(&self.policy, &facts)
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

/// A cap of zero is none.
fn is_reached(active: u32, cap: u32) -> bool {
    cap != 0 && active >= cap
}
