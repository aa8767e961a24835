//! Makes a history shorter that shows a difference: leaves out pieces, smaller
//! and smaller ones, as long as what is left still shows one.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::history::Difference;

/// What was found.
pub(super) struct Shortest {
    /// The difference of the whole history.
    pub(super) first: Box<Difference>,
    /// That of the shortest one, in an answer to the same kind of request.
    pub(super) difference: Box<Difference>,
    /// How many operations the shortest one has.
    pub(super) operations: usize,
}

/// Shortens for about as long as is given.
pub(super) async fn shrink(
    seed: u64,
    mut operations: Vec<u64>,
    first: Box<Difference>,
    time: Duration,
) -> Result<Shortest> {
    let started = Instant::now();
    operations.truncate(first.operation + 1);
    let stores = [super::STORES[0], super::STORES[first.store]];
    let mut shortest: Option<Box<Difference>> = None;
    let mut piece = operations.len() / 2;
    while piece > 0 {
        let mut start = 0;
        let mut shorter = false;
        while start < operations.len() && started.elapsed() < time {
            let end = (start + piece).min(operations.len());
            let without: Vec<u64> = [&operations[..start], &operations[end..]].concat();
            match super::play(&stores, seed, &without).await {
                Ok(Err(difference)) if difference.kind == first.kind => {
                    operations = without;
                    operations.truncate(difference.operation + 1);
                    shortest = Some(difference);
                    shorter = true;
                }
                // A history that cannot be played to its end says nothing about differences; another difference is
                // another story.
                Ok(_) | Err(_) => start = end,
            }
        }
        if started.elapsed() >= time {
            break;
        }
        if !shorter || piece > 1 {
            piece /= 2;
        }
    }
    let operations = operations.len();
    let difference = shortest.unwrap_or_else(|| {
        Box::new(Difference {
            operation: first.operation,
            kind: first.kind,
            said: first.said.clone(),
            store: first.store,
            trace: first.trace[first.trace.len().saturating_sub(20)..].to_vec(),
        })
    });
    Ok(Shortest { first, difference, operations })
}
