//! The fate of a refresh token, noted in its lock file (SPEC T2, T7).
//!
//! A token that was sent without an answer may be used up. The next holder of its lock, after a
//! restart or in another process, must know that, or it would send the token again at once. So the
//! note is written before the token is sent, and removed as soon as an answer tells its fate. The
//! state file would be too late if the process is killed.

use crate::config::atomic::SiblingLock;
use crate::scheduler::time::Wall;

/// The note in a lock file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was sent, and there was no answer.
    Sent(Sends),
    /// It is used up, and no other file records that yet.
    Spent,
}

/// How often a token was sent, and when last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sends {
    pub(super) times: u32,
    pub(super) at: Wall,
}

impl Fate {
    /// `None` if there is no note.
    pub(super) fn of(lock: &SiblingLock) -> Option<Fate> {
        Fate::read(&lock.noted())
    }

    fn read(text: &str) -> Option<Fate> {
        let mut words = text.split_whitespace();
        match (words.next()?, words.next(), words.next(), words.next()) {
            (SPENT, None, None, None) => Some(Fate::Spent),
            (SENT, Some(times), Some(at), None) => {
                let (times, at) = (times.parse().ok()?, Wall(at.parse().ok()?));
                Some(Fate::Sent(Sends { times, at }))
            }
            _ => None,
        }
    }

    fn text(self) -> String {
        match self {
            Fate::Sent(Sends { times, at }) => format!("{SENT} {times} {}\n", at.0),
            Fate::Spent => format!("{SPENT}\n"),
        }
    }

    /// How often it was sent.
    pub(super) fn times(self) -> u32 {
        match self {
            Fate::Sent(sends) => sends.times,
            Fate::Spent => u32::MAX,
        }
    }
}

/// Writes or removes the note. If that is impossible, as on a full disk, this process still
/// remembers the fate as long as it runs.
pub(super) fn note(lock: Option<&SiblingLock>, fate: Option<Fate>) {
    if let Some(lock) = lock {
        let _ = lock.note(&fate.map_or_else(String::new, Fate::text));
    }
}

const SENT: &str = "sent";
const SPENT: &str = "spent";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t2_what_is_noted_is_read_again_and_nothing_else_is() {
        for fate in [Fate::Spent, Fate::Sent(Sends { times: 2, at: Wall(1_800_000_000_000) })] {
            assert_eq!(Fate::read(&fate.text()), Some(fate));
        }
        for text in ["", "sent", "sent 1", "sent x 1", "sent 1 2 3", "spent 1", "sent -1 2"] {
            assert_eq!(Fate::read(text), None, "{text:?}");
        }
    }
}
