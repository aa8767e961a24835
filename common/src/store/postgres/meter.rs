//! Meters and reservations: locked, loaded, decided by the [`Till`], and written in one transaction.
//!
//! A meter that is over has no row, and one that is new has none yet: so names are
//! locked, not rows. Locks stand for many names each (stripes), so that a step of
//! many orders takes few of them, and are taken in the order of their numbers: no
//! two transactions wait for each other in a circle.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::TRIES;
use super::connection::{Connection, Pool};
use super::fault::Fault;
use super::transaction::clock;
use super::value::{Time, integer, natural};
use crate::clock::Timestamp;
use crate::id::{MeterName, ReservationId, Shard, TaskId};
use crate::store::meter::account::{Account, Reservation, Status};
use crate::store::meter::teller::{Teller, Vault};
use crate::store::meter::till::{Answer, Change, Changes, Missing, Order, Till};
use crate::store::meter::{Meter, Reading};
use crate::store::{StoreError, StoreOptions};

/// The first number of all locks on meters: "TMMT".
const CLASS: i32 = 0x544D_4D54;
/// How many names share a lock: all, divided by this.
const STRIPES: u16 = 64;
/// When what could not be looked at is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

const LOCK: &str = "SELECT pg_advisory_xact_lock($1::int, stripe) FROM unnest($2::int[]) AS u(stripe)";
const RESERVATIONS: &str = "SELECT id, task, status, expires, parts FROM reservations WHERE id = ANY($1::text[])";
const ACCOUNTS: &str = "SELECT m.name, m.kind, m.used, m.most, m.since, m.charged_at, m.held_until, m.level, \
     m.line FROM meters m \
     JOIN unnest($1::text[], $2::text[]) AS u(name, kind) ON m.name = u.name AND m.kind = u.kind";
const READINGS: &str = "SELECT name, kind, used, most, since, charged_at, held_until, level, line FROM meters \
     WHERE name >= $1 ORDER BY name, kind LIMIT $2";
const PUT_ACCOUNTS: &str = "INSERT INTO meters (name, kind, used, most, since, charged_at, held_until, \
     goes_at, level, line) SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::timestamptz[], $6::timestamptz[], \
     $7::timestamptz[], $8::timestamptz[], $9::smallint[], $10::text[]) ON CONFLICT (name, kind) DO UPDATE SET used = excluded.used, \
     most = excluded.most, since = excluded.since, charged_at = excluded.charged_at, \
     held_until = excluded.held_until, goes_at = excluded.goes_at, level = excluded.level, line = excluded.line";
const DROP_ACCOUNTS: &str = "DELETE FROM meters m USING unnest($1::text[], $2::text[]) AS u(name, kind) \
     WHERE m.name = u.name AND m.kind = u.kind";
const PUT_RESERVATIONS: &str = "INSERT INTO reservations (id, task, status, expires, due_at, parts) \
     SELECT * FROM unnest($1::text[], $2::uuid[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::text[]) \
     ON CONFLICT (id) DO UPDATE SET task = excluded.task, status = excluded.status, expires = excluded.expires, \
     due_at = excluded.due_at, parts = excluded.parts";
const DROP_RESERVATIONS: &str = "DELETE FROM reservations WHERE id = ANY($1::text[])";
const DUE_RESERVATIONS: &str = "SELECT id FROM reservations WHERE due_at <= $1 ORDER BY due_at LIMIT $2";
const DUE_ACCOUNTS: &str = "SELECT name, kind FROM meters WHERE goes_at <= $1 ORDER BY goes_at LIMIT $2";
const NEXT: &str = "SELECT least((SELECT min(due_at) FROM reservations), \
     (SELECT min(goes_at) FROM meters WHERE goes_at IS NOT NULL))";

/// Where a Postgres keeps meters.
pub(super) struct Meters {
    pub(super) pool: Arc<Pool>,
    pub(super) options: StoreOptions,
}

#[async_trait]
impl Vault for Meters {
    async fn serve(&self, orders: &[Order]) -> Result<Vec<Answer>, StoreError> {
        let mut tries = 0;
        loop {
            let loan = self.pool.lend().await?;
            let connection = loan.connection()?;
            loan.set_clean(false);
            let outcome = perform(connection, &self.options, orders).await;
            loan.set_clean(outcome.is_ok() || connection.batch("ROLLBACK").await.is_ok());
            match outcome {
                Ok(answers) => return Ok(answers),
                Err(Fault::Conflict(_) | Fault::Lost(_)) if tries < TRIES => tries += 1,
                Err(fault) => return Err(fault.into()),
            }
            drop(loan);
            let wait = Duration::from_millis(1 << tries.min(8));
            tokio::time::sleep(wait.mul_f64(self.options.entropy.unit())).await;
        }
    }
}

