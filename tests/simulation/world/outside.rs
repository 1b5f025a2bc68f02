//! Events from outside: clocks are set, the configuration changes, quota is probed, the process
//! drains.

use super::*;

impl World {
    /// One event: a clock is set, the configuration changes, the probe reads quota, or the API is
    /// in trouble.
    pub(super) fn odd(&mut self) -> Checked {
        let f = &self.faults;
        let shares = [f.trouble, f.steps, f.edits, f.probes, f.drains];
        let kind = self.rng.below(5);
        let share = shares[usize::try_from(kind).unwrap_or(0)];
        if !self.rng.chance(share) {
            return Ok(());
        }
        match kind {
            0 => {
                let lasts = self.rng.within(1_000, 90_000);
                self.trouble_until = self.now.mono + Duration::from_millis(lasts);
                Ok(())
            }
            1 => self.step_clock(),
            2 => self.edit(),
            3 => self.probe_quota(),
            _ => self.drain_or_resume(),
        }
    }

    pub(super) fn step_clock(&mut self) -> Checked {
        let before = self.subject.snapshot(self.now);
        let size = i64::try_from(self.rng.within(50, 7_200_000)).unwrap_or(0);
        let step = if self.rng.chance(500) { size } else { -size };
        self.now.wall = Wall(self.now.wall.0 + step);
        self.expire();
        if self.rng.chance(500) {
            self.subject.real().clock_stepped(self.now);
        }
        let after = self.subject.snapshot(self.now);
        self.note(&[7, step.unsigned_abs()]);
        for (old, new) in before.accounts.iter().zip(&after.accounts) {
            for block in &old.blocks {
                // An account may be under suspicion for several refusals of one kind.
                let stays = |other: &maxpool::scheduler::BlockSnapshot| {
                    other.reason == block.reason
                        && other.scope == block.scope
                        && other.remaining == block.remaining
                };
                let timed = !matches!(block.reason, BlockReason::Quota(_));
                if timed && !new.blocks.iter().any(stays) {
                    return fail(
                        "a clock step moves resets only",
                        format!("{block:?} became one of {:?} after {step} ms", new.blocks),
                    );
                }
            }
        }
        Ok(())
    }

    pub(super) fn edit(&mut self) -> Checked {
        let id = self.any_account();
        self.note(&[8, id.map_or(0, |id| u64::from(id.0))]);
        match (self.rng.below(7), id) {
            (0, _) => self.add_account(),
            (1, Some(id)) if self.accounts.len() > 1 => {
                self.subject.real().remove_account(self.now, id);
                let gone = self.accounts.get_mut(&id).is_none_or(|known| {
                    known.leaving = true;
                    known.in_flight == 0
                });
                if gone {
                    self.accounts.remove(&id);
                }
            }
            (2 | 3, Some(id)) => {
                let priority = i64::try_from(self.rng.below(3)).unwrap_or(0);
                let toggle = self.rng.chance(500);
                if let Some(known) = self.accounts.get_mut(&id) {
                    known.spec.priority = priority;
                    known.spec.enabled ^= toggle;
                    if toggle && known.spec.enabled {
                        known.retry();
                        self.met.retain(|key, _| key.0 != id);
                    }
                    let spec = known.spec.clone();
                    self.subject.update_account(self.now, id, spec);
                }
            }
            (4, Some(id)) => {
                let routing =
                    if self.rng.chance(600) { Routing::Preferred(id) } else { Routing::Automatic };
                let refused = self.subject.real().set_routing(self.now, routing).is_err();
                self.note(&[u64::from(refused)]);
            }
            (5, Some(id)) => {
                self.subject.real().clear_credential_blocks(self.now, id);
                if let Some(known) = self.accounts.get_mut(&id) {
                    known.lift_credentials();
                }
            }
            _ => {
                self.policy.max_active_per_account =
                    u32::try_from(self.rng.within(1, 5)).unwrap_or(1);
                self.policy.overage =
                    if self.rng.chance(500) { Overage::Never } else { Overage::Last };
                let policy = self.policy.clone();
                self.subject.set_policy(self.now, &policy);
            }
        }
        Ok(())
    }

    pub(super) fn probe_quota(&mut self) -> Checked {
        let Some(id) = self.any_account() else {
            return Ok(());
        };
        let Some(truth) = self.truth.get_mut(&id) else {
            return Ok(());
        };
        let request = Request::new(0, self.now.mono);
        let (mut quota, _) = truth.report(self.now, &request);
        quota.verdict = None;
        self.subject.real().learn(self.now, id, &quota);
        if let Some(known) = self.accounts.get_mut(&id) {
            known.learn(self.now, &quota);
        }
        Ok(())
    }

    pub(super) fn drain_or_resume(&mut self) -> Checked {
        self.draining ^= true;
        match self.draining {
            true => self.subject.real().drain(self.now),
            false => self.subject.real().resume(self.now),
        }
        if self.draining {
            let after = self.rng.within(1, 5_000);
            self.schedule(self.now.mono + Duration::from_millis(after), Event::Odd);
        }
        Ok(())
    }

