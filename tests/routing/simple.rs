//! Simple rules used elsewhere: an account that refused is left alone until the time that it named,
//! and requests wait if no account is left.

use std::collections::{BTreeMap, VecDeque};

use maxpool::scheduler::quota::{QuotaReport, WindowKind};
use maxpool::scheduler::time::Wall;

use super::plan::Seat;
use super::router::{Answer, Ask, End, Router, wall};

/// How an account is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// In turn.
    RoundRobin,
    /// The account with the smallest used share, where its fuller window counts.
    LeastUsed,
    /// The account whose week ends first.
    SoonestReset,
}

/// Whether a window that is full according to the headers is left alone before a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heeds {
    Refusals,
    Headers,
}

/// How often a session's account is chosen again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stay {
    Request,
    /// A session stays until its account refuses.
    Session,
}

pub struct Simple {
    rule: Rule,
    stay: Stay,
    heeds: Heeds,
    accounts: Vec<Known>,
    homes: BTreeMap<usize, usize>,
    leases: BTreeMap<u64, (usize, usize)>,
    waiting: VecDeque<(u64, usize, Option<usize>)>,
    turn: usize,
    last: u64,
}

#[derive(Clone, Debug, Default)]
struct Known {
    windows: Vec<(WindowKind, f64, Wall)>,
    out_until: u64,
}

impl Known {
    fn used(&self, now: u64) -> f64 {
        let ahead = self.windows.iter().filter(|window| window.2 > wall(now));
        ahead.map(|window| window.1).fold(0.0, f64::max)
    }

    /// Accounts of which nothing is known come first, so that they become known.
    fn week_ends(&self, now: u64) -> i64 {
        let week = self
            .windows
            .iter()
            .find(|window| window.0 == WindowKind::SevenDay && window.2 > wall(now));
        week.map_or(0, |window| window.2.0)
    }
}

impl Simple {
    pub fn new(rule: Rule, stay: Stay, heeds: Heeds, seats: &[Seat]) -> Simple {
        Simple {
            rule,
            stay,
            heeds,
            accounts: vec![Known::default(); seats.len()],
            homes: BTreeMap::new(),
            leases: BTreeMap::new(),
            waiting: VecDeque::new(),
            turn: 0,
            last: 0,
        }
    }

    fn choose(&mut self, now: u64, key: Option<usize>, refused_by: &[usize]) -> Option<usize> {
        let free = |number: &usize| {
            self.accounts[*number].out_until <= now && !refused_by.contains(number)
        };
        let home = key.and_then(|key| self.homes.get(&key)).copied();
        if let (Stay::Session, Some(home)) = (self.stay, home.filter(free)) {
            return Some(home);
        }
        let count = self.accounts.len();
        let in_turn = (1..=count).map(|step| (self.turn + step) % count).filter(free);
        let chosen = match self.rule {
            Rule::RoundRobin => in_turn.into_iter().next(),
            Rule::LeastUsed => in_turn
                .min_by(|a, b| self.accounts[*a].used(now).total_cmp(&self.accounts[*b].used(now))),
            Rule::SoonestReset => {
                in_turn.min_by_key(|number| self.accounts[*number].week_ends(now))
            }
        }?;
        self.turn = chosen;
        if let Some(key) = key {
            self.homes.insert(key, chosen);
        }
        Some(chosen)
    }

    fn lease(&mut self, account: usize, session: usize) -> Answer {
        self.last += 1;
        self.leases.insert(self.last, (account, session));
        Answer::Go { account, lease: self.last }
    }
}

impl Router for Simple {
    fn ask(&mut self, now: u64, ask: &Ask<'_>) -> Answer {
        match self.choose(now, ask.key, ask.refused_by) {
            Some(account) => self.lease(account, ask.session),
            None => {
                self.last += 1;
                self.waiting.push_back((self.last, ask.session, ask.key));
                Answer::Wait { ticket: self.last }
            }
        }
    }

    fn head(&mut self, now: u64, lease: u64, _status: u16, quota: &QuotaReport) {
        if let Some((account, _)) = self.leases.get(&lease) {
            let windows = quota.windows.iter().filter_map(|window| {
                Some((window.kind.clone(), window.utilisation?, window.reset?))
            });
            let known = &mut self.accounts[*account];
            known.windows = windows.collect();
            if self.heeds == Heeds::Headers {
                let full = known.windows.iter().filter(|window| window.1 >= 1.0);
                let ends = full.map(|window| now + wall(now).until(window.2).as_millis() as u64);
                known.out_until = ends.fold(known.out_until, u64::max);
            }
        }
    }

    fn done(&mut self, now: u64, lease: u64, end: End) {
        let Some((account, _)) = self.leases.remove(&lease) else {
            return;
        };
        let until = match end {
            End::Served => return,
            End::Quota(quota) => {
                quota.reset.map_or(now, |reset| now + wall(now).until(reset).as_millis() as u64)
            }
            End::ServerSide { retry_after } => now + retry_after.as_millis() as u64,
        };
        let known = &mut self.accounts[account];
        known.out_until = known.out_until.max(until);
    }

    fn leave(&mut self, _now: u64, ticket: u64) {
        self.waiting.retain(|(own, _, _)| *own != ticket);
    }

    fn wake(&mut self, now: u64) -> Option<(u64, Answer)> {
        let (ticket, session, key) = *self.waiting.front()?;
        let account = self.choose(now, key, &[])?;
        self.waiting.pop_front();
        Some((ticket, self.lease(account, session)))
    }

    fn next(&self, now: u64) -> Option<u64> {
        self.waiting.front()?;
        let ahead = self.accounts.iter().map(|known| known.out_until);
        ahead.filter(|until| *until > now).min()
    }
}
