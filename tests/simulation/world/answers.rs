//! The answers of accounts: their true quota, and the faults of this seed.

use super::*;

/// An account's true state.
#[derive(Debug)]
pub(super) struct Truth {
    pub(super) five: (f64, Wall),
    pub(super) week: (f64, Wall),
    pub(super) opus: (f64, Wall),
}

/// Requests of this kin are odd.
pub(super) const POISONED: Kin = Kin(0);

/// How often each fault occurs with this seed, in thousandths; most are zero for most seeds.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) server_side: u64,
    pub(super) overloaded: u64,
    pub(super) server_error: u64,
    pub(super) network: u64,
    pub(super) dns: u64,
    pub(super) credential: u64,
    pub(super) login: u64,
    pub(super) forbidden: u64,
    pub(super) neutral: u64,
    pub(super) abandon: u64,
    pub(super) leave: u64,
    pub(super) headless: u64,
    pub(super) odd_reports: u64,
    pub(super) overage: u64,
    pub(super) trouble: u64,
    pub(super) steps: u64,
    pub(super) edits: u64,
    pub(super) probes: u64,
    pub(super) drains: u64,
    /// Requests of one kin are refused everywhere.
    pub(super) poison: u64,
    /// An account or the API refuses without a reason.
    pub(super) bare: u64,
    pub(super) own: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) head: Option<(u16, QuotaReport)>,
    pub(super) outcome: Outcome,
}

impl World {
    /// Decides what the account will answer.
    pub(super) fn plan(&mut self, id: u64, account: AccountId) -> Plan {
        let request = self.clients.get(&id).map(|client| client.request.clone());
        let claude = self.is_claude(account);
        let trouble = self.trouble_until > self.now.mono && claude;
        let retry_after = self.rng.chance(500).then(|| Duration::from_secs(self.rng.within(1, 40)));
        let now = self.now;
        let said = |status: u16, message: &str| evidence(now, status, message);
        if self.settling {
            return Plan { head: Some((200, QuotaReport::default())), outcome: Outcome::Success };
        }
        let f = &self.faults;
        let total = [
            f.server_side,
            f.overloaded,
            f.server_error,
            f.network,
            f.dns,
            f.credential,
            f.login,
            f.forbidden,
            f.neutral,
            f.abandon,
            f.headless,
        ];
        let mut draw = self.rng.below(1_000);
        let mut kind = usize::MAX;
        for (index, share) in total.into_iter().enumerate() {
            if draw < share {
                kind = index;
                break;
            }
            draw -= share;
        }
        let refusal = |overload, status, message: &str| Plan {
            head: Some((status, QuotaReport::default())),
            outcome: Outcome::ServerSide {
                overload,
                retry_after,
                fingerprint: Fingerprint::of(
                    RouteClass::Messages,
                    429,
                    "rate_limit_error",
                    message,
                ),
                evidence: said(status, message),
            },
        };
        if trouble {
            return refusal(Overload::Refused429, 429, "temporarily limiting requests");
        }
        let odd = self.rng.chance(self.faults.odd_reports);
        let overage = self.rng.chance(self.faults.overage);
        let Some(request) = request else {
            return Plan { head: None, outcome: Outcome::Abandoned };
        };
        let (mut quota, full) = match self.truth.get_mut(&account) {
            Some(truth) if claude => truth.report(self.now, &request),
            Some(_) | None => (QuotaReport::default(), false),
        };
        if odd {
            self.spoil(&mut quota);
        }
        if overage {
            quota.overage_in_use = Some(self.rng.chance(700));
        }
        if full {
            quota.retry_after = retry_after;
            return Plan {
                head: Some((429, quota.clone())),
                outcome: Outcome::QuotaRejected { quota, evidence: said(429, "limit exceeded") },
            };
        }
        let fine = Some((200, quota));
        let unproven = match self.rng.chance(500) {
            true => Unproven::Limit(retry_after),
            false => Unproven::Error,
        };
        let bare = |message: &str| {
            let status = if unproven == Unproven::Error { 500 } else { 429 };
            Plan {
                head: Some((status, QuotaReport::default())),
                outcome: Outcome::Unproven {
                    unproven,
                    fingerprint: Fingerprint::of(RouteClass::Messages, 500, "", message),
                    evidence: said(status, message),
                },
            }
        };
        if request.kin == POISONED && self.rng.chance(self.faults.poison) {
            return bare("poison");
        }
        if self.rng.chance(self.faults.bare) {
            return bare("bare");
        }
        if self.rng.chance(self.faults.own) {
            let evidence = said(429, "long context");
            let outcome = match self.rng.below(4) {
                0 => Outcome::OwnRequest { evidence },
                1 => Outcome::Forbidden { evidence },
                2 => Outcome::ModelMissing { evidence },
                _ => Outcome::Broken { evidence },
            };
            let status = if matches!(outcome, Outcome::Broken { .. }) { 200 } else { 429 };
            return Plan { head: Some((status, QuotaReport::default())), outcome };
        }
        match kind {
            0 => refusal(Overload::Refused429, 429, "not your usage limit"),
            1 => refusal(Overload::Overloaded529, 529, "overloaded"),
            2 => Plan {
                head: Some((503, QuotaReport::default())),
                outcome: Outcome::ServerError {
                    fingerprint: Fingerprint::of(RouteClass::Messages, 503, "", "broken"),
                    evidence: said(503, "broken"),
                },
            },
            3 => Plan {
                head: None,
                outcome: Outcome::Network { blame: Blame::Account, evidence: said(0, "reset") },
            },
            4 => Plan {
                head: None,
                outcome: Outcome::Network {
                    blame: Blame::Nobody,
                    evidence: said(0, "no such host"),
                },
            },
            5 => Plan {
                head: Some((401, QuotaReport::default())),
                outcome: Outcome::CredentialRefused { evidence: said(401, "no") },
            },
            6 => {
                Plan { head: None, outcome: Outcome::NeedsLogin { evidence: said(401, "expired") } }
            }
            7 => Plan {
                head: Some((403, QuotaReport::default())),
                outcome: Outcome::Unusable { evidence: said(403, "no") },
            },
            8 => Plan { head: Some((400, QuotaReport::default())), outcome: Outcome::Neutral },
            9 => Plan { head: fine.filter(|_| self.rng.chance(500)), outcome: Outcome::Abandoned },
            10 => Plan { head: None, outcome: Outcome::Success },
            _ => Plan { head: fine, outcome: Outcome::Success },
        }
    }

