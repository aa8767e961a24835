//! Output with a bound: of more than fits, the head and the tail are kept,
//! because the beginning says what was done and the end what came of it.

use std::collections::VecDeque;

use tokio::io::{AsyncRead, AsyncReadExt};

/// What a pipe carried, as far as it was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    limit: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    omitted: u64,
}

impl Captured {
    /// Nothing yet; at most `limit` bytes will be kept.
    pub fn new(limit: usize) -> Self {
        Self { limit, head: Vec::new(), tail: VecDeque::new(), omitted: 0 }
    }

    /// Takes more output.
    pub fn push(&mut self, mut bytes: &[u8]) {
        let head_room = (self.limit - self.limit / 2).saturating_sub(self.head.len());
        let (first, rest) = bytes.split_at(head_room.min(bytes.len()));
        self.head.extend_from_slice(first);
        bytes = rest;
        let tail_limit = self.limit / 2;
        if bytes.len() > tail_limit {
            let skipped = bytes.len() - tail_limit;
            self.omitted += skipped as u64;
            bytes = &bytes[skipped..];
        }
        let excess = (self.tail.len() + bytes.len()).saturating_sub(tail_limit);
        self.tail.drain(..excess);
        self.omitted += excess as u64;
        self.tail.extend(bytes);
    }

    /// Reads a pipe to its end, or until it breaks.
    pub async fn read_to_end(&mut self, mut pipe: impl AsyncRead + Unpin) {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
            self.push(&buffer[..read]);
        }
    }

    /// How many bytes were not kept.
    pub fn omitted(&self) -> u64 {
        self.omitted
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.head.is_empty() && self.tail.is_empty()
    }

    /// All bytes, if none had to be left out.
    pub fn complete(&self) -> Option<Vec<u8>> {
        (self.omitted == 0).then(|| self.head.iter().chain(&self.tail).copied().collect())
    }

    /// As text; what is no UTF-8 is replaced, and a line says what was left out.
    pub fn text(&self) -> String {
        let mut tail = self.tail.clone();
        if self.omitted == 0 {
            let bytes: Vec<u8> = self.head.iter().copied().chain(tail).collect();
            return String::from_utf8_lossy(&bytes).into_owned();
        }
        format!(
            "{}\n[… {} bytes left out …]\n{}",
            String::from_utf8_lossy(&self.head),
            self.omitted,
            String::from_utf8_lossy(tail.make_contiguous())
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn head_and_tail_are_kept_and_the_rest_is_counted(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20),
            limit in 0_usize..100,
        ) {
            let mut captured = Captured::new(limit);
            for chunk in &chunks {
                captured.push(chunk);
            }
            let all = chunks.concat();
            let kept = captured.head.len() + captured.tail.len();
            prop_assert!(kept <= limit);
            prop_assert_eq!(kept as u64 + captured.omitted(), all.len() as u64);
            prop_assert_eq!(&all[..captured.head.len()], &captured.head[..]);
            let tail: Vec<u8> = captured.tail.iter().copied().collect();
            prop_assert_eq!(&all[all.len() - tail.len()..], &tail[..]);
            prop_assert_eq!(captured.omitted() == 0, all.len() <= limit);
        }
    }
}
