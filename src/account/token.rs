//! What one account has to show for itself, and whether it may be used, must be renewed, or is dead (SPEC T2). Pure.
//!
//! ```text
//!            due (less than 5 min left, or a 401)          new pair
//!   good ───────────────────────────────────▶ refreshing ───────────▶ good
//!    ▲ │                                        │      ╲ network, 429, 5xx
//!    │ │ refused without refresh token          │       ▶ cooling ──(later)──▶ refreshing
//!    │ ▼                                        ▼ 400, 401, 403
//!    └─ needs login ◀───────────────────── needs login      (cooling and needs login matter only once the access
//!  other tokens appear                                       token cannot be used any more)
//! ```
//!
//! The file and the memory are merged like two edits of one text: what the file held when this process last saw it is the
//! common base. The file wins only if it has changed against that base, and never with a refresh token that this process
//! has already used up.

use std::time::Duration;

use crate::config::{Secret, Tokens};
use crate::scheduler::time::{Mono, Now, Wall};

impl Tokens {
    /// True if the two hold the same secrets; a corrected expiry alone makes no other pair.
    pub(crate) fn same_pair(&self, other: &Tokens) -> bool {
        self.access == other.access && self.refresh == other.refresh
    }

    /// True if this pair is another one and ends later: the rule for `importFrom` (SPEC T3).
    pub(crate) fn is_newer_than(&self, other: &Tokens) -> bool {
        self.access.is_some() && self.access != other.access && self.expires_at > other.expires_at
    }

    fn has_expired(&self, now: Wall) -> bool {
        // Without a refresh token nothing can be done about it, so the upstream's word is waited for.
        self.refresh.is_some() && self.expires_at.is_some_and(|end| end <= now)
    }

    fn is_about_to_expire(&self, now: Wall) -> bool {
        self.expires_at.is_some_and(|end| end <= now + REFRESH_AHEAD)
    }
}

/// Why an OAuth account must be logged in again, or waits. One line for people.
pub(crate) type Why = String;

/// What stood in the way of a refresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// The way to the token endpoint: no failure of the account.
    Network,
    /// The endpoint: 429, 5xx, an answer without an access token.
    Endpoint,
    /// This machine: the config could not be locked or read.
    Local,
}

/// A pause after a refresh that failed for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cooling {
    /// What failed.
    pub(crate) obstacle: Obstacle,
    /// When the next refresh may go out.
    pub(crate) until: Mono,
    /// In words.
    pub(crate) why: Why,
}

/// The state of an OAuth account's tokens.
#[derive(Debug, Default)]
pub(crate) struct TokenState {
    tokens: Tokens,
    /// Counts up whenever the access token becomes another one.
    generation: u64,
    /// What the file held when it was last seen.
    on_file: Tokens,
    /// The memory has a pair that the file has not.
    unsaved: bool,
    /// Refresh tokens that were sent and answered with a new pair.
    spent: Vec<Secret>,
    /// The API has answered 401 to the present access token.
    access_refused: bool,
    /// The token endpoint has refused the present refresh token.
    refresh_refused: Option<Why>,
    /// Only other tokens end this.
    needs_login: Option<Why>,
    cooling: Option<Cooling>,
    /// Refreshes in a row that failed at the endpoint.
    failures: u32,
    /// The last refresh that a 401 asked for, and the generation that came of it.
    forced: Option<(Mono, u64)>,
    /// The last refresh that brought a pair.
    renewed: Option<Mono>,
}

/// What to do for a caller that needs the access token.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Plan {
    /// Use it.
    Serve,
    /// Refresh first.
    Refresh,
    /// Not now.
    Cooling(Cooling),
    /// Not before a login.
    NeedsLogin(Why),
    /// Its token is no good and a disabled account never refreshes.
    Disabled,
}

/// Whether an account takes part, see [`TokenState::plan`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Switch {
    /// `enabled: true`.
    On,
    /// `enabled: false`.
    Off,
}

