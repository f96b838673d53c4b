//! When what failed is tried again.

use std::time::Duration;

/// Seconds after the first failure, the second, and so on; the last for all that follow.
const PAUSES: [u64; 7] = [5, 30, 120, 600, 3600, 3 * 3600, 6 * 3600];

/// How long after failure number `failures` (from 1 on) the next attempt is made: up to a tenth
/// earlier or later, as `random` says, so that what failed together does not come back together.
pub(crate) fn pause(failures: u32, random: u16) -> Duration {
    let at = usize::try_from(failures.saturating_sub(1)).unwrap_or(usize::MAX).min(PAUSES.len() - 1);
    let jitter = 0.9 + 0.2 * f64::from(random) / f64::from(u16::MAX);
    Duration::from_secs(PAUSES[at]).mul_f64(jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_differ_by_a_tenth() {
        let seconds = |failures| [0, u16::MAX].map(|random| pause(failures, random).as_millis());

        assert_eq!(seconds(1), [4500, 5500]);
        assert_eq!(seconds(2), [27_000, 33_000]);
        assert_eq!(seconds(3), [108_000, 132_000]);
        assert_eq!(seconds(5), [3_240_000, 3_960_000]);
        assert_eq!(pause(7, 9), pause(100, 9));
    }
}
