//! Halts of the fleet and of pipelines, in partition 0.

use super::RedisStore;
use super::reply::{self, Reply};
use super::scripts::{Args, FIELDS, SWAP, ask};
use crate::store::{Halt, HaltChange, StoreError};

/// How often a change is tried anew because another one came in between.
const TRIES: usize = 20;

impl RedisStore {
    /// Begins, lifts or ends a halt.
    pub(super) async fn alter_halt(&self, change: HaltChange) -> Result<Option<Halt>, StoreError> {
        let pipeline = change.pipeline().map_or(String::new(), ToString::to_string);
        for _ in 0..TRIES {
            let mut args = Args::default();
            args.push(self.clock.argument());
            args.push("halts");
            args.push(&pipeline);
            let mut reply = FIELDS.call(&self.link, self.keys.partition(0), &[&args]).await?;
            let now = reply.time()?;
            self.clock.heard(now);
            let known = Reply::new(reply.next()).bytes();
            let halt = if known.is_empty() { None } else { Some(decode(&known)?) };
            let Some(halt) = change.clone().apply(halt.as_ref(), now) else { return Ok(None) };
            args.push(&known);
            args.push(serde_json::to_vec(&halt).map_err(|error| damaged(&error))?);
            args.push("");
            let mut reply = SWAP.call(&self.link, self.keys.partition(0), &[&args]).await?;
            self.clock.heard(reply.time()?);
            if reply.integer()? == 1 {
                return Ok(Some(halt));
            }
        }
        Err(StoreError::Unavailable("others changed the same halt again and again; try again".to_owned()))
    }

    /// The newest of each: that of the fleet, then by name.
    pub(super) async fn all_halts(&self) -> Result<Vec<Halt>, StoreError> {
        let mut command = redis::cmd("HVALS");
        command.arg(self.keys.key(0, b"halts"));
        let kept = reply::list(ask(&self.link, &command).await?);
        let mut halts: Vec<Halt> =
            kept.into_iter().map(|halt| decode(&reply::bytes(halt))).collect::<Result<_, _>>()?;
        halts.sort_by(|a, b| a.pipeline.cmp(&b.pipeline));
        Ok(halts)
    }
}

fn decode(kept: &[u8]) -> Result<Halt, StoreError> {
    serde_json::from_slice(kept).map_err(|error| damaged(&error))
}

fn damaged(why: &serde_json::Error) -> StoreError {
    StoreError::Damaged(format!("a halt cannot be read by this version: {why}"))
}
