//! The simulator's own model of blocks, limits and places: a second, simpler implementation to
//! check the scheduler against.

use std::collections::BTreeMap;
use std::time::Duration;

use maxpool::scheduler::quota::{Family, QuotaReport, Verdict, WindowKind};
use maxpool::scheduler::time::{Mono, Now, Wall};
use maxpool::scheduler::{AccountSpec, Outcome, Overload, Policy, Request};

/// What is known about one account.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) spec: AccountSpec,
    pub(crate) leaving: bool,
    pub(crate) in_flight: u32,
    pub(crate) weight: u64,
    pub(crate) ended: u64,
    /// When a request was last granted here, or an answer's head last came from here.
    pub(crate) moved: Mono,
    /// When an answer last rejected a request, by what was used up.
    rejected: BTreeMap<Why, Mono>,
    /// Whether the last `unified-status` allows requests.
    pub(crate) allowed: bool,
    /// Whether the last answer said that paid overage is in use.
    paid: bool,
    blocks: BTreeMap<Why, (Option<Mono>, Option<Wall>)>,
    windows: BTreeMap<WindowKind, (f64, Option<Wall>, Mono)>,
}

/// The simulator's reasons why an account may not be used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Why {
    Quota(Option<WindowKind>, Option<Family>),
    ServerSide(Option<Family>),
    Overloaded(Option<Family>),
    Network,
    Forbidden,
    Credential,
}

impl Known {
    pub(crate) fn new(spec: AccountSpec) -> Known {
        Known {
            spec,
            leaving: false,
            in_flight: 0,
            weight: 0,
            ended: 0,
            moved: Mono(0),
            rejected: BTreeMap::new(),
            allowed: false,
            paid: false,
            blocks: BTreeMap::new(),
            windows: BTreeMap::new(),
        }
    }

    /// Forgets what has ended, as the scheduler does on every call.
    pub(crate) fn expire(&mut self, now: Now) {
        let ahead = |(mono, wall): &(Option<Mono>, Option<Wall>)| {
            mono.is_some_and(|at| at > now.mono) || wall.is_some_and(|at| at > now.wall)
        };
        self.blocks.retain(|_, end| ahead(end));
        self.windows.retain(|_, (_, reset, _)| reset.is_none_or(|reset| reset > now.wall));
    }

    /// Enabled again: everything but a missing credential is lifted (P7).
    pub(crate) fn retry(&mut self) {
        self.blocks.retain(|why, _| *why == Why::Credential);
        self.windows.retain(|_, (used, ..)| *used < 0.98);
        self.paid = false;
    }

    pub(crate) fn lift_credentials(&mut self) {
        self.blocks.retain(|why, _| !matches!(why, Why::Forbidden | Why::Credential));
    }

    pub(crate) fn restore_learned(&mut self, kind: WindowKind, used: f64, reset: Wall, now: Now) {
        self.windows.entry(kind).or_insert((used, Some(reset), now.mono));
    }

    /// The head of an answer.
    pub(crate) fn answered(
        &mut self,
        now: Now,
        status: u16,
        report: &QuotaReport,
        family: Option<&Family>,
    ) {
        self.moved = now.mono;
        if let Some(verdict) = report.verdict {
            self.allowed = verdict != Verdict::Rejected;
        }
        self.paid = status != 429 && report.overage_in_use == Some(true);
        if status == 200 {
            self.served(now);
            if self.paid {
                let stays = |why: &Why| match why {
                    Why::Quota(kind, _) => matches!(kind, Some(WindowKind::SevenDayFamily(_))),
                    _ => true,
                };
                self.blocks.retain(|why, _| stays(why));
            }
        }
        self.learn(now, report);
        if report.verdict == Some(Verdict::Rejected) && report.overage_in_use != Some(true) {
            self.reject(now, report, family);
        }
    }

