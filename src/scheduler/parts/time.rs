//! The program's two clocks as types, so that they cannot be mixed up.
//!
//! [`Mono`] is for waits, cooldowns and ramps: it never jumps. [`Wall`] is for resets and expiry:
//! it may jump.

use std::ops::{Add, Sub};
use std::time::Duration;

/// Milliseconds on the monotonic clock since an arbitrary start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub u64);

/// Milliseconds since the Unix epoch on the wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wall(pub i64);

/// A reading of both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// For waits and cooldowns.
    pub mono: Mono,
    /// For resets and expiry.
    pub wall: Wall,
}

impl Mono {
    /// The far future: later than any stored deadline.
    pub const MAX: Mono = Mono(u64::MAX);

    /// Time since `earlier`; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Mono) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The moment `span` earlier, or the first possible one.
    #[must_use]
    pub fn before(self, span: Duration) -> Mono {
        Mono(self.0.saturating_sub(whole_ms(span)))
    }
}

impl Wall {
    /// Time from `self` until `later`; zero if that has passed.
    #[must_use]
    pub fn until(self, later: Wall) -> Duration {
        Duration::from_millis(u64::try_from(later.0.saturating_sub(self.0)).unwrap_or(0))
    }
}

impl Add<Duration> for Mono {
    type Output = Mono;

    fn add(self, wait: Duration) -> Mono {
        Mono(self.0.saturating_add(whole_ms(wait)))
    }
}

impl Add<Duration> for Wall {
    type Output = Wall;

    fn add(self, wait: Duration) -> Wall {
        Wall(self.0.saturating_add_unsigned(whole_ms(wait)))
    }
}

impl Sub<Duration> for Wall {
    type Output = Wall;

    fn sub(self, wait: Duration) -> Wall {
        Wall(self.0.saturating_sub_unsigned(whole_ms(wait)))
    }
}

impl Now {
    /// When the wall clock will show `wall`, on the monotonic clock, if it does not jump until
    /// then.
    #[must_use]
    pub fn mono_at(self, wall: Wall) -> Mono {
        self.mono + self.wall.until(wall)
    }
}

/// Milliseconds rounded up, so that a deadline is never early.
fn whole_ms(wait: Duration) -> u64 {
    let part = u64::from(wait.subsec_nanos().div_ceil(1_000_000));
    wait.as_secs().saturating_mul(1_000).saturating_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_and_never_rounds_a_deadline_down() {
        assert_eq!(Mono(5).since(Mono(9)), Duration::ZERO);
        assert_eq!(Mono(u64::MAX) + Duration::MAX, Mono::MAX);
        assert_eq!(Mono(1) + Duration::from_micros(1), Mono(2));
        assert_eq!(Wall(10).until(Wall(3)), Duration::ZERO);
        assert_eq!(Wall(i64::MIN).until(Wall(i64::MAX)), Duration::from_millis(i64::MAX as u64));
        let now = Now { mono: Mono(100), wall: Wall(1_000) };
        assert_eq!(now.mono_at(Wall(1_250)), Mono(350));
        assert_eq!(now.mono_at(Wall(900)), Mono(100));
    }
}
