//! Meters and reservations. All of them lie in partition 0, whatever tasks they
//! are for: one reservation charges several meters, and all or none of it counts.
//! They are read, decided by the [`Till`], and written by one script if nothing
//! has changed meanwhile; if something has, all of that is done again.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;

use super::RedisStore;
use super::clock::ServerClock;
use super::connection::Link;
use super::due::Agenda;
use super::record::millis;
use super::reply::{self, Reply};
use super::scripts::{Args, FIELDS, SWAP, ask};
use crate::clock::Timestamp;
use crate::entropy::Entropy;
use crate::id::{MeterName, ReservationId};
use crate::store::StoreError;
use crate::store::meter::account::{Account, Reservation};
use crate::store::meter::teller::Vault;
use crate::store::meter::till::{Answer, Changes, Missing, Order, Till};
use crate::store::meter::{MOST_READINGS, Meter, Reading};

/// How often a step is done anew because other processes were at the same meters. Each time one of them got through.
const TRIES: u32 = 200;
/// The longest pause before that.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
/// When what could not be looked at is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Where a Redis keeps meters.
#[derive(Debug)]
pub(super) struct Meters {
    pub(super) link: Arc<Link>,
    pub(super) clock: Arc<ServerClock>,
    /// What all keys of the partition begin with.
    pub(super) partition: Vec<u8>,
    pub(super) entropy: Arc<dyn Entropy>,
}

#[async_trait]
impl Vault for Meters {
    async fn serve(&self, orders: &[Order]) -> Result<Vec<Answer>, StoreError> {
        for tries in 0..TRIES {
            let mut till = self.load(orders).await?;
            let answers = orders.iter().map(|order| till.perform(order)).collect();
            if self.write(till.into_changes()).await? {
                return Ok(answers);
            }
            let pause = Duration::from_millis(1 << tries.min(5)).min(LONGEST_PAUSE);
            tokio::time::sleep(pause.mul_f64(self.entropy.unit())).await;
        }
        Err(StoreError::Unavailable(format!("others were at the same meters {TRIES} times in a row; try again")))
    }
}

impl Meters {
    /// Everything that some orders need, as it is now.
    async fn load(&self, orders: &[Order]) -> Result<Till, StoreError> {
        let (mut now, mut found) = self.read(&Till::new(Timestamp::default()).missing(orders)).await?;
        loop {
            let mut till = Till::new(now);
            for (id, known) in &found.reservations {
                till.load_reservation(id.clone(), known.clone());
            }
            for (meter, known) in &found.accounts {
                till.load_account(meter.clone(), known.clone());
            }
            let missing = till.missing(orders);
            if missing.is_empty() {
                return Ok(till);
            }
            // A reservation that is known names meters that the order did not.
            let (later, more) = self.read(&missing).await?;
            now = later;
            found.reservations.extend(more.reservations);
            found.accounts.extend(more.accounts);
        }
    }

    async fn read(&self, missing: &Missing) -> Result<(Timestamp, Found), StoreError> {
        let mut args = Args::default();
        args.push(self.clock.argument());
        for id in &missing.reservations {
            args.push("reservations");
            args.push(id.as_str());
        }
        for meter in &missing.meters {
            args.push("meters");
            args.push(meter.key());
        }
        let mut reply = FIELDS.call(&self.link, &self.partition, &[&args]).await?;
        let now = reply.time()?;
        self.clock.heard(now);
        let mut values = Reply::new(reply.next());
        let mut found = Found::default();
        for id in &missing.reservations {
            found.reservations.push((id.clone(), decode(&values.bytes())?));
        }
        for meter in &missing.meters {
            found.accounts.push((meter.clone(), decode(&values.bytes())?));
        }
        Ok((now, found))
    }

    /// Writes, if everything is still as it was read: whether it was.
    async fn write(&self, changes: Changes) -> Result<bool, StoreError> {
        let mut args = Args::default();
        args.push(self.clock.argument());
        for (meter, change) in changes.accounts {
            args.push("meters");
            args.push(meter.key());
            args.push(encode(change.before.as_ref())?);
            args.push(encode(change.after.as_ref())?);
            let due = change.after.as_ref().and_then(Account::goes_at);
            args.push(due.map(|due| millis(due).to_string()).unwrap_or_default());
        }
        for (id, change) in changes.reservations {
            args.push("reservations");
            args.push(id.as_str());
            args.push(encode(change.before.as_ref())?);
            args.push(encode(change.after.as_ref())?);
            let due = change.after.as_ref().map(Reservation::due_at);
            args.push(due.map(|due| millis(due).to_string()).unwrap_or_default());
        }
        if args.len() == 1 {
            return Ok(true);
        }
        let mut reply = SWAP.call(&self.link, &self.partition, &[&args]).await?;
        self.clock.heard(reply.time()?);
        Ok(reply.integer()? == 1)
    }
}

