//! Time: the machine's, or one that a test moves by hand.
//!
//! *Assumes*: nothing.
//! *Guarantees*: `now` never goes back. A sleep on a fake clock takes no time.
//! *Threads*: a clock may be used from any thread; clones show the same time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::atomic::{AtomicU64, Ordering};
use super::{Arc, thread};

/// Where a fake clock's wall time starts: 14 November 2023, in milliseconds since 1970.
const FAKE_WALL_START_MILLISECONDS: u64 = 1_700_000_000_000;

/// Tells the time and sleeps.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    Real { start: Instant },
    Fake(FakeClock),
}

/// The hand that moves a fake [`Clock`].
#[derive(Clone, Debug)]
pub struct FakeClock {
    nanoseconds: Arc<AtomicU64>,
}

impl Clock {
    /// The machine's clock; it starts now.
    #[must_use]
    #[allow(clippy::disallowed_methods)] // this is the one place that others are sent to
    pub fn real() -> Clock {
        Clock(Source::Real { start: Instant::now() })
    }

    /// A clock that stands still until the second value advances it.
    #[must_use]
    pub fn fake() -> (Clock, FakeClock) {
        let fake = FakeClock { nanoseconds: Arc::new(AtomicU64::new(0)) };
        (Clock(Source::Fake(fake.clone())), fake)
    }

    /// The time since the clock's start. Never goes back.
    #[must_use]
    pub fn now(&self) -> Duration {
        match &self.0 {
            Source::Real { start } => start.elapsed(),
            Source::Fake(fake) => fake.now(),
        }
    }

    /// The calendar's time in milliseconds since 1970. It may jump; only `now` measures spans.
    #[must_use]
    #[allow(clippy::disallowed_methods)] // as in `real`
    pub fn wall_milliseconds(&self) -> u64 {
        match &self.0 {
            Source::Real { .. } => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                whole_milliseconds(since)
            }
            Source::Fake(fake) => {
                FAKE_WALL_START_MILLISECONDS.saturating_add(whole_milliseconds(fake.now()))
            }
        }
    }

    /// Waits for `duration`. A fake clock advances by it and returns at once.
    pub fn sleep(&self, duration: Duration) {
        match &self.0 {
            Source::Real { .. } => thread::sleep(duration),
            Source::Fake(fake) => fake.advance(duration),
        }
    }
}

impl FakeClock {
    /// Moves the clock forward. It stops at its end, 584 years on.
    pub fn advance(&self, duration: Duration) {
        let step = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.update(Ordering::AcqRel, Ordering::Acquire, |at| at.saturating_add(step));
    }

    fn now(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds.load(Ordering::Acquire))
    }
}

fn whole_milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fake_clock_moves_only_when_it_is_told_to() {
        let (clock, hand) = Clock::fake();
        let other = clock.clone();
        assert_eq!(clock.now(), Duration::ZERO);
        let wall = clock.wall_milliseconds();
        hand.advance(Duration::from_millis(1_500));
        assert_eq!(other.now(), Duration::from_millis(1_500), "clones show one time");
        assert_eq!(other.wall_milliseconds(), wall + 1_500);
    }

    #[test]
    fn fake_sleep_takes_no_time_and_advances() {
        let (clock, _hand) = Clock::fake();
        let real = Clock::real();
        clock.sleep(Duration::from_secs(1_000));
        assert_eq!(clock.now(), Duration::from_secs(1_000));
        assert!(real.now() < Duration::from_secs(100));
    }

    #[test]
    fn fake_clock_stops_at_its_end_and_does_not_wrap() {
        let (clock, hand) = Clock::fake();
        hand.advance(Duration::MAX);
        hand.advance(Duration::from_secs(1));
        assert_eq!(clock.now(), Duration::from_nanos(u64::MAX));
    }

    #[test]
    fn real_clock_advances_over_a_sleep() {
        let clock = Clock::real();
        let before = clock.now();
        clock.sleep(Duration::from_millis(2));
        assert!(clock.now() - before >= Duration::from_millis(2));
        assert!(clock.wall_milliseconds() > FAKE_WALL_START_MILLISECONDS);
    }
}
