//! Keeps the memory of the process, and what it says when it panics, from telling a secret (SPEC
//! D4).

use std::io::Write as _;

use crate::config::masking;

/// Called first of all.
pub(crate) fn begin() {
    not_dumpable();
    std::panic::set_hook(Box::new(|panic| {
        let text = format!("maxpool: {panic} (this is a bug in maxpool, please report it)");
        // Where nobody reads it there is nothing to be done.
        let _ = writeln!(std::io::stderr(), "{}", masking::text(&text));
    }));
}

/// No core file, and no other process of this user reads the memory.
fn not_dumpable() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    // Lower limits are always permitted.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}
