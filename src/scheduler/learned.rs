//! What outlives the process of an account (SPEC A6, R2): its quota windows, the API's last
//! verdicts about them, the rejections in force, and totals.
//!
//! The verdicts belong to the windows. A week used to 99 % with `allowed_warning` serves, and the
//! same week without that verdict is exhausted until its reset. So a window restored without its
//! verdict would take out an account that the API serves, for days. A block that is not a limit (a
//! cooldown, a missing login) is not kept: the next request finds out faster than a file could
//! tell.

use std::sync::Arc;

use super::parts::account::Account;
use super::parts::block::{Block, BlockReason, End, Evidence, Scope};
use super::parts::id::{AccountId, RouteClass};
use super::parts::snapshot::{KnownRejection, Learned};
use super::parts::time::Now;
use super::{Look, Scheduler};

impl Scheduler {
    /// What the state file keeps (A6).
    #[must_use]
    pub fn learned(&self, now: Now, id: AccountId) -> Option<Learned> {
        let account = self.account(id)?;
        Some(Learned {
            windows: account.windows.iter(now.wall).map(|window| window.snapshot()).collect(),
            usage: account.usage,
            unified_status: account.unified_status,
            overage_until: account.overage(now).and_then(|end| end.wall(now)),
            rejections: rejections(account, now),
        })
    }

    /// Restores what the state file kept. A utilisation without a reset and a window that has
    /// passed are dropped, and answers received since take precedence. Totals are added to those
    /// counted since.
    pub fn restore(&mut self, now: Now, id: AccountId, learned: &Learned) {
        let now = self.touch(now);
        let Some(account) = self.account_mut(id) else {
            return;
        };
        account.stir();
        account.windows.restore(now, &learned.windows);
        // An answer in this process is newer than all answers in the previous one.
        if account.last_status.is_none() {
            account.unified_status = account.unified_status.or(learned.unified_status);
            let overage = learned.overage_until.filter(|until| *until > now.wall);
            if let Some(until) = overage {
                account.set_overage(Some(End::At { mono: None, wall: Some(until) }));
            }
            for known in learned.rejections.iter().filter(|known| known.until > now.wall) {
                account.put_block(now, block(known));
            }
        }
        let (own, saved) = (&mut account.usage, &learned.usage);
        own.tokens.input = own.tokens.input.saturating_add(saved.tokens.input);
        own.tokens.output = own.tokens.output.saturating_add(saved.tokens.output);
        own.tokens.cache_read = own.tokens.cache_read.saturating_add(saved.tokens.cache_read);
        own.tokens.cache_write = own.tokens.cache_write.saturating_add(saved.tokens.cache_write);
        own.requests = own.requests.saturating_add(saved.requests);
        own.last_used = own.last_used.max(saved.last_used);
        self.look = Look::Now;
    }
}

fn rejections(account: &Account, now: Now) -> Vec<KnownRejection> {
    let known = |block: &Block| {
        let BlockReason::Quota(window) = &block.reason else {
            return None;
        };
        let family = match &block.scope {
            Scope::Account | Scope::Class(RouteClass::Messages) => None,
            Scope::Family(family) => Some(family.clone()),
            Scope::Class(RouteClass::CountTokens | RouteClass::Models | RouteClass::Rest)
            | Scope::Model(_) => return None,
        };
        Some(KnownRejection {
            window: window.clone(),
            family,
            until: block.end.wall(now)?,
            said_at: block.evidence.at,
            status: block.evidence.status,
        })
    };
    account.blocks(now).filter_map(known).collect()
}

fn block(known: &KnownRejection) -> Block {
    let scope = match &known.family {
        Some(family) => Scope::Family(family.clone()),
        None => Scope::Class(RouteClass::Messages),
    };
    Block {
        reason: BlockReason::Quota(known.window.clone()),
        end: End::At { mono: None, wall: Some(known.until) },
        scope,
        evidence: Arc::new(Evidence {
            status: known.status,
            request_id: None,
            source: "known from the state file".into(),
            at: known.said_at,
            message: "".into(),
        }),
    }
}
