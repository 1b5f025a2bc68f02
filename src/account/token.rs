//! Whether an account's tokens can be used, must be refreshed, have to wait, or are dead (SPEC T2).
//! Pure.
//!
//! ```text
//!            due (less than 5 min left, or a 401)           new pair
//!   good ───────────────────────────────────▶ refreshing ───────────▶ good
//!    ▲ │                                        │ │ │
//!    │ │ 401 to a token that was just brought,  │ │ └ failed for now ─▶ cooling ─▶ refreshing
//!    │ │ or that cannot be renewed              │ └ fate unknown ─▶ once later, then every 15 min
//!    │ ▼                                        ▼ `invalid_grant`
//!    ├─ resting (the scheduler's block): one    needs login, unless the pair replaced last
//!    │  look after each rest                    may still be good
//!    └──────────────────────────────────────────┘ other tokens appear
//! ```
//!
//! Cooling, the unknown fate and *needs login* matter only once the access token can no longer be
//! used. [`custody`](crate::config::custody) decides which pair is the newest.

use std::time::Duration;

use super::oauth::Issued;
use super::plan::{Cooling, Obstacle, Plan, Switch, Why};
use super::sent::Sends;
use crate::config::custody::{Age, Custody, Deposit, Digest, Kept, Proof, Record};
use crate::config::state::TokensState;
use crate::config::{Identity, Secret, Tokens};
use crate::scheduler::time::{Mono, Now, Wall};

/// The state of an OAuth account's tokens.
#[derive(Debug, Default)]
pub(crate) struct TokenState {
    custody: Custody,
    /// Incremented whenever the access token changes.
    generation: u64,
    /// How long the current access token is used.
    life: Life,
    standing: Standing,
    /// The pair came from a refresh and has not served a request yet.
    is_unproven: bool,
    /// Why the token endpoint has refused the current refresh token, if it has.
    refresh_refused: Option<Why>,
    /// Refused refresh tokens, which are never sent again.
    dead: Vec<Digest>,
    /// A refresh token that was sent without an answer.
    unknown: Option<UnknownFate>,
    cooling: Option<Cooling>,
    /// Consecutive failures of refreshes at the endpoint.
    failures: u32,
    /// The last refresh that a 401 caused.
    forced: Option<Mono>,
    /// The last successful refresh.
    renewed: Option<(Mono, Wall)>,
    /// The same, before this process started.
    recalled_at: Option<Wall>,
    /// Why the file is not up to date.
    trouble: Option<Why>,
}

/// How long an access token is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Life {
    /// Until its expiry by the wall clock, as stored in the file.
    #[default]
    ByTheFile,
    /// From a refresh: for the lifetime in the answer, counted from its arrival.
    Until(Mono),
    /// From a refresh without a credible expiry: until the API refuses it.
    UntilRefused,
}

/// The API's last word on the current access token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Standing {
    /// None, or it was accepted.
    #[default]
    Good,
    /// It was refused, and a refresh should replace it. If the refresh fails temporarily, the next
    /// one comes first, and until then only the request that tests the account sends the token.
    Refused,
    /// It was refused, and no refresh may follow. The fault may be the API's, so the token is kept
    /// for the request that tests it after the account's rest (SPEC T2).
    Resting,
}

/// A refresh token that may be used up.
#[derive(Clone, Debug, PartialEq, Eq)]
struct UnknownFate {
    token: Digest,
    obstacle: Obstacle,
    next: Mono,
    why: Why,
}

