//! What has changed between two looks at the scheduler: accounts that went out or came back, and
//! the shared breaker.
//!
//! The scheduler emits no events, so the reporter looks when a request did not end well and when a
//! block should have ended. Pure: a snapshot in, events out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::event::{AccountBlocked, Event};
use crate::scheduler::time::{Mono, Wall};
use crate::scheduler::{
    AccountId, AccountSnapshot, BlockReason, BlockSnapshot, BreakerSnapshot, Effect, Scope,
    Snapshot,
};

/// The state at the last look.
#[derive(Default)]
pub(super) struct Changes {
    accounts: HashMap<AccountId, Known>,
    breaker: Breaker,
}

struct Known {
    blocks: Vec<(BlockReason, Scope, Effect, Wall)>,
    /// When it went out for all requests.
    out_since: Option<Mono>,
}

#[derive(Default)]
enum Breaker {
    #[default]
    Closed,
    Open {
        since: Mono,
        probing: bool,
        failed_probes: u32,
    },
}

impl Changes {
    /// The changes since the last look.
    pub(super) fn note(&mut self, snapshot: &Snapshot) -> Vec<Event> {
        let mut events = Vec::new();
        let now = snapshot.at.mono;
        self.accounts.retain(|id, _| snapshot.accounts.iter().any(|account| account.id == *id));
        for account in &snapshot.accounts {
            let known = self
                .accounts
                .entry(account.id)
                .or_insert(Known { blocks: Vec::new(), out_since: None });
            known.note(account, now, &mut events);
        }
        self.breaker.note(&snapshot.breaker, now, &mut events);
        events
    }

    /// The time until the next known end of a block or a pause.
    pub(super) fn next_look(snapshot: &Snapshot) -> Option<Duration> {
        let blocks = snapshot.accounts.iter().flat_map(|account| &account.blocks);
        let ends = blocks.filter_map(|block| block.remaining);
        let breaker = snapshot.breaker.until.map(|until| snapshot.at.wall.until(until));
        ends.chain(breaker).min()
    }
}

impl Known {
    fn note(&mut self, account: &AccountSnapshot, now: Mono, events: &mut Vec<Event>) {
        for block in &account.blocks {
            // A block renewed by another answer gets its own line, because it may end later.
            if !self.blocks.contains(&told(block)) {
                events.push(blocked(account, block));
            }
        }
        self.blocks = account.blocks.iter().map(told).collect();
        let is_out = account
            .blocks
            .iter()
            .any(|block| block.scope == Scope::Account && block.effect == Effect::Out);
        match (self.out_since, is_out) {
            (None, true) => self.out_since = Some(now),
            (Some(since), false) => {
                self.out_since = None;
                events.push(Event::AccountBack {
                    account: Arc::clone(&account.name),
                    after: now.since(since),
                });
            }
            (None, false) | (Some(_), true) => {}
        }
    }
}

/// Identifies a block: if any of this changes, it is reported again.
fn told(block: &BlockSnapshot) -> (BlockReason, Scope, Effect, Wall) {
    (block.reason.clone(), block.scope.clone(), block.effect, block.evidence.at)
}

fn blocked(account: &AccountSnapshot, block: &BlockSnapshot) -> Event {
    Event::AccountBlocked(AccountBlocked {
        account: Arc::clone(&account.name),
        block: block.clone(),
    })
}

