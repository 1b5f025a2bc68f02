//! Delays signals until a token is stored (SPEC T7).
//!
//! A command that is killed between the token endpoint's answer and the write of the config loses
//! the account. So Ctrl-C and similar signals are deferred while a refresh may be in progress, and
//! take effect as soon as that is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::low_level::emulate_default_handler;

/// Defers the signals until it is dropped.
pub(super) struct HeldSignals {
    /// Set when signals should end the process at once.
    is_over: Arc<AtomicBool>,
    arrived: Vec<(i32, Arc<AtomicBool>)>,
}

impl HeldSignals {
    /// Starts to defer. A signal that cannot be deferred ends the process, as it would have anyway.
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
                // If that fails, the command continues to its end.
                let _ = emulate_default_handler(*signal);
            }
        }
    }
}
