//! Waits that grow, and differ between clients.

use std::time::Duration;

/// How long to wait before trying again: twice as long each time, with jitter.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    tries: u32,
}

impl Default for Backoff {
    /// From 100 ms to 10 s.
    fn default() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(10))
    }
}

impl Backoff {
    /// Waits of about `base` at first and `max` in the end.
    #[must_use]
    pub const fn new(base: Duration, max: Duration) -> Self {
        Self { base, max, tries: 0 }
    }

    /// The next wait: between half and all of what is due, so that clients which lost their
    /// server together do not come back together.
    pub(crate) fn wait(&mut self) -> Duration {
        let due = self.base.saturating_mul(1 << self.tries.min(20)).min(self.max);
        self.tries = self.tries.saturating_add(1);
        // Without randomness the jitter is lost, and nothing else.
        let random = getrandom::u32().unwrap_or(u32::MAX);
        due / 2 + (due / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// Begins anew, after a success.
    pub(crate) const fn reset(&mut self) {
        self.tries = 0;
    }

    /// A connection that lived this long was no failure.
    pub(crate) const fn stable(&self) -> Duration {
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_are_never_below_half() {
        let mut backoff = Backoff::default();

        let waits: Vec<_> = (0..40).map(|_| backoff.wait().as_millis()).collect();

        for (nth, wait) in waits.iter().enumerate() {
            let due = (100 << nth.min(20)).min(10_000);
            assert!((due / 2..=due).contains(wait), "{nth}: {wait} of {due}");
        }
        backoff.reset();
        assert!(backoff.wait() <= Duration::from_millis(100));
    }
}
