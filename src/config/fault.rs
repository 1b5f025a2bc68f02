//! Where tests stop the program: every step of a write asks here first.
//!
//! Outside of tests [`step`] is nothing at all.

use std::io;
use std::path::Path;

/// One operation on a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Open,
    Lock,
    Write,
    Sync,
    Rename,
    SyncDirectory,
    Remove,
}

/// May this step be done?
#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "under test it can fail")]
pub(crate) fn step(_step: Step, _path: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
pub(crate) use under_test::{Fault, Faults, step};

#[cfg(test)]
mod under_test {
    use std::path::PathBuf;
    use std::sync::{Mutex, PoisonError};

    use super::{Path, Step, io};

    /// What happens to the steps below one directory.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Fault {
        /// From the step of this number on the process is dead: nothing is done any more.
        Dead(usize),
        /// The step of this number finds the disk full.
        Full(usize),
        /// Every write and every sync finds the disk full.
        AlwaysFull,
        /// Another program puts a file of its own in the place of the first one that is open to be
        /// locked.
        Replaced,
        /// Every step of this kind fails with this error.
        Each(Step, rustix::io::Errno),
    }

    /// Faults in force for a directory, until dropped.
    pub(crate) struct Faults(PathBuf);

    struct Plan {
        directory: PathBuf,
        fault: Fault,
        steps: Vec<Step>,
    }

    static PLANS: Mutex<Vec<Plan>> = Mutex::new(Vec::new());

    fn plans() -> std::sync::MutexGuard<'static, Vec<Plan>> {
        PLANS.lock().unwrap_or_else(PoisonError::into_inner)
    }

    impl Faults {
        pub(crate) fn inject(directory: &Path, fault: Fault) -> Faults {
            let directory = directory.to_owned();
            plans().push(Plan { directory: directory.clone(), fault, steps: Vec::new() });
            Faults(directory)
        }

        /// The steps so far.
        pub(crate) fn steps(&self) -> Vec<Step> {
            let plans = plans();
            let own = plans.iter().find(|plan| plan.directory == self.0);
            own.map(|plan| plan.steps.clone()).unwrap_or_default()
        }
    }

    impl Drop for Faults {
        fn drop(&mut self) {
            plans().retain(|plan| plan.directory != self.0);
        }
    }

    pub(crate) fn step(step: Step, path: &Path) -> io::Result<()> {
        let mut plans = plans();
        let Some(plan) = plans.iter_mut().find(|plan| path.starts_with(&plan.directory)) else {
            return Ok(());
        };
        plan.steps.push(step);
        let number = plan.steps.len() - 1;
        let is_first = !plan.steps[..number].contains(&step);
        let full = || Err(rustix::io::Errno::NOSPC.into());
        match plan.fault {
            Fault::Dead(from) if number >= from => Err(io::Error::other("the process is dead")),
            Fault::Full(at) if number == at => full(),
            Fault::AlwaysFull if matches!(step, Step::Write | Step::Sync) => full(),
            Fault::Each(kind, error) if kind == step => Err(error.into()),
            Fault::Replaced if is_first && step == Step::Lock => {
                let new = path.with_extension("new");
                std::fs::write(&new, "")?;
                std::fs::rename(&new, path)
            }
            Fault::Dead(_)
            | Fault::Full(_)
            | Fault::AlwaysFull
            | Fault::Replaced
            | Fault::Each(..) => Ok(()),
        }
    }
}
