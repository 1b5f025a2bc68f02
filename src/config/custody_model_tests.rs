//! A seeded model of one account's pair (SPEC T7, T8): processes, a person, an editor, full disks
//! and kills, in any order. After each step the newest pair issued by the endpoint is on disk, in
//! the rescue file or in a living process, and no token was sent twice.
//!
//! Losses that no program can prevent are marked where they happen: a token whose holder was killed
//! before the answer arrived; a pair only in memory, with every disk full, when its process was
//! killed; the newest pair after a person has overwritten it and its only holder was killed before
//! it could write it back; a pair that an import replaced while the imported one was being
//! redeemed.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::tests::{document, pair};
use super::*;
use crate::testing::chance::{Random, rounds};

/// Bugs, each of which some seed must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    /// The file is trusted whatever it contains.
    BelievesTheFile,
    /// A pair is stored without the digests of its predecessors.
    ForgetsTheSpent,
    /// A pair is stored in the entry with its name.
    StoresByName,
    /// The file is not read again under the token's lock.
    DoesNotReread,
    /// Two processes may redeem one token at the same time.
    NoTokenLock,
    /// The rescue file is written and never read.
    IgnoresTheRescueFile,
    /// An import is accepted whatever it contains.
    ImportsAnything,
    /// Pairs that are only in memory are lost at a restart.
    HandsNothingOver,
    /// The token is sent without reserved space for its successor.
    SendsWithoutAPlace,
    /// The digests in the state file are not read.
    IgnoresTheNotes,
    /// A pair is stored without those that it replaced.
    DropsThePrevious,
}

const BUGS: [Bug; 11] = [
    Bug::BelievesTheFile,
    Bug::ForgetsTheSpent,
    Bug::StoresByName,
    Bug::DoesNotReread,
    Bug::NoTokenLock,
    Bug::IgnoresTheRescueFile,
    Bug::ImportsAnything,
    Bug::HandsNothingOver,
    Bug::SendsWithoutAPlace,
    Bug::IgnoresTheNotes,
    Bug::DropsThePrevious,
];

/// A process: its pair, the name that it knows, and the token that it is redeeming.
struct Process {
    custody: Custody,
    name: String,
    /// The token, and the endpoint's answer.
    exchange: Option<(Secret, Tokens)>,
    /// It has sent a token without space for the successor.
    is_reckless: bool,
}

/// The disk, the endpoint, and the processes of one account.
struct Model {
    bug: Bug,
    chance: Random,
    disk: Map<String, Value>,
    rescue: Vec<Record>,
    config_is_full: bool,
    rescue_is_full: bool,
    processes: Vec<Process>,
    /// Copies of the file that a person may save over it, oldest first.
    copies: Vec<Map<String, Value>>,
    /// The digests in the state file: every writer of the config adds those that it has.
    state: Vec<Digest>,
    /// The source of an import.
    source: Tokens,
    issued: usize,
    /// The newest pair of the current grant; `None` once it is lost for a reason that cannot be
    /// prevented.
    newest: Option<Tokens>,
    presented: BTreeMap<String, usize>,
    /// A person has replaced the only file with the newest pair by an old copy, and it has not been
    /// written back since.
    is_overwritten: bool,
    /// The pair replaced by an import that could not know better: its own pair was being redeemed
    /// at that time.
    imported_over: Option<Tokens>,
    /// The account needs a login through no fault of ours.
    is_over: bool,
}

impl Model {
    fn new(seed: u64, bug: Bug) -> Model {
        let first = pair("0", 0);
        let mut entry = Map::new();
        entry.insert("name".to_owned(), "a".into());
        Deposit { live: first.clone(), ..Deposit::default() }.write(&mut entry);
        let disk = document(json!([entry]));
        let mut model = Model {
            bug,
            // Consecutive seeds would draw from one sequence, each shifted by one number.
            chance: Random::new(Random::new(seed).next()),
            copies: vec![disk.clone()],
            disk,
            rescue: Vec::new(),
            config_is_full: false,
            rescue_is_full: false,
            processes: Vec::new(),
            state: Vec::new(),
            source: first.clone(),
            issued: 0,
            newest: Some(first),
            presented: BTreeMap::new(),
            is_overwritten: false,
            imported_over: None,
            is_over: false,
        };
        model.start();
        model
    }

