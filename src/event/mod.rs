//! What happened, as plain data: the only way for the program to report about itself.
//!
//! Everything outside `report/` and `cli/` emits an [`Event`] instead of printing. An event never
//! holds a credential. Sending never blocks: the channel is bounded, and events that do not fit are
//! counted in [`Counters::dropped`]. Counters are updated by the sender, so a full channel loses a
//! log line but never a count.

mod counters;
mod in_flight;
mod kinds;
pub(crate) mod labels;

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};

pub(crate) use counters::{Counters, HistogramReading};
pub(crate) use in_flight::{InFlight, InFlightTable, Pulse, RequestMeta, Stage, Tracked};
pub(crate) use kinds::{
    AccountBlocked, Event, Failover, Finished, Held, Outcome, Refresh, RefreshResult, RestartStep,
    Started, StartedAccount,
};

use crate::scheduler::time::Wall;

/// An event with its time, as sent to the reporter.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stamped {
    pub(crate) at: Wall,
    pub(crate) event: Event,
}

/// The sending end. Cheap to clone; every method returns at once.
#[derive(Clone)]
pub(crate) struct Events {
    channel: Option<Sender<Box<Stamped>>>,
    counters: Arc<Counters>,
    in_flight: Arc<InFlightTable>,
}

/// Capacity of the channel. Events are boxed, because the channel allocates all its slots at once.
/// The reporter empties it about fifty times a second.
pub(crate) const EVENTS_MAX: usize = 2_048;

impl Events {
    /// A handle, and the reporter's end of the channel.
    #[must_use]
    pub(crate) fn channel() -> (Events, Receiver<Box<Stamped>>) {
        let (sender, receiver) = bounded(EVENTS_MAX);
        (Events::over(Some(sender)), receiver)
    }

    /// A handle that only counts: for commands without a log, and for tests.
    #[must_use]
    pub(crate) fn off() -> Events {
        Events::over(None)
    }

    fn over(channel: Option<Sender<Box<Stamped>>>) -> Events {
        Events {
            channel,
            counters: Arc::new(Counters::default()),
            in_flight: Arc::new(InFlightTable::default()),
        }
    }

    /// Counts `event` and sends it; drops it, counted, when the reporter cannot keep up.
    pub(crate) fn emit(&self, at: Wall, event: Event) {
        self.counters.count(&event);
        if let Some(channel) = &self.channel
            && channel.try_send(Box::new(Stamped { at, event })).is_err()
        {
            self.counters.count_dropped();
        }
    }

    /// Counts an event that the reporter itself has derived.
    pub(crate) fn count(&self, event: &Event) {
        self.counters.count(event);
    }

    pub(crate) fn notice(&self, at: Wall, text: impl Into<String>) {
        self.emit(at, Event::Notice { text: text.into() });
    }

    pub(crate) fn warning(&self, at: Wall, text: impl Into<String>) {
        self.emit(at, Event::Warning { text: text.into() });
    }

    #[must_use]
    pub(crate) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    #[must_use]
    pub(crate) fn in_flight(&self) -> &Arc<InFlightTable> {
        &self.in_flight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_channel_drops_counts_and_never_blocks() {
        let (events, receiver) = Events::channel();
        for _ in 0..EVENTS_MAX + 3 {
            events.notice(Wall(1), "x");
        }
        assert_eq!(events.counters().dropped(), 3);
        assert_eq!(receiver.len(), EVENTS_MAX);
    }

    #[test]
    fn a_silent_handle_still_counts() {
        let events = Events::off();
        events.emit(Wall(0), Event::Draining { left: 1 });
        assert_eq!(events.counters().dropped(), 0);
    }
}
