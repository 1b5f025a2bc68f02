//! The parts of the scheduler: accounts, the queue, sessions, the breaker, and the types of its
//! calls and results. Each part is data with its own rules and tests; none knows the scheduler, and
//! time is passed in as an argument.

pub(crate) mod account;
pub(crate) mod affinity;
pub(crate) mod block;
pub(crate) mod breaker;
pub(crate) mod cost;
pub(crate) mod id;
pub(crate) mod obstacle;
pub(crate) mod outcome;
pub mod policy;
pub(crate) mod queue;
pub mod quota;
pub(crate) mod ranking;
pub(crate) mod recent_load;
pub(crate) mod request;
pub(crate) mod score;
pub(crate) mod snapshot;
pub(crate) mod storm;
pub(crate) mod suspicion;
pub(crate) mod tier;
pub mod time;
pub(crate) mod trail;
pub(crate) mod wait_limits;
pub(crate) mod windows;
