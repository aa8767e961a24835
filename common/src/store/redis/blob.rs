//! Blobs, in the partition of the tasks that use them.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::RedisStore;
use super::due::Agenda;
use super::reply;
use super::scripts::{Args, KEEP_BLOB, UNUSED, ask};
use crate::clock::Timestamp;
use crate::id::{BlobHouse, BlobName};
use crate::store::{BLOB_GRACE, StoreError};

/// The most that one call removes.
const MOST: usize = 100;
/// Names in one command.
const NAMED: usize = 64;

impl RedisStore {
    /// Keeps a blob, unless its content is kept already: the name that it has.
    pub(super) async fn keep_bytes(&self, name: &BlobName, data: Option<Bytes>) -> Result<BlobName, StoreError> {
        if data.is_some() != (name.house() == BlobHouse::Store) {
            return Err(StoreError::Refused(format!("blob {name}: its bytes belong where its name says")));
        }
        let mut args = Args::default();
        args.push(self.clock.argument());
        args.push(name.to_string());
        if let Some(data) = data {
            args.push(data);
        }
        let partition = self.keys.of_shard(name.shard());
        let mut reply = KEEP_BLOB.call(&self.link, self.keys.partition(partition), &[&args]).await?;
        self.clock.heard(reply.time()?);
        reply::text(reply.next()).parse().map_err(|_| reply::damaged("the name of a blob"))
    }

    /// The bytes of blobs, in order.
    pub(super) async fn bytes_of(&self, names: &[BlobName]) -> Result<Vec<Option<Bytes>>, StoreError> {
        let key = |partition, name: &BlobName| self.keys.key(partition, &super::keys::named("B", &name.to_string()));
        let mut found: Vec<Option<Bytes>> = vec![None; names.len()];
        for (partition, places) in self.places(names) {
            for places in places.chunks(NAMED) {
                let mut command = redis::cmd("MGET");
                for name in places.iter().filter_map(|place| names.get(*place)) {
                    command.arg(key(partition, name));
                }
                let values = reply::list(ask(&self.link, &command).await?);
                for (place, value) in places.iter().zip(values) {
                    if let (Some(found), redis::Value::BulkString(data)) = (found.get_mut(*place), value) {
                        *found = Some(Bytes::from(data));
                    }
                }
            }
        }
        Ok(found)
    }

    /// Refuses what refers to blobs that are not kept, for calls that are written in several steps.
    pub(super) async fn expect_blobs(&self, names: &[BlobName]) -> Result<(), StoreError> {
        for (partition, places) in self.places(names) {
            for name in places.iter().filter_map(|place| names.get(*place)) {
                let text = name.to_string();
                let mut command = redis::cmd("HGET");
                command.arg(self.keys.key(partition, b"blobs")).arg(content(&text));
                if reply::text(ask(&self.link, &command).await?) != text {
                    return Err(gone());
                }
            }
        }
        Ok(())
    }

    /// Removes or condemns what nobody has used for long enough. Answers with when to look again.
    pub(super) async fn remove_unused(&self, agendas: &[Agenda]) -> Result<Option<Timestamp>, StoreError> {
        let mut next = None;
        for agenda in agendas {
            let Some(mut since) = agenda.unused else { continue };
            if since.plus(BLOB_GRACE) <= self.clock.now() {
                let mut args = Args::default();
                args.push(self.clock.argument());
                args.number(BLOB_GRACE.as_millis());
                args.number(MOST);
                let mut reply = UNUSED.call(&self.link, self.keys.partition(agenda.partition), &[&args]).await?;
                self.clock.heard(reply.time()?);
                let Ok(first) = reply.integer() else { continue };
                since = Timestamp::from_millis(first);
            }
            next = [next, Some(since.plus(BLOB_GRACE))].into_iter().flatten().min();
        }
        Ok(next)
    }

    /// What is to be removed from where it is kept.
    pub(super) async fn condemned(&self, limit: usize) -> Result<Vec<BlobName>, StoreError> {
        let mut names = Vec::new();
        for partition in 0..self.keys.count() {
            let Some(room) = limit.checked_sub(names.len()).filter(|room| *room > 0) else { break };
            let mut command = redis::cmd("SRANDMEMBER");
            command.arg(self.keys.key(partition, b"condemned")).arg(room.min(MOST));
            let found = reply::list(ask(&self.link, &command).await?);
            names.extend(found.into_iter().filter_map(|name| reply::text(name).parse::<BlobName>().ok()));
        }
        Ok(names)
    }

    /// They are gone from there.
    pub(super) async fn bury(&self, names: &[BlobName]) -> Result<(), StoreError> {
        for (partition, places) in self.places(names) {
            for places in places.chunks(NAMED) {
                let mut command = redis::cmd("SREM");
                command.arg(self.keys.key(partition, b"condemned"));
                for name in places.iter().filter_map(|place| names.get(*place)) {
                    command.arg(name.to_string());
                }
                ask(&self.link, &command).await?;
            }
        }
        Ok(())
    }

    /// The places of names in a list, by partition.
    fn places(&self, names: &[BlobName]) -> BTreeMap<usize, Vec<usize>> {
        let mut places: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (place, name) in names.iter().enumerate() {
            places.entry(self.keys.of_shard(name.shard())).or_default().push(place);
        }
        places
    }
}

/// As in the scripts: the house and the digest.
fn content(name: &str) -> String {
    [name.get(..1), name.get(22..)].into_iter().flatten().collect()
}

/// The answer to what refers to a blob that is not kept.
pub(super) fn gone() -> StoreError {
    StoreError::Unavailable("a large value was kept too long ago for what refers to it; try again".to_owned())
}