    pub(crate) fn learn(&mut self, now: Now, report: &QuotaReport) {
        for reading in &report.windows {
            let claimed = report.reset.filter(|_| report.claim.as_ref() == Some(&reading.kind));
            let reset = reading.reset.or(claimed);
            if reset.is_some_and(|reset| reset <= now.wall) {
                self.windows.remove(&reading.kind);
                continue;
            }
            let known = self.windows.get(&reading.kind).copied();
            let used = reading
                .utilisation
                .filter(|used| used.is_finite() && *used >= 0.0)
                .or(known.map(|known| known.0));
            if let Some(used) = used {
                let reset = reset.or(known.and_then(|known| known.1));
                self.windows.insert(reading.kind.clone(), (used, reset, now.mono));
            }
        }
    }

    /// An answer succeeded: a limit without a known end that is older than a minute may have been
    /// probed and cleared (S3).
    pub(crate) fn served(&mut self, now: Now) {
        let minute = Duration::from_secs(60);
        self.windows
            .retain(|_, (_, reset, learned)| reset.is_some() || *learned + minute > now.mono);
    }

    fn reject(&mut self, now: Now, report: &QuotaReport, family: Option<&Family>) {
        let retry = report.retry_after.map(|wait| now.mono + wait);
        let wall = report.reset.filter(|reset| *reset > now.wall);
        let known = report
            .claim
            .as_ref()
            .and_then(|claim| self.windows.get(claim))
            .and_then(|known| known.1);
        let wall = wall.or(known);
        let mono = retry.or_else(|| wall.is_none().then(|| now.mono + Duration::from_secs(60)));
        let whose = match &report.claim {
            Some(WindowKind::SevenDayFamily(named)) => family.or(Some(named)).cloned(),
            _ => None,
        };
        let why = Why::Quota(report.claim.clone(), whose);
        self.rejected.insert(why.clone(), now.mono);
        self.put(why, mono, wall);
    }

    fn put(&mut self, why: Why, mono: Option<Mono>, wall: Option<Wall>) {
        let end = self.blocks.entry(why).or_insert((None, None));
        *end = (end.0.max(mono), wall.or(end.1));
    }

    /// P7 as the simulator reads it: the minimum that an outcome must block.
    pub(crate) fn ended(
        &mut self,
        now: Now,
        policy: &Policy,
        outcome: &Outcome,
        family: Option<&Family>,
    ) {
        let after = |wait: Duration| Some(now.mono + wait);
        let most = Duration::from_secs(30);
        match outcome {
            Outcome::Success => self.served(now),
            // A refusal without proof must not block an account; another oracle checks proofs.
            Outcome::Neutral
            | Outcome::Abandoned
            | Outcome::Broken { .. }
            | Outcome::OwnRequest { .. }
            | Outcome::Unproven { .. }
            | Outcome::ServerError { .. }
            | Outcome::ModelMissing { .. }
            | Outcome::Forbidden { .. } => {}
            Outcome::QuotaRejected { quota, .. } => self.reject(now, quota, family),
            Outcome::ServerSide { overload: Overload::Refused429, retry_after, .. } => {
                self.put(
                    Why::ServerSide(family.cloned()),
                    after(retry_after.unwrap_or(Duration::from_secs(5)).min(most)),
                    None,
                );
            }
            Outcome::ServerSide { overload: Overload::Overloaded529, retry_after, .. } => {
                self.put(
                    Why::Overloaded(family.cloned()),
                    after(retry_after.unwrap_or(most).min(most)),
                    None,
                );
            }
            Outcome::Network { blame: maxpool::scheduler::Blame::Account, .. } => {
                self.put(Why::Network, after(policy.network_cooldown), None);
            }
            Outcome::Network { .. } => {}
            // Refusals of requests that were in flight when a rest began do not prolong it; the
            // rules test that.
            Outcome::CredentialRefused { .. } => {}
            Outcome::NeedsLogin { .. } => self.put(Why::Credential, Some(Mono::MAX), None),
            Outcome::Unusable { .. } => {
                self.put(Why::Forbidden, after(Duration::from_secs(1_800)), None)
            }
        }
    }

