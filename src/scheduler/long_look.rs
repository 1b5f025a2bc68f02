//! Tests of blocks that last many hours (SPEC P7, ways out): every verdict ages out through a real
//! request.

use super::Scheduler;
use super::parts::account::{Account, Looked, keeps_out};
use super::parts::affinity::Home;
use super::parts::obstacle::Obstacle;
use super::parts::outcome::Outcome;
use super::parts::request::Why;
use super::parts::time::{Mono, Now};
use super::select::{Ask, Choice, mismatch};

impl Scheduler {
    /// Ways out (P7): a request that would otherwise wait or fail tests an account that has been
    /// out for hours, if nothing but such blocks keeps it out.
    pub(super) fn long_look(&self, now: Now, ask: &Ask<'_>) -> Option<Choice> {
        let is_due = |account: &Account| {
            let mut due = true;
            let mut any = false;
            self.obstacles(now, account, ask, |obstacle| {
                any = true;
                due = match obstacle {
                    Obstacle::Window(window) => window.is_due_for_long_look(now),
                    _ => obstacle.is_long_block(),
                };
                due
            });
            let held =
                || account.placed(now).filter(|held| keeps_out(&held.block.scope, ask.target()));
            due && any && held().all(|held| held.is_due_for_long_look(now))
        };
        let index = self.accounts.iter().position(is_due)?;
        Some(Choice {
            index,
            why: Why::LongLook,
            home: Home::Unusable,
            critical: ask.binding.map(|binding| binding.critical).unwrap_or_default(),
        })
    }

    /// When the first such test is due.
    pub(super) fn next_long_look(&self, now: Now, ask: &Ask<'_>) -> Option<Mono> {
        let accounts = self.accounts.iter().filter(|account| mismatch(account, ask).is_none());
        let looks = accounts.flat_map(|account| {
            let held = account.placed(now);
            let blocks = held.filter(|held| keeps_out(&held.block.scope, ask.target()));
            let windows = account.windows.iter(now.wall);
            blocks
                .filter_map(move |held| held.long_look_at(now))
                .chain(windows.filter_map(move |window| window.long_look_at(now)))
        });
        looks.filter(|at| *at > now.mono).min()
    }

    /// The request that tested a limit without a known end (S3), or whether a refusal still holds
    /// (T2, ways out), has ended.
    pub(super) fn end_look(&mut self, now: Now, index: usize, lease: u64, outcome: &Outcome) {
        let account = &mut self.accounts[index];
        let looked = match outcome {
            Outcome::Success => {
                account.windows.look_passed(lease);
                Looked::Passed
            }
            Outcome::QuotaRejected { .. } => {
                account.windows.look_failed(now, lease);
                Looked::Returned
            }
            // The credential was good enough for an answer.
            Outcome::Neutral | Outcome::OwnRequest { .. } | Outcome::ModelMissing { .. } => {
                account.windows.look_returned(lease);
                Looked::Passed
            }
            Outcome::Abandoned => {
                account.windows.look_returned(lease);
                Looked::Returned
            }
            Outcome::Broken { .. }
            | Outcome::ServerSide { .. }
            | Outcome::Unproven { .. }
            | Outcome::ServerError { .. }
            | Outcome::Network { .. }
            | Outcome::CredentialRefused { .. }
            | Outcome::NeedsLogin { .. }
            | Outcome::Unusable { .. }
            | Outcome::Forbidden { .. } => {
                account.windows.look_ended_in_trouble(now, lease);
                Looked::InTrouble
            }
        };
        account.end_look(now, lease, looked);
    }
}
