//! How far a client is in a room.

use serde::{Deserialize, Serialize};

/// What a client must remember of a room to catch up: the last message and the last change seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    /// The `seq` of the last message.
    pub seq: i64,
    /// The number of the last edit or deletion.
    pub change: i64,
}

impl Position {
    /// After message `seq` and change `change`.
    #[must_use]
    pub const fn new(seq: i64, change: i64) -> Self {
        Self { seq, change }
    }

    /// The later of both, in each of the two numbers.
    pub(crate) fn max(self, other: Self) -> Self {
        Self { seq: self.seq.max(other.seq), change: self.change.max(other.change) }
    }
}

impl From<(i64, i64)> for Position {
    fn from((seq, change): (i64, i64)) -> Self {
        Self { seq, change }
    }
}
