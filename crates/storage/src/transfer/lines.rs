//! A stream of chunks as lines of bounded length.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use chatapi_domain::Invalid;
use futures_util::{Stream, StreamExt};
use tokio::time::timeout;

use crate::Result;

/// The longest line: a message of the greatest length whose every byte is escaped has 1.2 MB.
const MAX_LINE: usize = 2 << 20;

/// Cuts what a source brings into lines, and counts them.
pub(super) struct Lines<S> {
    source: S,
    patience: Duration,
    /// What has come and is not used yet.
    ahead: BytesMut,
    /// How much of it is known to hold no line feed.
    searched: usize,
    /// The number of the line that was given last.
    number: u64,
}

impl<S: Stream<Item = io::Result<Bytes>> + Unpin> Lines<S> {
    pub(super) fn new(source: S, patience: Duration) -> Self {
        Self { source, patience, ahead: BytesMut::new(), searched: 0, number: 0 }
    }

    /// The number of the line that was given last, beginning at 1.
    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    /// What is wrong with the line that was given last.
    pub(super) fn wrong(&self, invalid: &Invalid) -> Invalid {
        Invalid::new(format!("line {}", self.number), invalid.to_string())
    }

    /// The next line with its line feed; at the end of the source what is left, if anything is.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        self.number += 1;
        loop {
            let found = self.ahead[self.searched..].iter().position(|byte| *byte == b'\n');
            let length = found.map_or(self.ahead.len(), |at| self.searched + at + 1);
            if length > MAX_LINE {
                return Err(self.bad(format!("has more than {MAX_LINE} bytes")).into());
            }
            if found.is_some() {
                self.searched = 0;
                return Ok(Some(self.ahead.split_to(length).freeze()));
            }
            self.searched = self.ahead.len();
            match timeout(self.patience, self.source.next()).await {
                Ok(Some(Ok(chunk))) => self.ahead.extend_from_slice(&chunk),
                Ok(Some(Err(_))) => return Err(self.bad("the rest did not arrive".to_owned()).into()),
                Ok(None) => {
                    self.searched = 0;
                    return Ok(Some(self.ahead.split().freeze()).filter(|rest| !rest.is_empty()));
                }
                Err(_) => {
                    let waited = format!("nothing arrived for {} seconds", self.patience.as_secs());
                    return Err(self.bad(waited).into());
                }
            }
        }
    }

    fn bad(&self, reason: String) -> Invalid {
        Invalid::new(format!("line {}", self.number), reason)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use proptest::prelude::*;

    use super::*;
    use crate::Error;

    fn read(chunks: Vec<Vec<u8>>) -> Result<Vec<Bytes>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let source = stream::iter(chunks.into_iter().map(|chunk| Ok(Bytes::from(chunk))));
            let (mut lines, mut all) = (Lines::new(source, Duration::from_mins(1)), Vec::new());
            while let Some(line) = lines.next().await? {
                all.push(line);
            }
            Ok(all)
        })
    }

    proptest! {
        #[test]
        fn lines_are_the_same_however_they_are_cut_into_chunks(
            text in "[ab\n]{0,60}", cuts in proptest::collection::vec(1..8_usize, 60),
        ) {
            let (mut rest, mut chunks) = (text.as_bytes(), Vec::new());
            for cut in cuts {
                let (chunk, after) = rest.split_at(cut.min(rest.len()));
                chunks.push(chunk.to_vec());
                rest = after;
            }

            let lines = read(chunks).expect("no line is long");

            prop_assert_eq!(lines, text.split_inclusive('\n').collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_refused_with_its_number_before_its_end_is_there() {
        let mut chunks = vec![b"{}\n".to_vec()];
        chunks.extend(std::iter::repeat_n(vec![b'x'; 1 << 16], MAX_LINE / (1 << 16)));
        assert_eq!(read(chunks.clone()).expect("just short enough").len(), 2);
        chunks.push(b"x".to_vec());

        let error = read(chunks).expect_err("too long");

        assert!(matches!(&error, Error::Invalid(wrong) if wrong.field == "line 2"), "{error}");
    }
}
