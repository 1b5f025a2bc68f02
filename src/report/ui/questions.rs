//! Parts of the questions: what happens to running and waiting requests.

use crate::report::status::Status;

pub(super) fn restart_question(status: &Status) -> String {
    format!(
        "Restart? A new process will take over; no connection is refused.{}{}",
        finishing(status, " on the old one"),
        waiting(status)
    )
}

pub(super) fn stop_question(status: &Status) -> String {
    // A second signal cuts off what the first one lets finish.
    if status.draining {
        return format!(
            "Stop at once? {} in flight will be cut.",
            requests(u64::try_from(status.requests_in_flight).unwrap_or(u64::MAX))
        );
    }
    format!(
        "Stop the server? New requests are refused.{}{}",
        finishing(status, ""),
        waiting(status)
    )
}

fn finishing(status: &Status, on: &str) -> String {
    match in_flight(status) {
        0 => String::new(),
        running => format!(" {} in flight will finish{on}.", requests(running)),
    }
}

fn in_flight(status: &Status) -> u64 {
    let waiting = usize::try_from(status.queue.waiting).unwrap_or(usize::MAX);
    u64::try_from(status.requests_in_flight.saturating_sub(waiting)).unwrap_or(u64::MAX)
}

fn waiting(status: &Status) -> String {
    match status.queue.waiting {
        0 => String::new(),
        waiting => format!(" {} waiting will be told to retry.", requests(waiting)),
    }
}

pub(super) fn requests(count: u64) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} request{plural}")
}