    /// When the obstacles that keep a request of this family out were last reported.
    pub(crate) fn said_at(&self, policy: &Policy, family: Option<&Family>) -> Mono {
        let concerns = |own: &Family| family.is_none_or(|family| family == own);
        let holds = |why: &Why| match why {
            Why::Quota(_, Some(own)) => concerns(own),
            _ => true,
        };
        let held = self.blocks.keys().filter(|why| holds(why));
        let rejected = held.filter_map(|why| self.rejected.get(why).copied());
        let is_full = |kind: &WindowKind, used: f64| match kind {
            WindowKind::SevenDayFamily(own) => concerns(own) && used >= policy.weekly_exhausted,
            _ => used >= policy.weekly_exhausted,
        };
        let full = self.windows.iter().filter(|(kind, (used, ..))| is_full(kind, *used));
        rejected.chain(full.map(|(_, (.., learned))| *learned)).max().unwrap_or_default()
    }

    /// A reason why this request must not go here, if the simulator knows one.
    pub(crate) fn forbids(
        &self,
        now: Now,
        policy: &Policy,
        request: &Request,
        thinking: bool,
    ) -> Option<String> {
        let pinned = request.pinned.is_some();
        if self.leaving || !self.spec.enabled {
            return Some("disabled or leaving".into());
        }
        if !pinned && !self.spec.profiles.contains(&request.profile) {
            return Some("not in its profile".into());
        }
        if thinking && !self.spec.kind.is_claude() {
            return Some("signed thinking at a provider".into());
        }
        let concerns = |family: &Family| request.family.as_ref().is_none_or(|own| own == family);
        for why in self.blocks.keys() {
            match why {
                Why::Quota(_, Some(family))
                | Why::ServerSide(Some(family))
                | Why::Overloaded(Some(family))
                    if !concerns(family) => {}
                _ => return Some(format!("blocked: {why:?} {:?}", self.blocks.get(why))),
            }
        }
        for (kind, (used, reset, learned)) in &self.windows {
            let week = if self.allowed { 1.0 } else { policy.weekly_exhausted };
            let limit = self.spec.limit;
            let (threshold, own) = match kind {
                WindowKind::FiveHour => (1.0, limit.five_hour),
                WindowKind::Tokens | WindowKind::Requests | WindowKind::Generic => (1.0, None),
                WindowKind::SevenDay => (week, limit.week),
                WindowKind::SevenDayFamily(family) if request.family.as_ref() == Some(family) => {
                    (week, limit.week)
                }
                WindowKind::SevenDayFamily(_) => continue,
            };
            let known = reset.is_some() || *learned + Duration::from_secs(60) > now.mono;
            let full = *used >= threshold && !self.paid;
            if (full || own.is_some_and(|own| *used >= own)) && known {
                return Some(format!("{kind:?} is at {used}"));
            }
        }
        None
    }
}

/// The places in the queue, as tracked by the simulator.
#[derive(Debug, Default)]
pub(crate) struct Places {
    last: u64,
    kept: Vec<(u128, u64, Mono)>,
}

impl Places {
    /// The place of a request that joins now.
    pub(crate) fn join(&mut self, now: Mono, resume: Option<u128>) -> u64 {
        self.kept.retain(|(_, _, until)| *until > now);
        if let Some(index) = resume.and_then(|key| self.kept.iter().position(|kept| kept.0 == key))
        {
            return self.kept.remove(index).1;
        }
        self.last += 1;
        self.last
    }

    /// Keeps a request's place for a minute.
    pub(crate) fn keep(&mut self, now: Mono, resume: Option<u128>, place: u64) {
        if let Some(key) = resume {
            self.kept.push((key, place, now + Duration::from_secs(60)));
        }
    }
}
