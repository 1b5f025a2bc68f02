//! Decides whether a refusal is the API's own, because it is the same everywhere (SPEC P8).

use std::time::Duration;

use super::parts::account::Account;
use super::parts::block::{Block, BlockReason, Evidence};
use super::parts::breaker::Seen;
use super::parts::id::RouteClass;
use super::parts::obstacle::{Ends, Obstacle};
use super::parts::policy::{BREAKER_ACCOUNTS_MIN, RETRY_AFTER_MIN};
use super::parts::request::Shape;
use super::parts::suspicion::Fingerprint;
use super::parts::time::{Mono, Now};
use super::parts::trail::Trail;
use super::select::{Ask, Patience, Restraint, Route, mismatch};
use super::{LeaseRecord, Scheduler};

impl Scheduler {
    /// P8: is the refusal the same everywhere?
    pub(super) fn weigh_breaker(
        &mut self,
        now: Now,
        index: usize,
        held: &LeaseRecord,
        (fingerprint, retry_after): (Fingerprint, Option<Duration>),
        evidence: &Evidence,
    ) {
        if held.class != RouteClass::Messages || !self.accounts[index].is_claude() {
            return;
        }
        let longest = self.policy.max_cooldown.max(RETRY_AFTER_MIN);
        let account = self.accounts[index].id;
        let breaker = self.breakers.of(held.family.as_ref());
        breaker.saw(Seen {
            at: now.mono,
            account,
            fingerprint,
            asked: retry_after.map(|wait| now.mono + wait.clamp(RETRY_AFTER_MIN, longest)),
        });
        if !breaker.can_trip(now.mono) {
            return;
        }
        let mut refusers: Vec<_> =
            breaker.alike(now.mono, fingerprint).map(|seen| seen.account).collect();
        refusers.sort();
        refusers.dedup();
        // Each proven one was met by two requests; the proof is stored with the account.
        if refusers.len() < BREAKER_ACCOUNTS_MIN {
            return;
        }
        let asked = breaker.alike(now.mono, fingerprint).filter_map(|seen| seen.asked).max();
        let own_blocks = refusers
            .iter()
            .filter_map(|id| self.account(*id))
            .filter_map(|account| refused_until(now, account));
        let Some(until) = asked.or_else(|| own_blocks.max()) else {
            return;
        };
        if self.is_refused_everywhere(now, held, fingerprint, until) {
            self.breakers.of(held.family.as_ref()).trip(now, until, evidence);
        }
    }

    /// Whether every enabled account that this request could use has refused in the same way, or is
    /// out beyond `until`.
    fn is_refused_everywhere(
        &self,
        now: Now,
        held: &LeaseRecord,
        fingerprint: Fingerprint,
        until: Mono,
    ) -> bool {
        let trail = Trail::default();
        let ask = Ask {
            profile: &held.profile,
            class: held.class,
            kin: held.kin,
            family: held.family.as_ref(),
            model: held.model.as_ref(),
            session: None,
            weight: held.weight,
            thinking: false,
            route: Route::Any,
            // Only Claude accounts are examined, and none of them comes from request headers.
            brought: &[],
            tried: &[],
            tried_until: now.mono,
            trail: &trail,
            last_failure: None,
            patience: Patience::CannotWait,
            binding: None,
            shape: Shape::Stream,
            body_bytes: 0,
            restraint: Restraint::Waived,
            others_waiting: 0,
        };
        let Some(breaker) = self.breakers.get(held.family.as_ref()) else {
            return false;
        };
        let mut compatible = self
            .accounts
            .iter()
            .filter(|account| account.is_claude() && mismatch(account, &ask).is_none());
        compatible.all(|account| {
            let refused =
                breaker.alike(now.mono, fingerprint).any(|seen| seen.account == account.id);
            refused || self.is_out_until(now, account, &ask, until)
        })
    }

    /// Whether blocks or windows keep the account out at least until then.
    fn is_out_until(&self, now: Now, account: &Account, ask: &Ask<'_>, until: Mono) -> bool {
        let mut out = false;
        self.obstacles(now, account, ask, |obstacle| {
            out |= match obstacle {
                Obstacle::Block(_)
                | Obstacle::Window(_)
                | Obstacle::Limit(_)
                | Obstacle::Overage { .. } => match obstacle.ends(now) {
                    Ends::At(at) => at >= until,
                    Ends::Never => true,
                    Ends::OnRelease => false,
                },
                _ => false,
            };
            !out
        });
        out
    }
}

/// The end of the blocks that the account's own refusals have caused.
fn refused_until(now: Now, account: &Account) -> Option<Mono> {
    let server_side = |block: &&Block| {
        matches!(
            block.reason,
            BlockReason::ServerSide | BlockReason::Overloaded | BlockReason::ServerError
        )
    };
    account.blocks(now).filter(server_side).filter_map(|block| block.end.mono(now)).max()
}
