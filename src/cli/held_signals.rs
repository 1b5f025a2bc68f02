//! Signals that wait until a token is stored (SPEC T7).
//!
//! A command that is ended between the answer of the token endpoint and the write of the config
//! loses the account. So Ctrl-C and its like are kept for the moments in which a refresh may be
//! in progress, and do what they always do as soon as those are over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::low_level::emulate_default_handler;

/// Holds the signals until it is dropped.
pub(super) struct HeldSignals {
    /// Signals end the process at once.
    is_over: Arc<AtomicBool>,
    arrived: Vec<(i32, Arc<AtomicBool>)>,
}

impl HeldSignals {
    /// From now on. A signal that cannot be held ends the process, as it would have.
    pub(super) fn begin() -> HeldSignals {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut arrived = Vec::new();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let flag = Arc::new(AtomicBool::new(false));
            let held = flag::register_conditional_default(signal, Arc::clone(&is_over))
                .and_then(|_| flag::register(signal, Arc::clone(&flag)));
            if held.is_ok() {
                arrived.push((signal, flag));
            }
        }
        HeldSignals { is_over, arrived }
    }
}

impl Drop for HeldSignals {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        for (signal, flag) in &self.arrived {
            if flag.load(Ordering::SeqCst) {
                // Where that fails the command goes on to its end.
                let _ = emulate_default_handler(*signal);
            }
        }
    }
}