/// Does orders in one transaction.
async fn perform(connection: &Connection, options: &StoreOptions, orders: &[Order]) -> Result<Vec<Answer>, Fault> {
    // Which meters a reservation has charged never changes; still, what is read before the locks only says what to lock.
    let mut wanted = Till::new(Timestamp::default()).missing(orders);
    let known = reservations(connection, &wanted.reservations).await?;
    wanted.meters.extend(known.iter().flat_map(|known| &known.parts).map(|part| part.meter.clone()));
    wanted.meters.sort_unstable();
    wanted.meters.dedup();
    connection.batch("BEGIN").await?;
    connection.query(LOCK, &[&CLASS, &stripes(&wanted)]).await?;
    let mut till = Till::new(clock(connection, options).await?);
    let mut known = reservations(connection, &wanted.reservations).await?;
    for id in &wanted.reservations {
        let place = known.iter().position(|known| known.id == *id);
        till.load_reservation(id.clone(), place.map(|place| known.swap_remove(place)));
    }
    let mut known = accounts(connection, &wanted.meters).await?;
    for meter in &wanted.meters {
        let place = known.iter().position(|known| known.meter == *meter);
        till.load_account(meter.clone(), place.map(|place| known.swap_remove(place)));
    }
    if !till.missing(orders).is_empty() {
        return Err(Fault::Conflict("a reservation came in between".to_owned()));
    }
    let answers = orders.iter().map(|order| till.perform(order)).collect();
    write(connection, till.into_changes()).await?;
    connection.batch("COMMIT").await?;
    Ok(answers)
}

/// The locks of what is wanted, in order.
fn stripes(wanted: &Missing) -> Vec<i32> {
    let of = |kind: &str, name: &str| i32::from(Shard::of_text(&[kind, name]).number() % STRIPES);
    let reservations = wanted.reservations.iter().map(|id| of("reservation", id.as_str()));
    let meters = wanted.meters.iter().map(|meter| of("meter", &meter.key()));
    reservations.chain(meters).collect::<BTreeSet<i32>>().into_iter().collect()
}

async fn reservations(connection: &Connection, ids: &[ReservationId]) -> Result<Vec<Reservation>, Fault> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<&str> = ids.iter().map(ReservationId::as_str).collect();
    connection.query(RESERVATIONS, &[&ids]).await?.iter().map(reservation).collect()
}

async fn accounts(connection: &Connection, meters: &[Meter]) -> Result<Vec<Account>, Fault> {
    if meters.is_empty() {
        return Ok(Vec::new());
    }
    let (names, kinds): (Vec<&str>, Vec<String>) =
        meters.iter().map(|meter| (meter.name.as_str(), meter.window.to_string())).unzip();
    connection.query(ACCOUNTS, &[&names, &kinds]).await?.iter().map(account).collect()
}

async fn write(connection: &Connection, changes: Changes) -> Result<(), Fault> {
    let Changes { accounts, reservations } = changes;
    if !accounts.is_empty() {
        write_accounts(connection, accounts).await?;
    }
    if !reservations.is_empty() {
        write_reservations(connection, reservations).await?;
    }
    Ok(())
}

async fn write_accounts(connection: &Connection, changes: Vec<(Meter, Change<Account>)>) -> Result<(), Fault> {
    let (mut names, mut kinds, mut used, mut most) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut since, mut charged_at, mut held_until, mut goes_at) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut levels, mut lines) = (Vec::new(), Vec::new());
    let (mut gone_names, mut gone_kinds) = (Vec::new(), Vec::new());
    for (meter, change) in changes {
        let (name, kind) = (meter.name.to_string(), meter.window.to_string());
        let Some(account) = change.after else {
            gone_names.push(name);
            gone_kinds.push(kind);
            continue;
        };
        names.push(name);
        kinds.push(kind);
        used.push(integer(account.used));
        most.push(account.limit.map(integer));
        since.push(Time(account.since));
        charged_at.push(Time(account.charged_at));
        held_until.push(account.held_until.map(Time));
        goes_at.push(account.goes_at().map(Time));
        levels.push(i16::from(account.level));
        lines.push(serde_json::to_string(&account.line).map_err(|error| damaged(&error))?);
    }
    connection.execute(DROP_ACCOUNTS, &[&gone_names, &gone_kinds]).await?;
    let put: [&(dyn ToSql + Sync); 10] =
        [&names, &kinds, &used, &most, &since, &charged_at, &held_until, &goes_at, &levels, &lines];
    connection.execute(PUT_ACCOUNTS, &put).await.map(drop)
}

async fn write_reservations(
    connection: &Connection,
    changes: Vec<(ReservationId, Change<Reservation>)>,
) -> Result<(), Fault> {
    let (mut ids, mut tasks, mut statuses) = (Vec::new(), Vec::new(), Vec::new());
    let (mut expires, mut due_at, mut parts) = (Vec::new(), Vec::new(), Vec::new());
    let mut gone = Vec::new();
    for (id, change) in changes {
        let Some(reservation) = change.after else {
            gone.push(id.to_string());
            continue;
        };
        ids.push(id.to_string());
        tasks.push(reservation.task.as_uuid());
        statuses.push(reservation.status.as_str());
        expires.push(Time(reservation.expires));
        due_at.push(Time(reservation.due_at()));
        parts.push(serde_json::to_string(&reservation.parts).map_err(|error| damaged(&error))?);
    }
    connection.execute(DROP_RESERVATIONS, &[&gone]).await?;
    connection.execute(PUT_RESERVATIONS, &[&ids, &tasks, &statuses, &expires, &due_at, &parts]).await.map(drop)
}

