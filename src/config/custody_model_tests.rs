//! A seeded model of one account's pair (SPEC T7, T8): processes, a person, an editor, full disks
//! and kills, in any order. After each step the newest pair that the endpoint has issued is on
//! disk, in the rescue file or in a process that is alive, and no token was presented twice.
//!
//! What no program can help is stated where it happens, and nothing more: a token whose holder was
//! killed before the answer arrived; what was in memory only, with every disk full, when the
//! process was killed; the newest pair that a person has overwritten and whose only holder was
//! killed before it could write it back; a pair that an import displaced while the imported one was
//! being redeemed.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::tests::{document, pair};
use super::*;
use crate::testing::chance::{Random, rounds};

/// Ways to break the rules, each of which some seed must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    /// The file is believed whatever it holds.
    BelievesTheFile,
    /// A pair is stored without the digests of its predecessors.
    ForgetsTheSpent,
    /// A pair is stored into the entry of its name.
    StoresByName,
    /// The file is not read again under the token's lock.
    DoesNotReread,
    /// Two processes may redeem one token at once.
    NoTokenLock,
    /// The rescue file is written and never read.
    IgnoresTheRescueFile,
    /// An import is taken whatever it holds.
    ImportsAnything,
    /// What is in memory only is forgotten at a restart.
    HandsNothingOver,
    /// The token is sent though its successor has no place.
    SendsWithoutAPlace,
    /// What is known beside the config of tokens that are used up is not asked for.
    IgnoresTheNotes,
    /// A pair is stored without those that it displaced.
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

/// A process: what it holds, the name it knows, and the token that it is redeeming.
struct Process {
    custody: Custody,
    name: String,
    /// The token, and what the endpoint has answered.
    exchange: Option<(Secret, Tokens)>,
    /// It has sent a token whose successor had no place.
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
    /// The digests in the state file: whoever writes the config adds those that it holds.
    state: Vec<Digest>,
    /// What the source of an import holds.
    source: Tokens,
    issued: usize,
    /// The newest pair of the grant in use; `None` once it is lost for a reason that nobody can
    /// help.
    newest: Option<Tokens>,
    presented: BTreeMap<String, usize>,
    /// A person has put an old copy in the place of the only file with the newest pair, and nobody
    /// has written it back since.
    is_overwritten: bool,
    /// The pair that an import has displaced which could not know better: the one that it brought
    /// was being redeemed at that time.
    imported_over: Option<Tokens>,
    /// The account needs a login, for no fault of ours.
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
            // Seeds that follow each other draw from one sequence, each a number later.
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
        // The clock of the endpoint is of no use to anybody.
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
        // Who redeems a token holds its lock until the successor is stored somewhere.
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
            // The next process gets it from this one.
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
            // The answer was on its way to a dead process, and nobody knows what became of the
            // token.
            self.presented.remove(sent.expose());
            self.excuse(&answer);
        }
        let was_shown = killed.custody.is_at_risk() && !killed.is_reckless;
        if was_shown {
            // Every disk was full, and that was shown: what nobody could write down died with it.
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
        // One that is being redeemed has a successor already.
        let is_sent = self.presented.contains_key(theirs.live.refresh.as_ref().unwrap().expose());
        if written && !is_old && is_sent {
            self.imported_over = self.newest.clone();
        } else if written && !is_old {
            self.newest = Some(theirs.live);
        }
    }

    /// The pair in use serves a request, so what it displaced may go.
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

    /// A person and an editor.
    fn edit(&mut self) {
        match self.chance.below(3) {
            // An old copy is saved over the file while somebody is there who knows better.
            0 if self.processes.iter().any(|process| {
                process.exchange.is_none() && self.newest.as_ref() == Some(process.custody.live())
            }) =>
            {
                // What nobody has redeemed is an edit that a person may want.
                let is_old = |copy: &&Map<String, Value>| {
                    let old = Deposit::read(copy["accounts"][0].as_object().unwrap());
                    let token = old.live.refresh.as_ref();
                    token.is_some_and(|token| self.state.contains(&Digest::of(token)))
                        || self.processes.iter().all(|process| process.custody.spent().has(token))
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

    /// What an import displaces is sent no more, so it counts as lost unless the import was right.
    fn has(&self, deposit: &Deposit, newest: &Tokens) -> bool {
        deposit.live.same_pair(newest)
            || deposit.previous.has_to_send(newest)
            || self.imported_over.as_ref() == Some(newest) && deposit.previous.has(newest)
    }

    /// What must hold after every step.
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
/// Each planted bug is found by one of a hundred seeds or more.
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
