//! Meters and reservations: loaded, decided by the [`Till`], and written in the writer's transaction.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::connection::Stop;
use super::row::{integer, natural};
use super::transaction::Transaction;
use crate::clock::Timestamp;
use crate::id::{MeterName, ReservationId};
use crate::store::StoreError;
use crate::store::meter::account::{Account, Reservation, Status};
use crate::store::meter::till::{Answer, Changes, Order, Till};
use crate::store::meter::{Meter, Reading};

/// A row of `meters`, as texts and numbers.
type Columns = (String, String, i64, Option<i64>, i64, i64, Option<i64>, u8, String);

/// When what could not be looked at is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
const ACCOUNT: &str = "name, kind, used, most, since, charged_at, held_until, level, line";

/// Does an order.
pub(super) fn perform(tx: &mut Transaction<'_>, order: &Order) -> Result<Answer, Stop<StoreError>> {
    let mut till = Till::new(tx.now);
    loop {
        let missing = till.missing([order]);
        if missing.is_empty() {
            break;
        }
        for id in missing.reservations {
            let known = reservation(tx.db, &id)?;
            till.load_reservation(id, known);
        }
        for meter in missing.meters {
            let known = account(tx.db, &meter)?;
            till.load_account(meter, known);
        }
    }
    let answer = till.perform(order);
    write(tx.db, till.into_changes())?;
    Ok(answer)
}