/// What was read. A field is compared as it is written here: the same value is the same text.
#[derive(Debug, Default)]
struct Found {
    reservations: Vec<(ReservationId, Option<Reservation>)>,
    accounts: Vec<(Meter, Option<Account>)>,
}

impl RedisStore {
    /// Meters whose names begin like this.
    pub(super) async fn readings(&self, prefix: &str, limit: usize) -> Result<Vec<Reading>, StoreError> {
        let mut command = redis::cmd("ZRANGEBYLEX");
        command.arg(self.keys.key(0, b"names"));
        command.arg([b"[", prefix.as_bytes()].concat()).arg([b"[", prefix.as_bytes(), b"\xFF"].concat());
        command.arg("LIMIT").arg(0).arg(limit.min(MOST_READINGS));
        let names = reply::list(ask(&self.link, &command).await?);
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut command = redis::cmd("HMGET");
        command.arg(self.keys.key(0, b"meters"));
        for name in names {
            command.arg(reply::bytes(name));
        }
        let now = self.clock.now();
        let mut readings = Vec::new();
        for value in reply::list(ask(&self.link, &command).await?) {
            let account = decode::<Account>(&reply::bytes(value))?.map(|account| account.at(now));
            readings.extend(account.filter(|account| !account.is_blank()).map(|account| account.reading()));
        }
        Ok(readings)
    }

    /// Looks at meters and reservations whose time has come: how many, and when to look again.
    pub(super) async fn look_at_meters(
        &self,
        agendas: &[Agenda],
        limit: usize,
    ) -> Result<(usize, Option<Timestamp>), StoreError> {
        let first = agendas.iter().find_map(|agenda| agenda.look);
        if first.is_none_or(|first| first > self.clock.now()) {
            return Ok((0, first));
        }
        let mut command = redis::cmd("ZRANGEBYSCORE");
        command.arg(self.keys.key(0, b"looks")).arg("-inf").arg(millis(self.clock.now()));
        command.arg("LIMIT").arg(0).arg(limit);
        let due = reply::list(ask(&self.link, &command).await?);
        let (mut looked, mut failed) = (0, false);
        let orders: Vec<Result<Order, StoreError>> = due.into_iter().map(|due| order(&reply::text(due))).collect();
        let answers = orders.into_iter().map(|order| async { self.teller.order(order?).await });
        for answer in join_all(answers).await {
            match answer {
                Ok(_) => looked += 1,
                Err(error @ StoreError::Unavailable(_)) => return Err(error),
                // Of another version: it must not keep timers and leases from being served.
                Err(error) => {
                    tracing::error!(%error, "a meter or reservation that is due cannot be looked at");
                    failed = true;
                }
            }
        }
        if failed {
            return Ok((looked, Some(self.clock.now().plus(LOOK_AGAIN))));
        }
        let mut command = redis::cmd("ZRANGE");
        command.arg(self.keys.key(0, b"looks")).arg(0).arg(0).arg("WITHSCORES");
        let mut first = Reply::new(ask(&self.link, &command).await?);
        first.next();
        Ok((looked, first.integer().ok().map(Timestamp::from_millis)))
    }
}

/// What is to be looked at, from how the index names it.
fn order(member: &str) -> Result<Order, StoreError> {
    if let Some(id) = member.strip_prefix('r') {
        return Ok(Order::Lapse(ReservationId::new(id).map_err(damaged)?));
    }
    let (name, window) =
        member.strip_prefix('m').and_then(|key| key.split_once('\n')).ok_or_else(|| damaged("what is due"))?;
    Ok(Order::Close(Meter { name: MeterName::new(name).map_err(damaged)?, window: window.parse().map_err(damaged)? }))
}

fn encode(value: Option<&impl serde::Serialize>) -> Result<Vec<u8>, StoreError> {
    value.map_or(Ok(Vec::new()), |value| serde_json::to_vec(value).map_err(damaged))
}

fn decode<T: serde::de::DeserializeOwned>(kept: &[u8]) -> Result<Option<T>, StoreError> {
    if kept.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(kept).map(Some).map_err(damaged)
}

fn damaged(why: impl std::fmt::Display) -> StoreError {
    StoreError::Damaged(format!("a meter or reservation cannot be read by this version: {why}"))
}