    fn issue(&mut self) -> Tokens {
        self.issued += 1;
        // Nothing may depend on the endpoint's clock.
        let end = self.chance.below(5) as i64;
        pair(&self.issued.to_string(), end)
    }

    /// What a reader of the config sees.
    fn read(&self) -> Map<String, Value> {
        let mut seen = self.disk.clone();
        if self.bug != Bug::IgnoresTheRescueFile {
            for record in &self.rescue {
                place(&mut seen, record);
            }
        }
        seen
    }

    fn entry(&self) -> Option<(String, Deposit)> {
        let seen = self.read();
        let entry = seen["accounts"].as_array()?.first()?.as_object()?;
        let mut held = Deposit::read(entry);
        if self.bug != Bug::IgnoresTheNotes {
            held.learn(&self.state, &Tokens::default());
        }
        Some((entry["name"].as_str()?.to_owned(), held))
    }

    fn write(&mut self, change: impl FnOnce(&mut Map<String, Value>)) -> bool {
        if self.config_is_full {
            return false;
        }
        let mut changed = self.read();
        change(&mut changed);
        self.disk = changed;
        if self.bug != Bug::IgnoresTheRescueFile {
            self.rescue.clear();
        }
        for entry in self.disk["accounts"].as_array().unwrap() {
            let spent = Deposit::read(entry.as_object().unwrap()).spent;
            self.state.extend(spent.digests().cloned());
        }
        self.copies.push(self.disk.clone());
        true
    }

    fn start(&mut self) {
        if let Some((name, deposit)) = self.entry()
            && self.processes.len() < 3
        {
            let custody = Custody::new(deposit);
            self.processes.push(Process { custody, name, exchange: None, is_reckless: false });
        }
    }

    fn look(&mut self, at: usize) {
        let Some((name, deposit)) = self.entry() else {
            self.processes[at].custody = Custody::default();
            return;
        };
        let process = &mut self.processes[at];
        process.name = name;
        if self.bug == Bug::BelievesTheFile {
            process.custody = Custody::new(deposit);
        } else {
            process.custody.see_file(&deposit);
        }
    }

    fn keep(&mut self, at: usize) {
        if !self.processes[at].custody.is_due() {
            return;
        }
        let process = &self.processes[at];
        let who = Identity { name: &process.name, account_uuid: None, org_uuid: None };
        let mut record = process.custody.record(&who);
        let whole = record.clone();
        if self.bug == Bug::ForgetsTheSpent {
            record.deposit.spent = Spent::default();
        }
        if self.bug == Bug::DropsThePrevious {
            record.deposit.previous = Previous::default();
        }
        let by_name = self.bug == Bug::StoresByName;
        let stored = self.write(|document| {
            if by_name {
                let entries = document["accounts"].as_array_mut().unwrap();
                let named = entries.iter_mut().find(|entry| entry["name"] == record.name);
                if let Some(Value::Object(entry)) = named {
                    record.deposit.write(entry);
                }
            } else {
                place(document, &record);
            }
        });
        let kept = if stored {
            Kept::OnDisk
        } else if !self.rescue_is_full {
            let mut rescued = record.clone();
            self.rescue.retain(|known| !rescued.supersedes(known));
            self.rescue.push(rescued);
            Kept::Rescued
        } else {
            Kept::InMemory
        };
        self.processes[at].custody.stored(&whole, kept);
    }

    fn begin_refresh(&mut self, at: usize) {
        if self.processes[at].exchange.is_some() {
            return;
        }
        if self.bug != Bug::DoesNotReread {
            if self.bug != Bug::IgnoresTheNotes {
                self.processes[at].custody.learn_noted(&self.state);
            }
            self.look(at);
            self.keep(at);
        }
        let custody = &self.processes[at].custody;
        let Some(token) = custody.live().refresh.clone().filter(|_| custody.is_spendable()) else {
            return;
        };
        // A process that redeems a token holds its lock until the successor is stored somewhere.
        let is_locked = self.processes.iter().any(|other| {
            let custody = &other.custody;
            other.exchange.as_ref().is_some_and(|(sent, _)| *sent == token)
                || custody.is_unsaid(&token)
        });
        if is_locked && self.bug != Bug::NoTokenLock {
            return;
        }
        let has_place = !(self.config_is_full && self.rescue_is_full);
        if !has_place && self.bug != Bug::SendsWithoutAPlace {
            return;
        }
        self.processes[at].is_reckless |= !has_place;
        *self.presented.entry(token.expose().to_owned()).or_default() += 1;
        let successor = self.issue();
        if self.newest.as_ref().is_some_and(|newest| newest.refresh.as_ref() == Some(&token)) {
            self.newest = Some(successor.clone());
        }
        self.processes[at].exchange = Some((token, successor));
    }