    /// Distorts a report: no reset, nonsense, a reset in the past, or a limit without an end.
    pub(super) fn spoil(&mut self, quota: &mut QuotaReport) {
        let past = self.now.wall + Duration::ZERO;
        for window in &mut quota.windows {
            match self.rng.below(5) {
                0 => window.reset = None,
                1 => window.utilisation = Some(f64::NAN),
                2 => window.reset = Some(past),
                3 => {
                    window.utilisation = Some(1.3);
                    window.reset = None;
                }
                _ => window.utilisation = None,
            }
        }
    }
}

impl Truth {
    pub(super) fn renew(&mut self, now: Now) {
        for (window, length) in
            [(&mut self.five, 18_000), (&mut self.week, 604_800), (&mut self.opus, 604_800)]
        {
            if window.1 <= now.wall {
                *window = (0.0, now.wall + Duration::from_secs(length));
            }
        }
    }

    pub(super) fn spend(&mut self, now: Now, weight: u32) {
        self.renew(now);
        self.five.0 += f64::from(weight) * 0.01;
        self.week.0 += f64::from(weight) * 0.002;
        self.opus.0 += f64::from(weight) * 0.004;
    }

    /// What the account reports about its quota, and whether it rejects this request.
    pub(super) fn report(&mut self, now: Now, request: &Request) -> (QuotaReport, bool) {
        self.renew(now);
        let opus = family("opus");
        let is_opus = request.family.as_ref() == Some(&opus);
        let windows = [
            (WindowKind::FiveHour, self.five),
            (WindowKind::SevenDay, self.week),
            (WindowKind::SevenDayFamily(opus), self.opus),
        ];
        let full = windows.iter().find(|(kind, (used, _))| {
            *used >= 1.0 && (is_opus || !matches!(kind, WindowKind::SevenDayFamily(_)))
        });
        let quota = QuotaReport {
            verdict: Some(if full.is_some() { Says::Rejected } else { Says::Allowed }),
            claim: full.map(|(kind, _)| kind.clone()),
            reset: full.map(|(_, (_, reset))| *reset),
            windows: windows
                .iter()
                .map(|(kind, (used, reset))| reading(kind.clone(), *used, *reset))
                .collect(),
            ..QuotaReport::default()
        };
        (quota, full.is_some())
    }
}

