//! What says how the keys of a store look: the version of their form, and the
//! number of partitions. Written at first use, and verified at every opening.

use super::clock::ServerClock;
use super::connection::Link;
use super::keys::{Keys, SCHEMA};
use super::reply;
use super::scripts::ask;
use crate::clock::Timestamp;
use crate::store::StoreError;

/// How many partitions the store has: as many as it was made with.
///
/// # Errors
/// [`StoreError::Damaged`] if the keys are of another form, [`StoreError::Refused`] if the URL asks for another number.
pub(super) async fn settle(link: &Link, clock: &ServerClock) -> Result<u16, StoreError> {
    let address = link.address();
    tell_time(link, clock).await?;
    let key = Keys::meta(&address.prefix);
    for (field, value) in [("partitions", u64::from(address.partitions_of_new())), ("schema", SCHEMA)] {
        // Two processes may open a new place at once: the first one's word counts.
        let mut command = redis::cmd("HSETNX");
        command.arg(&key).arg(field).arg(value);
        ask(link, &command).await?;
    }
    let mut command = redis::cmd("HMGET");
    command.arg(&key).arg("schema").arg("partitions");
    let found = reply::list(ask(link, &command).await?);
    let [schema, partitions] = found.as_slice() else { return Err(reply::damaged("what the store says of itself")) };
    let schema = reply::integer(schema)?;
    if u64::try_from(schema) != Ok(SCHEMA) {
        return Err(StoreError::Damaged(format!(
            "{address} has keys of version {schema} under {}:, and this program knows version {SCHEMA}; use another \
             version of the program, or another prefix (?prefix=NAME)",
            address.prefix
        )));
    }
    let partitions =
        u16::try_from(reply::integer(partitions)?).map_err(|_| reply::damaged("a number of partitions"))?;
    match address.partitions {
        Some(wanted) if wanted != partitions => Err(StoreError::Refused(format!(
            "{address} was made with {partitions} partitions, and the URL asks for {wanted}; the number is fixed at \
             first use: say ?partitions={partitions} or leave it out (or move the tasks into another prefix with \
             export and import)"
        ))),
        _ => Ok(partitions),
    }
}

/// Hears what time it is at the server.
async fn tell_time(link: &Link, clock: &ServerClock) -> Result<(), StoreError> {
    let mut time = reply::Reply::new(ask(link, &redis::cmd("TIME")).await?);
    let millis = time.integer()?.saturating_mul(1_000).saturating_add(time.integer()? / 1_000);
    clock.heard(Timestamp::from_millis(millis));
    Ok(())
}