    fn end_refresh(&mut self, at: usize) {
        let Some((sent, tokens)) = self.processes[at].exchange.take() else {
            return;
        };
        self.processes[at].custody.renewed(&sent, tokens, None);
        self.keep(at);
    }

    fn stop(&mut self, at: usize) {
        self.end_refresh(at);
        self.look(at);
        self.keep(at);
        if self.processes[at].custody.is_at_risk() {
            // The next process receives it from this one.
            let Process { custody, name, .. } = &self.processes[at];
            let record = custody.record(&Identity { name, account_uuid: None, org_uuid: None });
            self.start_with(at, &record);
            return;
        }
        self.processes.remove(at);
        self.start();
    }

    fn start_with(&mut self, at: usize, record: &Record) {
        self.processes.remove(at);
        self.start();
        if self.bug != Bug::HandsNothingOver
            && let Some(process) = self.processes.last_mut()
        {
            process.custody.see_record(record);
        }
    }

    fn kill(&mut self, at: usize) {
        let killed = self.processes.remove(at);
        if let Some((sent, answer)) = killed.exchange {
            // The answer was on its way to a dead process, and the token's fate is unknown.
            self.presented.remove(sent.expose());
            self.excuse(&answer);
        }
        let was_shown = killed.custody.is_at_risk() && !killed.is_reckless;
        if was_shown {
            // Every disk was full, and the user was told: what could not be written died with it.
            self.presented
                .retain(|token, _| !killed.custody.is_unsaid(&Secret::around(token.clone())));
        }
        // The same, or a person has overwritten the only copy.
        self.is_over = (self.is_overwritten || was_shown) && !self.is_kept();
    }

    fn excuse(&mut self, lost: &Tokens) {
        if self.newest.as_ref() == Some(lost) && !self.is_kept() {
            self.newest = None;
        }
    }

    fn login(&mut self) {
        let pair = self.issue();
        let put = pair.clone();
        let written = self.write(|document| {
            for entry in document["accounts"].as_array_mut().unwrap() {
                let Value::Object(entry) = entry else { continue };
                let mut held = Deposit::read(entry);
                held.displace(put.clone(), DisplacedBy::Person);
                held.write(entry);
            }
        });
        if written && self.entry().is_some() {
            self.newest = Some(pair);
        }
    }

    fn import(&mut self) {
        let theirs = Deposit { live: self.source.clone(), ..Deposit::default() };
        let Some((_, mut held)) = self.entry() else { return };
        held.learn(&self.state, &theirs.live);
        let is_old = matches!(age_of(&theirs, &held, Found::Command), Age::Older(_) | Age::Same);
        if is_old && self.bug != Bug::ImportsAnything {
            return;
        }
        let put = theirs.live.clone();
        let written = self.write(|document| {
            let entry = document["accounts"][0].as_object_mut().unwrap();
            let mut held = Deposit::read(entry);
            held.displace(put.clone(), DisplacedBy::Import);
            held.write(entry);
        });
        // A token that is being redeemed already has a successor.
        let is_sent = self.presented.contains_key(theirs.live.refresh.as_ref().unwrap().expose());
        if written && !is_old && is_sent {
            self.imported_over = self.newest.clone();
        } else if written && !is_old {
            self.newest = Some(theirs.live);
        }
    }

    /// The pair in use serves a request, so the pairs that it replaced may be dropped.
    fn serve(&mut self, at: usize) {
        let custody = &mut self.processes[at].custody;
        if self.newest.as_ref().is_some_and(|newest| custody.own.previous.has(newest)) {
            self.newest = None;
        }
        custody.served();
    }

