//! Keeps secrets out of core dumps, out of reach of other processes, and out of panic messages
//! (SPEC D4).

use std::io::Write as _;

use crate::config::masking::Masked;

/// Called before anything else.
pub(crate) fn begin() {
    not_dumpable();
    std::panic::set_hook(Box::new(|panic| {
        let text = format!("maxpool: {panic} (this is a bug in maxpool, please report it)");
        let text = Masked::text(&text);
        // If nobody reads stderr, nothing can be done.
        let _ = writeln!(std::io::stderr(), "{}", *text);
    }));
}

/// Prevents core files, and other processes of this user from reading the memory.
fn not_dumpable() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    // Lowering a limit is always permitted.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is what is looked at")]
    use std::process::Command;

    use super::*;
    use crate::config::Secret;

    const VARIABLE: &str = "MAXPOOL_TEST_PANIC";

    #[test]
    fn d4_a_panic_shows_no_secret() {
        if std::env::var_os(VARIABLE).is_some() {
            begin();
            let secret = Secret::new("live/secret+of-a-panic-0815");
            let escaped = secret.expose().replace('/', "\\u002f");
            panic!("first {} then {escaped} last", secret.expose());
        }
        // The panic hook belongs to the process, so the test runs in its own process.
        let test = "cli::secrecy::tests::d4_a_panic_shows_no_secret";
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", test, "--nocapture"]).env(VARIABLE, "1");
        let ended = child.output().unwrap();
        assert!(!ended.status.success());
        let said = String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned();
        assert!(said.contains("first [masked] then [masked] last"), "{said}");
        assert!(said.contains("this is a bug in maxpool"), "{said}");
        assert!(!said.contains("of-a-panic-0815"), "{said}");
    }
}
