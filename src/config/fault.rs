//! Fault injection for tests: every step of a write calls [`step`] first.
//!
//! Outside of tests [`step`] does nothing.

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

/// Whether this step may be executed.
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

    /// The fault for the steps below one directory.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Fault {
        /// From this step on the process is dead: nothing is executed any more.
        Dead(usize),
        /// The disk is full at this step.
        Full(usize),
        /// The disk is full at every write and every sync.
        AlwaysFull,
        /// Another program replaces the first file that is opened to be locked.
        Replaced,
        /// Every step of this kind fails with this error.
        Each(Step, rustix::io::Errno),
    }

    /// A fault that is in force for a directory until this is dropped.
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