/// Looks at what is due: how much that was, and when the next is.
pub(super) fn due(tx: &mut Transaction<'_>, limit: usize) -> Result<(usize, Option<Timestamp>), Stop<StoreError>> {
    let next = "SELECT min(due_at) FROM (SELECT min(due_at) AS due_at FROM reservations \
         UNION ALL SELECT min(goes_at) FROM meters WHERE goes_at IS NOT NULL)";
    let first: Option<i64> = tx.db.prepare_cached(next)?.query_row([], |row| row.get(0))?;
    if first.is_none_or(|first| first > tx.now.as_millis()) {
        return Ok((0, first.map(Timestamp::from_millis)));
    }
    let bounds = params![tx.now.as_millis(), integer(limit as u64)];
    let ids: Vec<String> = tx
        .db
        .prepare_cached("SELECT id FROM reservations WHERE due_at <= ?1 ORDER BY due_at LIMIT ?2")?
        .query_map(bounds, |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let meters: Vec<(String, String)> = tx
        .db
        .prepare_cached("SELECT name, kind FROM meters WHERE goes_at <= ?1 ORDER BY goes_at LIMIT ?2")?
        .query_map(bounds, |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let found = ids.len() + meters.len();
    let mut orders = Vec::with_capacity(found);
    orders.extend(ids.into_iter().filter_map(|id| ReservationId::new(id).ok()).map(Order::Lapse));
    orders.extend(meters.into_iter().filter_map(|(name, kind)| meter(name, &kind).ok()).map(Order::Close));
    // What has no name that this version knows is left to one that does.
    let mut failed = orders.len() < found;
    for order in &orders {
        match perform(tx, order) {
            Ok(_) => {}
            // Of another version: it must not keep timers and leases from being served.
            Err(Stop::Refused(error)) => {
                tracing::error!(%error, "a meter or reservation that is due cannot be looked at");
                failed = true;
            }
            Err(stop) => return Err(stop),
        }
    }
    if failed {
        return Ok((orders.len(), Some(tx.now.plus(LOOK_AGAIN))));
    }
    let first: Option<i64> = tx.db.prepare_cached(next)?.query_row([], |row| row.get(0))?;
    Ok((orders.len(), first.map(Timestamp::from_millis)))
}

/// Meters whose names begin like this.
pub(super) fn readings(
    db: &Connection,
    prefix: &str,
    limit: usize,
    now: Timestamp,
) -> Result<Vec<Reading>, Stop<StoreError>> {
    let rows: Vec<Columns> = db
        .prepare_cached(&format!("SELECT {ACCOUNT} FROM meters WHERE name >= ?1 ORDER BY name, kind LIMIT ?2"))?
        .query_map(params![prefix, integer(limit as u64)], columns)?
        .collect::<rusqlite::Result<_>>()?;
    let mut readings = Vec::new();
    for row in rows.into_iter().take_while(|(name, ..)| name.starts_with(prefix)) {
        let account = decode(row)?.at(now);
        readings.extend((!account.is_blank()).then(|| account.reading()));
    }
    Ok(readings)
}

fn account(db: &Connection, meter: &Meter) -> Result<Option<Account>, Stop<StoreError>> {
    db.prepare_cached(&format!("SELECT {ACCOUNT} FROM meters WHERE name = ?1 AND kind = ?2"))?
        .query_row(params![meter.name.as_str(), meter.window.to_string()], columns)
        .optional()?
        .map(decode)
        .transpose()
}

fn reservation(db: &Connection, id: &ReservationId) -> Result<Option<Reservation>, Stop<StoreError>> {
    let row: Option<(String, String, i64, String)> = db
        .prepare_cached("SELECT task, status, expires, parts FROM reservations WHERE id = ?1")?
        .query_row([id.as_str()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .optional()?;
    let Some((task, status, expires, parts)) = row else { return Ok(None) };
    Ok(Some(Reservation {
        id: id.clone(),
        task: task.parse().map_err(damaged)?,
        parts: serde_json::from_str(&parts).map_err(damaged)?,
        expires: Timestamp::from_millis(expires),
        status: status.parse::<Status>().map_err(damaged)?,
    }))
}

fn write(db: &Connection, changes: Changes) -> Result<(), Stop<StoreError>> {
    for (meter, change) in changes.accounts {
        let kind = meter.window.to_string();
        let Some(account) = change.after else {
            db.prepare_cached("DELETE FROM meters WHERE name = ?1 AND kind = ?2")?
                .execute(params![meter.name.as_str(), kind])?;
            continue;
        };
        db.prepare_cached(&format!(
            "INSERT OR REPLACE INTO meters ({ACCOUNT}, goes_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"
        ))?
        .execute(params![
            meter.name.as_str(),
            kind,
            integer(account.used),
            account.limit.map(integer),
            account.since.as_millis(),
            account.charged_at.as_millis(),
            account.held_until.map(Timestamp::as_millis),
            account.level,
            serde_json::to_string(&account.line).map_err(damaged)?,
            account.goes_at().map(Timestamp::as_millis),
        ])?;
    }
    for (id, change) in changes.reservations {
        let Some(reservation) = change.after else {
            db.prepare_cached("DELETE FROM reservations WHERE id = ?1")?.execute([id.as_str()])?;
            continue;
        };
        db.prepare_cached(
            "INSERT OR REPLACE INTO reservations (id, task, status, expires, due_at, parts) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            id.as_str(),
            reservation.task.to_string(),
            reservation.status.as_str(),
            reservation.expires.as_millis(),
            reservation.due_at().as_millis(),
            serde_json::to_string(&reservation.parts).map_err(damaged)?,
        ])?;
    }
    Ok(())
}

fn columns(row: &Row<'_>) -> rusqlite::Result<Columns> {
    Ok((
        row.get(0)?,
        row.get(1)?,
        row.get(2)?,
        row.get(3)?,
        row.get(4)?,
        row.get(5)?,
        row.get(6)?,
        row.get(7)?,
        row.get(8)?,
    ))
}

fn decode(columns: Columns) -> Result<Account, Stop<StoreError>> {
    let (name, kind, used, most, since, charged_at, held_until, level, line) = columns;
    Ok(Account {
        meter: meter(name, &kind)?,
        used: natural(used),
        limit: most.map(natural),
        since: Timestamp::from_millis(since),
        charged_at: Timestamp::from_millis(charged_at),
        held_until: held_until.map(Timestamp::from_millis),
        level,
        line: serde_json::from_str(&line).map_err(damaged)?,
    })
}

fn meter(name: String, kind: &str) -> Result<Meter, Stop<StoreError>> {
    Ok(Meter { name: MeterName::new(name).map_err(damaged)?, window: kind.parse().map_err(damaged)? })
}

fn damaged(why: impl std::fmt::Display) -> Stop<StoreError> {
    Stop::Refused(StoreError::Damaged(format!("a meter or reservation cannot be read by this version: {why}")))
}