impl Breaker {
    fn note(&mut self, seen: &BreakerSnapshot, now: Mono, events: &mut Vec<Event>) {
        let open = |failed_probes| Event::BreakerOpen {
            reason: seen.reason.as_deref().unwrap_or("the API is in trouble").to_owned(),
            until: seen.until,
            failed_probes,
        };
        match self {
            Breaker::Closed if seen.active => {
                events.push(open(0));
                if seen.probe_in_flight {
                    events.push(Event::BreakerProbe);
                }
                *self =
                    Breaker::Open { since: now, probing: seen.probe_in_flight, failed_probes: 0 };
            }
            Breaker::Closed => {}
            Breaker::Open { since, probing, .. } if !seen.active => {
                let by = if *probing {
                    "the probe was answered"
                } else {
                    "accounts are judged one by one again"
                };
                events.push(Event::BreakerClosed { after: now.since(*since), by: by.to_owned() });
                *self = Breaker::Closed;
            }
            Breaker::Open { probing, failed_probes, .. } => {
                match (*probing, seen.probe_in_flight) {
                    (false, true) => events.push(Event::BreakerProbe),
                    (true, false) => {
                        *failed_probes += 1;
                        events.push(open(*failed_probes));
                    }
                    (false, false) | (true, true) => {}
                }
                *probing = seen.probe_in_flight;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::status::tests::snapshot;

    /// A short name for each event.
    fn said(events: &[Event]) -> Vec<String> {
        events
            .iter()
            .map(|event| match event {
                Event::AccountBlocked(blocked) => match blocked.block.effect {
                    Effect::Out => format!("{} out", blocked.account),
                    Effect::Avoided => format!("{} avoided", blocked.account),
                },
                Event::AccountBack { account, after } => {
                    format!("{account} back after {}s", after.as_secs())
                }
                Event::BreakerOpen { failed_probes, .. } => format!("open {failed_probes}"),
                Event::BreakerProbe => "probe".into(),
                Event::BreakerClosed { after, by } => {
                    format!("closed after {}s: {by}", after.as_secs())
                }
                other => format!("{other:?}"),
            })
            .collect()
    }

    fn later(mut of: Snapshot, seconds: u64) -> Snapshot {
        let wait = Duration::from_secs(seconds);
        of.at.mono = of.at.mono + wait;
        of.at.wall = of.at.wall + wait;
        of
    }

    #[test]
    fn an_account_goes_out_once_and_comes_back_once() {
        let mut quiet = snapshot();
        quiet.breaker = BreakerSnapshot::default();
        let mut healthy = later(quiet.clone(), 60);
        healthy.accounts[0].blocks.clear();
        let mut changes = Changes::default();
        assert_eq!(said(&changes.note(&quiet)), ["work out"]);
        assert!(changes.note(&later(quiet.clone(), 1)).is_empty());
        let mut again = later(quiet.clone(), 2);
        let evidence = Arc::make_mut(&mut again.accounts[0].blocks[0].evidence);
        evidence.at = again.at.wall;
        assert_eq!(said(&changes.note(&again)), ["work out"], "another answer has renewed it");
        assert_eq!(said(&changes.note(&healthy)), ["work back after 60s"]);
        assert!(changes.note(&healthy).is_empty());
        let mut gone = healthy;
        gone.accounts.clear();
        assert!(changes.note(&gone).is_empty());
    }

    #[test]
    fn a_block_of_one_family_is_told_and_does_not_come_back() {
        let mut seen = snapshot();
        seen.breaker = BreakerSnapshot::default();
        seen.accounts[0].blocks[0].scope =
            Scope::Family(crate::scheduler::quota::Family("opus".into()));
        let mut changes = Changes::default();
        assert_eq!(said(&changes.note(&seen)), ["work out"]);
        seen.accounts[0].blocks.clear();
        assert!(changes.note(&seen).is_empty());
    }

    #[test]
    fn an_account_that_is_only_avoided_is_not_out() {
        let mut seen = snapshot();
        seen.breaker = BreakerSnapshot::default();
        let suspected = seen.accounts[0].blocks[0].clone();
        seen.accounts[0].blocks[0].effect = Effect::Avoided;
        let mut changes = Changes::default();
        assert_eq!(said(&changes.note(&seen)), ["work avoided"]);
        seen.accounts[0].blocks.push(suspected);
        assert_eq!(said(&changes.note(&seen)), ["work out"], "proven by the same answer");
        seen = later(seen, 30);
        seen.accounts[0].blocks.pop();
        assert_eq!(said(&changes.note(&seen)), ["work back after 30s"]);
        seen.accounts[0].blocks.clear();
        assert!(changes.note(&seen).is_empty());
    }

    #[test]
    fn the_breaker_opens_probes_and_closes() {
        let state = |seconds, active, probe_in_flight| {
            let mut seen = later(snapshot(), seconds);
            seen.accounts.clear();
            seen.breaker.active = active;
            seen.breaker.probe_in_flight = probe_in_flight;
            seen
        };
        let mut changes = Changes::default();
        for (seen, events) in [
            (state(0, false, false), vec![]),
            (state(1, true, false), vec!["open 0"]),
            (state(2, true, true), vec!["probe"]),
            (state(3, true, false), vec!["open 1"]),
            (state(4, true, true), vec!["probe"]),
            (state(5, false, false), vec!["closed after 4s: the probe was answered"]),
            (state(6, true, true), vec!["open 0", "probe"]),
            (state(7, true, false), vec!["open 1"]),
            (state(8, false, false), vec!["closed after 2s: accounts are judged one by one again"]),
        ] {
            assert_eq!(said(&changes.note(&seen)), events);
        }
    }

    #[test]
    fn the_next_look_is_at_the_first_end() {
        assert_eq!(Changes::next_look(&snapshot()), Some(Duration::from_secs(5)), "the breaker's");
        let mut seen = snapshot();
        seen.breaker = BreakerSnapshot::default();
        assert_eq!(Changes::next_look(&seen), Some(Duration::from_secs(3_600)));
        seen.accounts.clear();
        assert_eq!(Changes::next_look(&seen), None);
    }
}