/// Meters whose names begin like this.
pub(super) async fn readings(
    connection: &Connection,
    options: &StoreOptions,
    prefix: &str,
    limit: usize,
) -> Result<Vec<Reading>, Fault> {
    // A name has no such character.
    let prefix = prefix.replace('\0', "\u{1}");
    let now = clock(connection, options).await?;
    let mut readings = Vec::new();
    for row in connection.query(READINGS, &[&prefix, &integer(limit as u64)]).await? {
        if !row.try_get::<_, &str>(0)?.starts_with(&prefix) {
            break;
        }
        let account = account(&row)?.at(now);
        readings.extend((!account.is_blank()).then(|| account.reading()));
    }
    Ok(readings)
}

/// What is to be looked at, and how much that is: some of it may have no name that this version knows.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    orders: Vec<Order>,
    found: usize,
    /// When the next is due, as far as is known before these are looked at.
    next: Option<Timestamp>,
    now: Timestamp,
}

/// What is due.
pub(super) async fn agenda(connection: &Connection, options: &StoreOptions, limit: usize) -> Result<Agenda, Fault> {
    let (now, next) = (clock(connection, options).await?, next(connection).await?);
    let mut agenda = Agenda { next, now, ..Agenda::default() };
    if next.is_none_or(|next| next > now) {
        return Ok(agenda);
    }
    let limit = integer(limit as u64);
    let ids = connection.query(DUE_RESERVATIONS, &[&Time(now), &limit]).await?;
    let meters = connection.query(DUE_ACCOUNTS, &[&Time(now), &limit]).await?;
    agenda.found = ids.len() + meters.len();
    for row in &ids {
        agenda.orders.extend(ReservationId::new(row.try_get::<_, &str>(0)?).ok().map(Order::Lapse));
    }
    agenda.orders.extend(meters.iter().filter_map(|row| meter(row).ok()).map(Order::Close));
    Ok(agenda)
}

/// Looks at what is due: how much that was, and when to look again. Holds no connection meanwhile.
pub(super) async fn look_at(agenda: Agenda, teller: &Teller) -> Result<(usize, Option<Timestamp>), StoreError> {
    let Agenda { orders, found, next, now } = agenda;
    if found == 0 {
        return Ok((0, next));
    }
    let mut failed = orders.len() < found;
    for answer in join_all(orders.into_iter().map(|order| teller.order(order))).await {
        match answer {
            Ok(_) => {}
            Err(error @ StoreError::Unavailable(_)) => return Err(error),
            // Of another version: it must not keep timers and leases from being served.
            Err(error) => {
                tracing::error!(%error, "a meter or reservation that is due cannot be looked at");
                failed = true;
            }
        }
    }
    Ok((found, Some(if failed { now.plus(LOOK_AGAIN) } else { now })))
}

async fn next(connection: &Connection) -> Result<Option<Timestamp>, Fault> {
    let rows = connection.query(NEXT, &[]).await?;
    let next: Option<Time> = rows.first().map_or(Ok(None), |row| row.try_get(0))?;
    Ok(next.map(|Time(next)| next))
}

fn account(row: &Row) -> Result<Account, Fault> {
    let (Time(since), Time(charged_at)) = (row.try_get(4)?, row.try_get(5)?);
    Ok(Account {
        meter: meter(row)?,
        used: natural(row.try_get(2)?),
        limit: row.try_get::<_, Option<i64>>(3)?.map(natural),
        since,
        charged_at,
        held_until: row.try_get::<_, Option<Time>>(6)?.map(|Time(until)| until),
        level: u8::try_from(row.try_get::<_, i16>(7)?).map_err(|error| damaged(&error))?,
        line: serde_json::from_str(row.try_get(8)?).map_err(|error| damaged(&error))?,
    })
}

fn meter(row: &Row) -> Result<Meter, Fault> {
    let name = MeterName::new(row.try_get::<_, &str>(0)?).map_err(|error| damaged(&error))?;
    let window = row.try_get::<_, &str>(1)?.parse().map_err(|error| damaged(&error))?;
    Ok(Meter { name, window })
}

fn reservation(row: &Row) -> Result<Reservation, Fault> {
    let Time(expires) = row.try_get(3)?;
    Ok(Reservation {
        id: ReservationId::new(row.try_get::<_, &str>(0)?).map_err(|error| damaged(&error))?,
        task: TaskId::from_uuid(row.try_get::<_, Uuid>(1)?),
        status: row.try_get::<_, &str>(2)?.parse::<Status>().map_err(|error| damaged(&error))?,
        expires,
        parts: serde_json::from_str(row.try_get(4)?).map_err(|error| damaged(&error))?,
    })
}

fn damaged(why: &dyn std::fmt::Display) -> Fault {
    Fault::damaged("a meter or reservation", why)
}
