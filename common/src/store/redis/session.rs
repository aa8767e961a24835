//! Sessions, in partition 0: a hash. Those whose time is over are removed by who writes others.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::RedisStore;
use super::reply::{self, Reply};
use super::scripts::{Args, FIELDS, SWAP, ask};
use crate::clock::Timestamp;
use crate::id::SessionName;
use crate::store::{KeepSession, KeptSession, StoreError};

/// The hash.
const HASH: &str = "sessions";

/// How a session is written: a line of JSON, then its body.
#[derive(Serialize, Deserialize)]
struct Head {
    version: u64,
    until: Timestamp,
}

/// How many sessions each write looks at by chance, to remove those that are over.
const LOOKED_AT: usize = 4;

impl RedisStore {
    /// What is kept, if its time is not over.
    pub(super) async fn kept_session(&self, name: &SessionName) -> Result<Option<KeptSession>, StoreError> {
        let (_, kept) = self.written_session(name.as_str()).await?;
        Ok(kept.0)
    }

    /// Keeps a session in place of the expected version.
    pub(super) async fn replace_session(&self, keep: KeepSession) -> Result<bool, StoreError> {
        let (now, (kept, written)) = self.written_session(keep.name.as_str()).await?;
        let version = kept.map_or(0, |kept| kept.version);
        if version != keep.expected {
            return Ok(false);
        }
        let head = Head { version: version + 1, until: now.plus(keep.keep) };
        let mut value = serde_json::to_vec(&head).map_err(|error| damaged(&error))?;
        value.push(b'\n');
        value.extend_from_slice(&keep.body);
        let done = self.swap_session(keep.name.as_str().as_bytes(), &written, &value).await?;
        if done {
            self.sweep_sessions(now).await?;
        }
        Ok(done)
    }

    /// What is kept under a name: as it is read, and as it is written.
    async fn written_session(&self, name: &str) -> Result<(Timestamp, (Option<KeptSession>, Vec<u8>)), StoreError> {
        let mut args = Args::default();
        args.push(self.clock.argument());
        args.push(HASH);
        args.push(name);
        let mut reply = FIELDS.call(&self.link, self.keys.partition(0), &[&args]).await?;
        let now = reply.time()?;
        self.clock.heard(now);
        let written = Reply::new(reply.next()).bytes();
        let kept = if written.is_empty() { None } else { Some(decode(&written)?) };
        let kept = kept.filter(|(head, _)| head.until > now);
        Ok((now, (kept.map(|(head, body)| KeptSession { version: head.version, body }), written)))
    }

    async fn swap_session(&self, name: &[u8], before: &[u8], after: &[u8]) -> Result<bool, StoreError> {
        let mut args = Args::default();
        args.push(self.clock.argument());
        args.push(HASH);
        args.push(name);
        args.push(before);
        args.push(after);
        args.push("");
        let mut reply = SWAP.call(&self.link, self.keys.partition(0), &[&args]).await?;
        self.clock.heard(reply.time()?);
        Ok(reply.integer()? == 1)
    }

    /// Looks at a few by chance: the more are over, the more are found.
    async fn sweep_sessions(&self, now: Timestamp) -> Result<(), StoreError> {
        let mut command = redis::cmd("HRANDFIELD");
        command.arg(self.keys.key(0, HASH.as_bytes())).arg(LOOKED_AT).arg("WITHVALUES");
        let mut found = reply::list(ask(&self.link, &command).await?).into_iter().map(reply::bytes);
        while let (Some(name), Some(written)) = (found.next(), found.next()) {
            if decode(&written)?.0.until <= now {
                self.swap_session(&name, &written, b"").await?;
            }
        }
        Ok(())
    }
}

fn decode(written: &[u8]) -> Result<(Head, Bytes), StoreError> {
    let end = written.iter().position(|byte| *byte == b'\n').unwrap_or(written.len());
    let head = serde_json::from_slice(&written[..end]).map_err(|error| damaged(&error))?;
    Ok((head, Bytes::copy_from_slice(written.get(end + 1..).unwrap_or_default())))
}

fn damaged(why: &serde_json::Error) -> StoreError {
    StoreError::Damaged(format!("a session cannot be read by this version: {why}"))
}