impl TokenState {
    /// The state in words, for display.
    pub(crate) fn word(&self, now: Wall) -> &'static str {
        if self.refresh_refused.is_some() || self.is_lost(now) {
            "needs login"
        } else if self.standing != Standing::Good {
            "refused"
        } else if self.custody.kept() == Kept::InMemory && self.trouble.is_some() {
            "in memory only"
        } else if self.life == Life::ByTheFile
            && self.tokens().expires_at.is_some_and(|end| end <= now)
        {
            "expired"
        } else {
            "valid"
        }
    }

    /// Whether there is neither a usable token nor a way to get one.
    fn is_lost(&self, now: Wall) -> bool {
        let tokens = self.tokens();
        let is_used_up = tokens.refresh.is_some() && !self.custody.is_spendable();
        let has_ended = self.standing != Standing::Good
            || self.life == Life::ByTheFile && tokens.expires_at.is_some_and(|end| end <= now);
        tokens.access.is_none() && !self.custody.is_spendable() || is_used_up && has_ended
    }

    /// The state after reading the file.
    pub(crate) fn new(entry: Deposit) -> TokenState {
        TokenState { custody: Custody::new(entry), generation: 1, ..TokenState::default() }
    }

    pub(crate) fn tokens(&self) -> &Tokens {
        self.custody.live()
    }

    pub(crate) fn custody(&self) -> &Custody {
        &self.custody
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// When a refresh last brought tokens.
    pub(crate) fn renewed_at(&self) -> Option<Wall> {
        self.renewed.map(|(_, at)| at).or(self.recalled_at)
    }

    /// The refresh token, if it may be sent.
    pub(crate) fn spendable(&self) -> Option<&Secret> {
        let token = self.tokens().refresh.as_ref().filter(|_| self.custody.is_spendable())?;
        (!self.dead.contains(&Digest::of(token))).then_some(token)
    }

    /// Whether it is worth sending the access token.
    pub(crate) fn is_usable(&self, now: Now) -> bool {
        self.standing != Standing::Refused && self.is_there(now)
    }

    fn is_there(&self, now: Now) -> bool {
        self.tokens().access.is_some() && !self.has_expired(now)
    }

    fn has_expired(&self, now: Now) -> bool {
        let is_over = match self.life {
            Life::ByTheFile => self.tokens().expires_at.is_some_and(|end| end <= now.wall),
            Life::Until(end) => end <= now.mono,
            Life::UntilRefused => false,
        };
        // Without a refresh token nothing can be done about it, so the upstream decides. The check
        // costs a hash, so it comes last.
        is_over && self.custody.is_spendable()
    }

    fn is_about_to_expire(&self, now: Now) -> bool {
        let (left, life) = match (self.life, self.tokens().expires_at) {
            (Life::ByTheFile, Some(end)) => {
                (now.wall.until(end), self.renewed_at().map(|at| at.until(end)))
            }
            (Life::Until(end), _) => {
                (end.since(now.mono), self.renewed.map(|(at, _)| end.since(at)))
            }
            (Life::ByTheFile, None) | (Life::UntilRefused, _) => return false,
        };
        // A token that is known to live for minutes only is used to its end.
        let is_short = life.is_some_and(|life| life < LONG_LIFE);
        left <= if is_short { Duration::ZERO } else { REFRESH_AHEAD }
    }

    /// What to do for a request that is about to be sent.
    pub(crate) fn plan(&self, switch: Switch, now: Now) -> Plan {
        let usable = self.is_usable(now);
        let due = !usable || self.is_about_to_expire(now);
        if !due || usable && self.spendable().is_none() {
            return Plan::Serve;
        }
        match self.obstacle(switch, now) {
            // A failed refresh changes nothing while the token is valid, and a refresh token that
            // may be used up is not risked.
            Some(_) if usable => Plan::Serve,
            None if usable && self.unknown.is_some() => Plan::Serve,
            // The request that tests the account sends it.
            Some(Plan::Cooling(_)) if self.standing == Standing::Refused && self.is_there(now) => {
                Plan::Serve
            }
            Some(obstacle) => obstacle,
            None => Plan::Refresh,
        }
    }

    /// The same for a request that has waited for a refresh that another one has started. If the
    /// refresh of a refused token has failed, only the other one tests the token.
    pub(crate) fn plan_after_refresh(&self, switch: Switch, now: Now) -> Plan {
        match self.obstacle(switch, now) {
            Some(obstacle) if self.standing == Standing::Refused => obstacle,
            Some(_) | None => self.plan(switch, now),
        }
    }

    fn obstacle(&self, switch: Switch, now: Now) -> Option<Plan> {
        if let Some(why) = &self.refresh_refused {
            return Some(Plan::NeedsLogin(why.clone()));
        }
        if self.spendable().is_none() {
            let why = match (&self.tokens().access, &self.tokens().refresh) {
                (None, None) => "it has no token",
                (_, Some(_)) => "its refresh token is used up, and its successor is not known",
                (Some(_), None) => "its access token was refused and there is no refresh token",
            };
            return Some(Plan::NeedsLogin(why.to_owned()));
        }
        if switch == Switch::Off {
            return Some(Plan::Disabled);
        }
        let pending = self.unknown.as_ref().filter(|unknown| now.mono < unknown.next);
        let pending = pending.map(|unknown| Cooling {
            obstacle: unknown.obstacle,
            until: unknown.next,
            why: unknown.why.clone(),
            is_refused: false,
        });
        let cooling = self.cooling.clone().filter(|cooling| now.mono < cooling.until);
        let is_refused = self.standing != Standing::Good;
        pending.or(cooling).map(|cooling| Plan::Cooling(Cooling { is_refused, ..cooling }))
    }

    /// What to do after the API has answered 401 to the token of `generation`.
    ///
    /// Causes at most one refresh in ten seconds, and none for a token that has just come from a
    /// refresh and has not served a request yet.
    pub(crate) fn plan_after_401(&mut self, generation: u64, switch: Switch, now: Now) -> Plan {
        if generation != self.generation {
            return self.plan(switch, now);
        }
        let since = |at: Mono| now.mono.since(at);
        let renewed = self.renewed.map(|(at, _)| since(at));
        let recently = self.forced.map(since).into_iter().chain(renewed);
        let is_too_soon = recently.min().is_some_and(|since| since < BETWEEN_REFRESHES);
        let is_new = self.is_unproven && renewed.is_some_and(|since| since < JUST_BROUGHT);
        self.after_a_401(switch, now, !is_too_soon && !is_new)
    }

    /// The API has refused the token of `generation` again after this request's refresh.
    pub(crate) fn plan_after_second_401(
        &mut self,
        generation: u64,
        switch: Switch,
        now: Now,
    ) -> Plan {
        if generation != self.generation {
            return self.plan(switch, now);
        }
        self.after_a_401(switch, now, false)
    }

    fn after_a_401(&mut self, switch: Switch, now: Now, may_refresh: bool) -> Plan {
        let (standing, plan) = match self.obstacle(switch, now) {
            None if may_refresh => {
                self.forced = Some(now.mono);
                (Standing::Refused, Plan::Refresh)
            }
            Some(Plan::Cooling(cooling)) => {
                (Standing::Refused, Plan::Cooling(Cooling { is_refused: true, ..cooling }))
            }
            Some(obstacle) if self.refresh_refused.is_some() || obstacle == Plan::Disabled => {
                (Standing::Refused, obstacle)
            }
            // Although it cannot be refreshed, this refusal is no more final than others.
            None | Some(_) => (Standing::Resting, Plan::Refused),
        };
        self.standing = standing;
        plan
    }

    /// The user asks for another attempt: pauses end, but final refusals stay, and a token of
    /// unknown fate keeps its 15 minutes.
    pub(crate) fn retry(&mut self) {
        self.cooling = None;
        self.failures = 0;
        self.forced = None;
    }

    /// The token of `generation` has served a request.
    pub(crate) fn served(&mut self, generation: u64) {
        if generation == self.generation {
            self.custody.served();
            self.standing = Standing::Good;
            self.is_unproven = false;
        }
    }

    /// Handles a newly read file: takes over newer tokens. Returns true if the tokens changed.
    ///
    /// Called by a hot sync with what it has just read, and within a refresh with the content under
    /// the lock.
    pub(crate) fn merge_file(&mut self, entry: &Deposit, now: Now) -> bool {
        let is_refreshed = self.custody.age_of(entry) == Age::Newer(Proof::Spent);
        let changed = self.changing(|custody| custody.see_file(entry));
        if changed && is_refreshed {
            // Another process refreshed it a moment ago.
            self.renewed = Some((now.mono, now.wall));
        }
        changed
    }

    /// Handles digests of used-up tokens that were read.
    pub(crate) fn learn_noted(&mut self, noted: &[Digest]) {
        self.custody.learn_noted(noted);
    }

    /// Whether [`TokenState::merge_file`] would change the tokens.
    pub(crate) fn would_take(&self, entry: &Deposit) -> bool {
        matches!(self.custody.age_of(entry), Age::Newer(_))
    }

    /// Handles a newly read source (`importFrom`) and state file. Returns true if the tokens
    /// changed.
    pub(crate) fn take_import(&mut self, tokens: &Tokens, noted: &[Digest]) -> bool {
        self.changing(|custody| custody.see_source(tokens, noted))
    }

    /// Handles a hand-over from another process. Returns true if the tokens changed.
    pub(crate) fn merge_record(&mut self, record: &Record) -> bool {
        self.changing(|custody| custody.see_record(record))
    }

    /// The facts for the state file, see [`TokenState::recall`].
    pub(crate) fn for_the_state_file(&self) -> TokensState {
        let refused = self.tokens().refresh.as_ref().filter(|_| self.refresh_refused.is_some());
        TokensState {
            refused: refused.map(|token| Digest::of(token).as_str().to_owned()),
            refreshed_at: self.renewed_at().map(|at| at.0),
        }
    }

    /// Restores what was known before a restart.
    pub(crate) fn recall(&mut self, known: &TokensState) {
        self.recalled_at = known.refreshed_at.map(Wall);
    }

    /// A refresh has brought a pair for `sent`.
    pub(crate) fn renewed(
        &mut self,
        sent: &Secret,
        issued: &Issued,
        source: Option<&Digest>,
        now: Now,
    ) {
        let mut tokens = issued.tokens.clone();
        let before = self.tokens().clone();
        let is_complete = tokens.access.is_some();
        if !is_complete {
            // The refresh token is what matters; the access token stays as long as it is good.
            tokens.access.clone_from(&before.access);
            tokens.expires_at = before.expires_at;
        }
        if !self.custody.renewed(sent, tokens, source) {
            return;
        }
        self.changed(&before);
        if is_complete {
            if self.standing == Standing::Refused {
                // The endpoint gave the refused token again. Another refresh would do the same.
                self.standing = Standing::Resting;
            }
            self.life = match issued.lifetime {
                // A lifetime of moments would cause a refresh with every request.
                Some(lifetime) => Life::Until(now.mono + lifetime.max(BETWEEN_REFRESHES)),
                None => Life::UntilRefused,
            };
            self.is_unproven = true;
        }
        self.refresh_refused = None;
        self.cooling = None;
        self.unknown = None;
        self.failures = 0;
        self.renewed = Some((now.mono, now.wall));
    }

    /// What must be kept elsewhere.
    pub(crate) fn record(&self, who: &Identity<'_>) -> Record {
        self.custody.record(who)
    }

    /// Records where `record` is now; `trouble` says why it is not in the config.
    pub(crate) fn stored(&mut self, record: &Record, kept: Kept, trouble: Option<Why>) {
        self.custody.stored(record, kept);
        self.trouble = trouble;
    }

    /// Why the config lacks the pair, if it does.
    pub(crate) fn trouble(&self) -> Option<(Kept, &str)> {
        let kept = self.custody.kept();
        let trouble = self.trouble.as_deref().filter(|_| kept != Kept::OnDisk)?;
        Some((kept, trouble))
    }

    /// A refresh failed temporarily: the next one waits for `cooldown`, which doubles with each
    /// failure of the endpoint. If the endpoint says how long, that counts and nothing doubles:
    /// four answers with `retry-after: 1` are no reason to wait for minutes at the fifth.
    pub(crate) fn failed(
        &mut self,
        obstacle: Obstacle,
        retry_after: Option<Duration>,
        why: Why,
        pause: &Pause,
        now: Now,
    ) {
        let wait = match obstacle {
            Obstacle::Network | Obstacle::Local => pause.network,
            Obstacle::Endpoint => retry_after.unwrap_or_else(|| {
                let doubled = pause.first.saturating_mul(1 << self.failures.min(16));
                self.failures = self.failures.saturating_add(1);
                doubled.min(pause.longest)
            }),
        };
        let mut until = now.mono + wait.max(PAUSE_MIN);
        if let Some(at) = self.forced {
            until = until.max(at + BETWEEN_REFRESHES);
        }
        self.cooling = Some(Cooling { obstacle, until, why, is_refused: false });
    }

    /// `sent` may have arrived, and its fate is unknown: it is tried once more after the pause of a
    /// failure, then at most every 15 minutes.
    pub(crate) fn fate_unknown(
        &mut self,
        sent: &Secret,
        obstacle: Obstacle,
        why: Why,
        pause: &Pause,
        now: Now,
    ) {
        let token = Digest::of(sent);
        let is_again = self.unknown.as_ref().is_some_and(|unknown| unknown.token == token);
        self.failed(obstacle, None, why.clone(), pause, now);
        if self.tokens().refresh.as_ref() != Some(sent) {
            // A login or an edit has replaced it, and the new token has not been sent to anybody.
            return;
        }
        let next = match &self.cooling {
            Some(cooling) if !is_again => cooling.until,
            Some(_) | None => now.mono + UNKNOWN_PAUSE,
        };
        self.unknown = Some(UnknownFate { token, obstacle, next, why });
    }

    /// The lock of `token` records that a process sent it without an answer. Returns true if it
    /// must not be sent now.
    pub(crate) fn sent_before(
        &mut self,
        token: &Secret,
        sends: Sends,
        pause: &Pause,
        now: Now,
    ) -> bool {
        let wait = if sends.times <= 1 { pause.network.max(PAUSE_MIN) } else { UNKNOWN_PAUSE };
        // A time in the future, after the clock was set back, proves nothing.
        let left =
            if sends.at > now.wall { Duration::ZERO } else { now.wall.until(sends.at + wait) };
        let is_usable = self.is_usable(now);
        if left.is_zero() && !is_usable {
            return false;
        }
        let next = now.mono + left;
        let why = "no answer came when its refresh token was sent".to_owned();
        let token = Digest::of(token);
        self.unknown = Some(UnknownFate { token, obstacle: Obstacle::Network, next, why });
        true
    }

    /// The token endpoint refused `sent` for good. Returns true if another pair, which may still be
    /// good, has taken its place.
    pub(crate) fn refused(&mut self, sent: &Secret, why: Why) -> bool {
        let digest = Digest::of(sent);
        if !self.dead.contains(&digest) {
            self.dead.push(digest);
            let excess = self.dead.len().saturating_sub(DEAD_MAX);
            self.dead.drain(..excess);
        }
        if self.tokens().refresh.as_ref() != Some(sent) {
            return self.spendable().is_some();
        }
        let dead = self.dead.clone();
        let fell_back =
            |custody: &mut Custody| custody.fall_back(|token| dead.contains(&Digest::of(token)));
        if self.changing(fell_back) {
            return true;
        }
        self.refresh_refused = Some(why);
        false
    }

    fn changing(&mut self, change: impl FnOnce(&mut Custody) -> bool) -> bool {
        let before = self.tokens().clone();
        change(&mut self.custody);
        self.changed(&before)
    }

    /// Forgets what was known about the tokens `before`, if they have changed.
    fn changed(&mut self, before: &Tokens) -> bool {
        let access_changed = self.tokens().access != before.access;
        let changed = !self.tokens().same_pair(before);
        if changed {
            self.refresh_refused = None;
            self.cooling = None;
            self.unknown = None;
            self.failures = 0;
        }
        if access_changed {
            self.life = Life::ByTheFile;
            self.standing = Standing::Good;
            self.is_unproven = false;
            self.generation += 1;
        }
        changed
    }
}

/// The pauses after a refresh that failed temporarily.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pause {
    /// `scheduler.networkCooldownMs`.
    pub(crate) network: Duration,
    /// `scheduler.cooldownMs`, doubled with each failure.
    pub(crate) first: Duration,
    /// `scheduler.maxCooldownMs`.
    pub(crate) longest: Duration,
}

/// SPEC T2: refresh when less than this is left.
const REFRESH_AHEAD: Duration = Duration::from_secs(5 * 60);
/// Shortest time between two refreshes of a token that is still good or new, and shortest use of a
/// new token.
const BETWEEN_REFRESHES: Duration = Duration::from_secs(10);
/// Cooldowns may be configured as 0, but a token is never sent again at once.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// If the API refuses a token at its first use, it is refreshed again only this long after it came,
/// in case it was not used before it expired.
const JUST_BROUGHT: Duration = Duration::from_secs(15 * 60);
/// SPEC T2: interval between attempts with a refresh token of unknown fate.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(15 * 60);
/// An access token with at least this lifetime is refreshed before its end.
const LONG_LIFE: Duration = Duration::from_secs(3600);
/// Refused refresh tokens that are remembered.
const DEAD_MAX: usize = 32;

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
