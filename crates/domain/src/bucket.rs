//! A token bucket that takes the time as an argument.
//!
//! Kept as one number, the *theoretical arrival time* of the generic cell rate algorithm: the
//! moment at which the bucket is full again. Unlike the libraries that do this it can be asked
//! without being charged (failed keys are charged only once they have failed) and says exactly
//! when it is full (the `t` of the `RateLimit` header).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How fast a bucket refills and how deep it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    per_second: u32,
    burst: u32,
}

impl Rate {
    /// `per_second` requests a second, `burst` at once; both at least 1.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Self {
        Self { per_second: per_second.max(1), burst: burst.max(1) }
    }

    /// What each of `nodes` may let through, so that all of them together keep to this rate; each at
    /// least one a second.
    #[must_use]
    pub fn shared_by(self, nodes: usize) -> Self {
        let nodes = u32::try_from(nodes).unwrap_or(u32::MAX).max(1);
        Self::new(self.per_second / nodes, self.burst.div_ceil(nodes))
    }

    /// How many requests a full bucket lets through at once.
    #[must_use]
    pub const fn burst(self) -> u32 {
        self.burst
    }

    /// Whole seconds in which an empty bucket fills, at least 1.
    #[must_use]
    pub const fn window_seconds(self) -> u32 {
        self.burst.div_ceil(self.per_second)
    }

    const fn interval_nanos(self) -> u64 {
        1_000_000_000 / self.per_second as u64
    }

    const fn depth_nanos(self) -> u64 {
        self.interval_nanos() * self.burst as u64
    }
}

/// What a bucket answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the request may pass.
    pub allowed: bool,
    /// Requests that would pass now, after this one.
    pub remaining: u32,
    /// Nanoseconds until one request would pass; 0 if one would now.
    pub retry_nanos: u64,
    /// Nanoseconds until the bucket is full.
    pub full_nanos: u64,
}

/// A token bucket, shared by everyone who holds it; lock-free.
#[derive(Debug, Default)]
pub struct Bucket {
    /// When the bucket is full again, in nanoseconds of the caller's monotonic clock.
    full_at: AtomicU64,
}

impl Bucket {
    /// Takes one token at `now` (nanoseconds of any monotonic clock), if there is one.
    #[must_use]
    pub fn take(&self, rate: Rate, now: u64) -> Verdict {
        let charged = self.full_at.fetch_update(Relaxed, Relaxed, |full_at| {
            let next = full_at.max(now) + rate.interval_nanos();
            (next - now <= rate.depth_nanos()).then_some(next)
        });
        match charged {
            Ok(before) => Self::verdict(true, before.max(now) + rate.interval_nanos(), rate, now),
            Err(full_at) => Self::verdict(false, full_at, rate, now),
        }
    }

    /// What [`Bucket::take`] would say now, without taking.
    #[must_use]
    pub fn peek(&self, rate: Rate, now: u64) -> Verdict {
        let full_at = self.full_at.load(Relaxed).max(now);
        let allowed = full_at + rate.interval_nanos() - now <= rate.depth_nanos();
        Self::verdict(allowed, full_at, rate, now)
    }

    fn verdict(allowed: bool, full_at: u64, rate: Rate, now: u64) -> Verdict {
        // A rate that was lowered meanwhile may leave more owed than the bucket is deep.
        let owed = full_at.saturating_sub(now);
        let free = rate.depth_nanos().saturating_sub(owed);
        Verdict {
            allowed,
            remaining: u32::try_from(free / rate.interval_nanos()).unwrap_or(u32::MAX),
            retry_nanos: (owed + rate.interval_nanos()).saturating_sub(rate.depth_nanos()),
            full_nanos: owed,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_full_bucket_lets_its_burst_through_and_then_one_an_interval() {
        let (bucket, rate) = (Bucket::default(), Rate::new(10, 3));
        let now = 5 * SECOND;

        let first: Vec<_> = (0..4).map(|_| bucket.take(rate, now)).collect();

        assert_eq!(first.iter().map(|v| v.allowed).collect::<Vec<_>>(), [true, true, true, false]);
        assert_eq!(first.iter().map(|v| v.remaining).collect::<Vec<_>>(), [2, 1, 0, 0]);
        assert_eq!(first[3].retry_nanos, SECOND / 10);
        assert_eq!(first[3].full_nanos, 3 * SECOND / 10);
        assert!(!bucket.peek(rate, now + SECOND / 10 - 1).allowed);
        assert!(bucket.take(rate, now + SECOND / 10).allowed);
    }

    #[test]
    fn nodes_share_a_rate() {
        assert_eq!(Rate::new(100, 30).shared_by(3), Rate::new(33, 10));
        assert_eq!(Rate::new(2, 2).shared_by(5), Rate::new(1, 1));
        assert_eq!(Rate::new(7, 9).shared_by(0), Rate::new(7, 9));
    }

    proptest! {
        /// Over any stretch, no more passes than the burst and what flowed in since.
        #[test]
        fn no_schedule_gets_more_than_rate_and_burst(
            per_second in 1..2000_u32, burst in 1..500_u32,
            gaps in prop::collection::vec(0..SECOND / 50, 1..400),
        ) {
            let (bucket, rate) = (Bucket::default(), Rate::new(per_second, burst));
            let (mut now, mut passed) = (SECOND, 0_u64);
            for gap in &gaps {
                now += gap;
                let peeked = bucket.peek(rate, now);
                let taken = bucket.take(rate, now);
                prop_assert_eq!(peeked.allowed, taken.allowed);
                if taken.allowed {
                    passed += 1;
                } else {
                    prop_assert!(bucket.peek(rate, now + taken.retry_nanos).allowed, "Retry-After is honest");
                    prop_assert!(!bucket.peek(rate, now + taken.retry_nanos - 1).allowed, "and not too long");
                }
            }
            let flowed = (now - SECOND) / rate.interval_nanos();
            prop_assert!(passed <= u64::from(burst) + flowed);
        }
    }
}