impl TokenState {
    /// The state in words, for people.
    pub(crate) fn word(&self, now: Wall) -> &'static str {
        if self.needs_login.is_some() || self.refresh_refused.is_some() {
            "needs login"
        } else if self.access_refused {
            "refused"
        } else if self.tokens.expires_at.is_some_and(|end| end <= now) {
            "expired"
        } else {
            "valid"
        }
    }

    /// As the file has them.
    pub(crate) fn new(tokens: Tokens) -> TokenState {
        TokenState { on_file: tokens.clone(), tokens, generation: 1, ..TokenState::default() }
    }

    pub(crate) fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn is_unsaved(&self) -> bool {
        self.unsaved
    }

    /// The access token can be sent with some hope.
    pub(crate) fn is_usable(&self, now: Now) -> bool {
        self.tokens.access.is_some() && !self.access_refused && !self.tokens.has_expired(now.wall)
    }

    /// What to do for a request that is about to be sent.
    pub(crate) fn plan(&self, switch: Switch, now: Now) -> Plan {
        if let Some(why) = &self.needs_login {
            return Plan::NeedsLogin(why.clone());
        }
        let usable = self.is_usable(now);
        let just_renewed = self.renewed.is_some_and(|at| now.mono.since(at) < BETWEEN_REFRESHES);
        let due = !usable || (self.tokens.is_about_to_expire(now.wall) && !just_renewed);
        if usable && (!due || self.tokens.refresh.is_none()) {
            return Plan::Serve;
        }
        let obstacle = if self.tokens.refresh.is_none() {
            Some(Plan::NeedsLogin(match self.tokens.access {
                Some(_) => "its access token was refused and there is no refresh token".to_owned(),
                None => "it has no token".to_owned(),
            }))
        } else if let Some(why) = &self.refresh_refused {
            Some(Plan::NeedsLogin(why.clone()))
        } else if switch == Switch::Off {
            Some(Plan::Disabled)
        } else {
            let cooling = self.cooling.as_ref().filter(|cooling| now.mono < cooling.until);
            cooling.map(|cooling| Plan::Cooling(cooling.clone()))
        };
        match obstacle {
            // A failed refresh of a token that is still valid changes nothing.
            Some(_) if usable => Plan::Serve,
            Some(obstacle) => obstacle,
            None => Plan::Refresh,
        }
    }

    /// What to do now that the API has answered 401 to the token of `generation`.
    ///
    /// At most one refresh in ten seconds comes of this, unless the tokens became others by another way.
    pub(crate) fn plan_after_401(&mut self, generation: u64, switch: Switch, now: Now) -> Plan {
        if generation != self.generation {
            return self.plan(switch, now);
        }
        self.access_refused = true;
        if let Some((at, result)) = self.forced
            && result == self.generation
            && now.mono.since(at) < BETWEEN_REFRESHES
            && self.cooling.is_none()
        {
            return self.condemn("the API refuses the token that a refresh has just brought");
        }
        let plan = self.plan(switch, now);
        if let Plan::NeedsLogin(why) = &plan {
            self.needs_login = Some(why.clone());
        }
        if plan == Plan::Refresh {
            self.forced = Some((now.mono, self.generation));
        }
        plan
    }

    /// The API has refused the token of `generation` after a refresh had brought it: *needs login* (SPEC P7).
    pub(crate) fn plan_after_second_401(
        &mut self,
        generation: u64,
        switch: Switch,
        now: Now,
    ) -> Plan {
        if generation != self.generation {
            return self.plan(switch, now);
        }
        self.access_refused = true;
        self.condemn("the API refuses the token that a refresh has brought")
    }

    fn condemn(&mut self, why: &str) -> Plan {
        self.needs_login = Some(why.to_owned());
        Plan::NeedsLogin(why.to_owned())
    }

    /// The file was read: takes over what is new in it. True if the tokens became others.
    ///
    /// Called by a hot sync with what it read a moment ago, and within a refresh with what is there under the lock.
    pub(crate) fn merge_file(&mut self, file: &Tokens) -> bool {
        if file == &self.on_file {
            return false;
        }
        if file.refresh.as_ref().is_some_and(|token| self.spent.contains(token)) {
            // An older copy came back, or the read was overtaken by our own write: the memory is ahead.
            self.unsaved = !file.same_pair(&self.tokens);
            return false;
        }
        self.on_file = file.clone();
        self.unsaved = false;
        self.take(file.clone())
    }

    /// True if [`TokenState::merge_file`] would make the tokens others.
    pub(crate) fn would_take(&self, file: &Tokens) -> bool {
        let spent = file.refresh.as_ref().is_some_and(|token| self.spent.contains(token));
        file != &self.on_file && !spent && !file.same_pair(&self.tokens)
    }

    /// A newer pair from elsewhere that the file has not: `importFrom`. True if the tokens became others.
    pub(crate) fn take_import(&mut self, tokens: Tokens) -> bool {
        self.unsaved = true;
        self.take(tokens)
    }

    /// A refresh has brought a pair for `sent`; `stored` tells whether it is on disk.
    pub(crate) fn renewed(&mut self, sent: &Secret, tokens: Tokens, stored: Stored, now: Now) {
        if tokens.refresh.as_ref() != Some(sent) {
            self.spent.push(sent.clone());
            let excess = self.spent.len().saturating_sub(SPENT_MAX);
            self.spent.drain(..excess);
        }
        match stored {
            Stored::OnDisk => {
                self.on_file = tokens.clone();
                self.unsaved = false;
            }
            Stored::InMemory => self.unsaved = true,
        }
        self.take(tokens);
        self.access_refused = false;
        self.refresh_refused = None;
        self.cooling = None;
        self.failures = 0;
        self.renewed = Some(now.mono);
        if let Some((_, result)) = &mut self.forced {
            *result = self.generation;
        }
    }

    /// The memory's pair has been written.
    pub(crate) fn saved(&mut self, tokens: &Tokens) {
        self.on_file = tokens.clone();
        self.unsaved = !tokens.same_pair(&self.tokens);
    }

    /// A refresh failed for now: none before `cooldown`, or twice that and so on for failures of the endpoint, is over.
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
            Obstacle::Endpoint => {
                let doubled = pause.first.saturating_mul(1 << self.failures.min(16));
                self.failures = self.failures.saturating_add(1);
                retry_after.unwrap_or(doubled.min(pause.longest))
            }
        };
        let mut until = now.mono + wait.max(PAUSE_MIN);
        if let Some((at, generation)) = self.forced
            && generation == self.generation
        {
            until = until.max(at + BETWEEN_REFRESHES);
        }
        self.cooling = Some(Cooling { obstacle, until, why });
    }

    /// The token endpoint refused `sent` for good.
    pub(crate) fn refused(&mut self, sent: &Secret, why: Why) {
        if self.tokens.refresh.as_ref() == Some(sent) {
            self.refresh_refused = Some(why);
        }
    }

    fn take(&mut self, tokens: Tokens) -> bool {
        let access_changed = tokens.access != self.tokens.access;
        let changed = !tokens.same_pair(&self.tokens);
        self.tokens = tokens;
        if changed {
            self.refresh_refused = None;
            self.needs_login = None;
            self.cooling = None;
            self.failures = 0;
        }
        if access_changed {
            self.access_refused = false;
            self.generation += 1;
        }
        changed
    }
}

/// Where a new pair is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// In the config file.
    OnDisk,
    /// Nowhere else: the file could not be written.
    InMemory,
}

/// How long to wait after a refresh that failed for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pause {
    /// `scheduler.networkCooldownMs`.
    pub(crate) network: Duration,
    /// `scheduler.cooldownMs`, doubled with each failure.
    pub(crate) first: Duration,
    /// `scheduler.maxCooldownMs`.
    pub(crate) longest: Duration,
}

/// SPEC T2: refresh when less than this remains.
const REFRESH_AHEAD: Duration = Duration::from_secs(5 * 60);
/// The least time between two refreshes of one token that is still good or that was just brought.
const BETWEEN_REFRESHES: Duration = Duration::from_secs(10);
/// Cooldowns may be configured as 0; a token is not sent again at once even so.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Refresh tokens remembered as used up: more than a backup or a slow reader could bring back.
const SPENT_MAX: usize = 32;

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