impl Faults {
    /// Most kinds of faults are off for most seeds, so that rare ones also occur alone.
    pub(super) fn new(rng: &mut Rng) -> Faults {
        let mut share = |most: u64| {
            if rng.chance(400) { rng.within(1, most) } else { 0 }
        };
        Faults {
            server_side: share(200),
            overloaded: share(150),
            server_error: share(200),
            network: share(150),
            dns: share(80),
            credential: share(30),
            login: share(30),
            forbidden: share(40),
            neutral: share(150),
            abandon: share(150),
            leave: share(500),
            headless: share(100),
            odd_reports: share(300),
            overage: share(200),
            trouble: share(900),
            steps: share(900),
            edits: share(1_000),
            probes: share(1_000),
            drains: share(300),
            poison: share(1_000),
            bare: share(150),
            own: share(100),
        }
    }
}

pub(super) fn policy(rng: &mut Rng) -> Policy {
    let secs = Duration::from_secs;
    let small = rng.chance(600);
    Policy {
        max_active_per_account: u32::try_from(if small { rng.within(1, 4) } else { 50 })
            .unwrap_or(50),
        max_active_global: u32::try_from(if small { rng.within(2, 10) } else { 150 })
            .unwrap_or(150),
        cooldown: secs(rng.within(1, 30)),
        max_cooldown: secs(rng.within(30, 900)),
        network_cooldown: secs(rng.within(1, 5)),
        max_attempts: u32::try_from(rng.below(4)).unwrap_or(0),
        overage: if rng.chance(300) { Overage::Never } else { Overage::Last },
        max_wait: secs(*rng.pick(&[60, 3_600, 86_400]).unwrap_or(&3_600)),
        auto_max_wait: rng.chance(200).then(|| secs(40)),
        capacity_max_wait: secs(*rng.pick(&[5, 60, 900]).unwrap_or(&900)),
        weekly_max_wait: secs(*rng.pick(&[0, 0, 86_400]).unwrap_or(&0)),
        queue_enabled: !rng.chance(50),
        max_queued: usize::try_from(*rng.pick(&[0, 3, 256]).unwrap_or(&256)).unwrap_or(256),
        max_queued_bytes: *rng.pick(&[4_000_000, 1 << 30]).unwrap_or(&(1 << 30)),
        max_queued_body_bytes: *rng.pick(&[1_000_000, 1 << 28]).unwrap_or(&(1 << 28)),
        session_idle: secs(*rng.pick(&[30, 3_600]).unwrap_or(&3_600)),
        poll: Duration::from_millis(*rng.pick(&[5_000, 60_000, 3_600_000]).unwrap_or(&60_000)),
        ..Policy::default()
    }
}

pub(super) fn reading(kind: WindowKind, used: f64, reset: Wall) -> WindowReading {
    WindowReading {
        kind,
        utilisation: Some(used),
        limit: None,
        remaining: None,
        reset: Some(reset),
        verdict: None,
    }
}

pub(super) fn family(name: &str) -> Family {
    Family(Arc::from(name))
}

pub(super) fn evidence(now: Now, status: u16, message: &str) -> Evidence {
    Evidence {
        status: (status != 0).then_some(status),
        request_id: None,
        source: Arc::from("simulated"),
        at: now.wall,
        message: Arc::from(message),
    }
}