    fn step(&mut self) {
        let count = self.processes.len().max(1);
        let at = self.chance.below(count);
        let has_process = at < self.processes.len();
        match self.chance.below(18) {
            0..=3 if has_process => self.begin_refresh(at),
            4..=6 if has_process => self.end_refresh(at),
            7 | 8 if has_process && self.processes[at].exchange.is_none() => {
                self.look(at);
                self.keep(at);
            }
            9 if has_process => self.stop(at),
            10 if has_process => self.kill(at),
            11 => self.start(),
            12 => self.config_is_full = !self.config_is_full,
            13 => self.rescue_is_full = !self.rescue_is_full,
            14 if !self.config_is_full => self.edit(),
            15 => self.login(),
            16 => self.import(),
            17 if has_process => self.serve(at),
            _ => {}
        }
        self.is_overwritten &= !self.is_on_disk();
    }

    /// A person with an editor.
    fn edit(&mut self) {
        match self.chance.below(3) {
            // An old copy is saved over the file while a process knows better.
            0 if self.processes.iter().any(|process| {
                process.exchange.is_none() && self.newest.as_ref() == Some(process.custody.live())
            }) =>
            {
                // A pair that nobody has redeemed is an edit that a person may want.
                let is_old = |copy: &&Map<String, Value>| {
                    let old = Deposit::read(copy["accounts"][0].as_object().unwrap());
                    let token = old.live.refresh.as_ref();
                    token.is_some_and(|token| self.state.contains(&Digest::of(token)))
                        || self.processes.iter().all(|process| process.custody.own.spent.has(token))
                };
                let old: Vec<_> = self.copies.iter().filter(is_old).cloned().collect();
                if !old.is_empty() {
                    self.disk = self.chance.pick(&old).clone();
                    self.is_overwritten = true;
                }
            }
            1 => {
                let name = format!("name-{}", self.chance.below(100));
                self.disk["accounts"][0]["name"] = name.into();
            }
            _ => {
                if let Some(newest) = &self.newest {
                    self.source = newest.clone();
                }
            }
        }
    }

    fn is_kept(&self) -> bool {
        let Some(newest) = &self.newest else {
            return true;
        };
        self.is_on_disk()
            || self.processes.iter().any(|process| {
                self.has(&process.custody.own, newest)
                    || process.exchange.as_ref().is_some_and(|(_, answer)| answer.same_pair(newest))
            })
    }

    fn is_on_disk(&self) -> bool {
        let Some(newest) = &self.newest else {
            return true;
        };
        let on_disk = self.disk["accounts"].as_array().unwrap().iter();
        on_disk.filter_map(Value::as_object).any(|entry| self.has(&Deposit::read(entry), newest))
            || self.rescue.iter().any(|record| self.has(&record.deposit, newest))
    }

    /// A pair replaced by an import is never sent again, so it counts as lost unless the import was
    /// right.
    fn has(&self, deposit: &Deposit, newest: &Tokens) -> bool {
        deposit.live.same_pair(newest)
            || deposit.previous.has_to_send(newest)
            || self.imported_over.as_ref() == Some(newest) && deposit.previous.has(newest)
    }

    /// Invariants after every step.
    fn check(&self) -> Result<(), String> {
        if let Some((token, times)) = self.presented.iter().find(|(_, times)| **times > 1) {
            return Err(format!("{token} was presented {times} times"));
        }
        if !self.is_kept() {
            return Err(format!(
                "{:?} is nowhere",
                self.newest.as_ref().map(|newest| newest.expires_at)
            ));
        }
        Ok(())
    }
}

/// Steps of one seed.
const STEPS: usize = 150;
/// Seeds per planted bug; at least one of them must find it.
const SEEDS: usize = 200;

/// The seed and step at which a rule was broken.
fn run(bug: Bug, seeds: impl IntoIterator<Item = u64>) -> Option<(u64, usize, String)> {
    for seed in seeds {
        let mut model = Model::new(seed, bug);
        for step in 0..STEPS {
            model.step();
            if model.is_over {
                break;
            }
            if let Err(why) = model.check() {
                return Some((seed, step, why));
            }
        }
    }
    None
}

#[test]
fn t7_t8_no_interleaving_loses_the_newest_pair_or_presents_a_spent_one() {
    assert_eq!(run(Bug::None, rounds(SEEDS).map(|seed| seed as u64)), None);
}

#[test]
fn t7_t8_every_planted_bug_is_found() {
    for bug in BUGS {
        assert!(run(bug, 0..SEEDS as u64).is_some(), "{bug:?} was not found");
    }
}