    /// Explanations change nothing and are consistent.
    pub(super) fn look(&mut self) -> Checked {
        self.last_client += 1;
        let request = self.draw_request(self.last_client);
        let explained = self.subject.real().explain(self.now, &request);
        for one in &explained.passed_over {
            self.see(passed_over_name(&one.reason));
            if let PassedOver::Blocked(reason) = &one.reason {
                self.see(&format!("BlockReason::{}", variant(&format!("{reason:?}"))));
            }
        }
        self.see(&format!("ExplainedVerdict::{}", variant(&format!("{:?}", explained.verdict))));
        let both = explained.candidates.len() + explained.passed_over.len();
        if both != self.accounts.len() {
            return fail("snapshot sums agree", format!("{explained:?}"));
        }
        if let ExplainedVerdict::Chosen(id, _) = explained.verdict
            && !explained.candidates.iter().any(|one| one.account == id)
        {
            return fail("snapshot sums agree", format!("chosen but no candidate: {explained:?}"));
        }
        Ok(())
    }

    /// Most owners set no limit.
    fn limit(&mut self) -> AccountLimit {
        let mut share = || self.rng.chance(100).then(|| self.rng.below(1_000) as f64 / 1_000.0);
        AccountLimit { five_hour: share(), week: share() }
    }

    pub(super) fn add_account(&mut self) {
        let number = self.truth.len();
        let kind = *self
            .rng
            .pick(&[Kind::Oauth, Kind::Oauth, Kind::Oauth, Kind::ApiKey, Kind::Provider])
            .unwrap_or(&Kind::Oauth);
        let profiles: &[&str] = match kind {
            Kind::Provider => &["all"],
            Kind::Oauth | Kind::ApiKey if self.rng.chance(250) => &["claude", "all", "work"],
            Kind::Oauth | Kind::ApiKey => &["claude", "all"],
        };
        let access = match kind {
            Kind::Provider if self.rng.chance(300) => Access::Bringers,
            Kind::Provider | Kind::Oauth | Kind::ApiKey => Access::Everyone,
        };
        let spec = AccountSpec {
            name: Arc::from(format!("account-{number}")),
            kind,
            enabled: true,
            priority: if kind == Kind::Provider { 10 } else { 0 },
            profiles: profiles.iter().map(|profile| Arc::from(*profile)).collect(),
            access,
            limit: self.limit(),
        };
        let id = self.subject.real().add_account(self.now, spec.clone());
        let draw = |rng: &mut Rng| rng.below(1_100) as f64 / 1_000.0;
        let truth = Truth {
            five: (
                draw(&mut self.rng),
                self.now.wall + Duration::from_millis(self.rng.within(1_000, 18_000_000)),
            ),
            week: (
                draw(&mut self.rng) * 0.9,
                self.now.wall + Duration::from_millis(self.rng.within(1_000, 604_800_000)),
            ),
            opus: (
                draw(&mut self.rng),
                self.now.wall + Duration::from_millis(self.rng.within(1_000, 604_800_000)),
            ),
        };
        let mut known = Known::new(spec);
        if self.rng.chance(200) {
            let window = maxpool::scheduler::WindowSnapshot {
                kind: WindowKind::FiveHour,
                family: None,
                used: Some(truth.five.0.min(1.0)),
                raw: Some(truth.five.0),
                limit: None,
                remaining: None,
                reset: Some(truth.five.1),
                learned_at: self.now.wall,
                source: maxpool::scheduler::Source::Answer,
            };
            let learned =
                maxpool::scheduler::Learned { windows: vec![window], ..Default::default() };
            self.subject.real().restore(self.now, id, &learned);
            known.restore_learned(WindowKind::FiveHour, truth.five.0, truth.five.1, self.now);
        }
        self.accounts.insert(id, known);
        self.truth.insert(id, truth);
    }

    /// From here on, nothing fails any more.
    pub(super) fn stop_faults(&mut self) -> Checked {
        self.settling = true;
        self.faults = Faults::default();
        self.trouble_until = Mono(0);
        if self.draining {
            self.drain_or_resume()?;
            self.events.clear();
        }
        let ids: Vec<AccountId> = self.accounts.keys().copied().collect();
        for id in ids {
            self.subject.real().clear_credential_blocks(self.now, id);
            if let Some(known) = self.accounts.get_mut(&id).filter(|known| !known.leaving) {
                known.lift_credentials();
                if !known.spec.enabled {
                    known.retry();
                    self.met.retain(|key, _| key.0 != id);
                }
                known.spec.enabled = true;
                let spec = known.spec.clone();
                self.subject.update_account(self.now, id, spec);
            }
        }
        self.settle_step()?;
        for _ in 0..5 {
            self.last_client += 1;
            let id = self.last_client;
            self.clients.insert(id, Client::new(Request::new(id, self.now.mono)));
            self.ask(id)?;
            self.settle_step()?;
        }
        Ok(())
    }
}
