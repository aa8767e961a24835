//! The till: what an operation on meters does, given what the store keeps of
//! them. Pure; every rule about granting, giving back, repeating and lapsing
//! stands here and in [`super::account`] once, for all backends.
//!
//! A backend loads what is [`Till::missing`] until nothing is, has the orders done,
//! and writes the [`Changes`] in one atomic step, on the condition that nothing
//! that was loaded has changed meanwhile (by locks, or by comparing).

use std::collections::BTreeMap;

use super::account::{Account, Part, Reservation, Status};
use super::{Meter, Refusal, Reserve, Reserved, Settle, Settled, Window};
use crate::clock::Timestamp;
use crate::id::{ReservationId, TaskId};
use crate::store::StoreError;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// See [`crate::store::Store::reserve`].
    Reserve(Reserve),
    /// See [`crate::store::Store::settle`].
    Settle(Settle),
    /// See [`crate::store::Store::hold_back`].
    HoldBack(Meter, Timestamp),
    /// Looks at a reservation whose time has come.
    Lapse(ReservationId),
    /// Looks at a meter whose time has come.
    Close(Meter),
}

/// What came of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To a reservation.
    Reserved(Reserved),
    /// To a settlement.
    Settled(Settled),
    /// To everything else: whether there was anything to do.
    Done(bool),
}

impl Answer {
    /// The answer to a reservation.
    pub(in crate::store) fn reserved(self) -> Result<Reserved, StoreError> {
        match self {
            Self::Reserved(reserved) => Ok(reserved),
            _ => Err(StoreError::Damaged("a reservation was answered with something else".to_owned())),
        }
    }

    /// The answer to a settlement.
    pub(in crate::store) fn settled(self) -> Result<Settled, StoreError> {
        match self {
            Self::Settled(settled) => Ok(settled),
            _ => Err(StoreError::Damaged("a settlement was answered with something else".to_owned())),
        }
    }
}

/// What must be loaded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Missing {
    /// Reservations, in order.
    pub reservations: Vec<ReservationId>,
    /// Meters, in order.
    pub meters: Vec<Meter>,
}

impl Missing {
    /// Whether nothing is missing.
    pub fn is_empty(&self) -> bool {
        self.reservations.is_empty() && self.meters.is_empty()
    }
}

/// What was loaded, what it is to be, and nothing of what stays as it is. `None` is what is not there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Meters.
    pub accounts: Vec<(Meter, Change<Account>)>,
    /// Reservations.
    pub reservations: Vec<(ReservationId, Change<Reservation>)>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change<T> {
    /// As it was loaded.
    pub before: Option<T>,
    /// As it is to be.
    pub after: Option<T>,
}

/// See the module.
#[derive(Debug)]
pub struct Till {
    now: Timestamp,
    accounts: BTreeMap<Meter, Change<Account>>,
    reservations: BTreeMap<ReservationId, Change<Reservation>>,
}

impl Till {
    /// An empty one at the store's time.
    pub fn new(now: Timestamp) -> Self {
        Self { now, accounts: BTreeMap::new(), reservations: BTreeMap::new() }
    }

    /// What some orders need that was not loaded yet. Ask again when that is loaded: a reservation names meters.
    pub fn missing<'o>(&self, orders: impl IntoIterator<Item = &'o Order>) -> Missing {
        let mut missing = Missing::default();
        let mut meters = Vec::new();
        for order in orders {
            let id = match order {
                Order::Reserve(reserve) => {
                    meters.extend(reserve.charges.iter().map(|charge| charge.meter.clone()));
                    &reserve.id
                }
                Order::Settle(Settle { id, .. }) | Order::Lapse(id) => id,
                Order::HoldBack(meter, _) | Order::Close(meter) => {
                    meters.push(meter.clone());
                    continue;
                }
            };
            match self.reservations.get(id) {
                None => missing.reservations.push(id.clone()),
                Some(known) => {
                    meters.extend(known.after.iter().flat_map(|known| &known.parts).map(|part| part.meter.clone()));
                }
            }
        }
        meters.retain(|meter| !self.accounts.contains_key(meter));
        missing.meters = meters;
        missing.meters.sort_unstable();
        missing.meters.dedup();
        missing.reservations.sort_unstable();
        missing.reservations.dedup();
        missing
    }

    /// Enters a meter as the store keeps it.
    pub fn load_account(&mut self, meter: Meter, account: Option<Account>) {
        self.accounts.insert(meter, Change { before: account.clone(), after: account });
    }

    /// Enters a reservation as the store keeps it.
    pub fn load_reservation(&mut self, id: ReservationId, reservation: Option<Reservation>) {
        self.reservations.insert(id, Change { before: reservation.clone(), after: reservation });
    }

    /// Does an order; everything that it needs must be loaded.
    pub fn perform(&mut self, order: &Order) -> Answer {
        match order {
            Order::Reserve(reserve) => Answer::Reserved(self.reserve(reserve)),
            Order::Settle(settle) => Answer::Settled(self.settle(settle)),
            Order::HoldBack(meter, until) => {
                let mut account = self.account(meter);
                account.hold_back(*until, self.now);
                self.put(account);
                Answer::Done(true)
            }
            Order::Lapse(id) => Answer::Done(self.lapse(id)),
            Order::Close(meter) => {
                let Some(change) = self.accounts.get_mut(meter) else { return Answer::Done(false) };
                let over = change.after.as_ref().and_then(Account::goes_at).is_some_and(|goes_at| goes_at <= self.now);
                if over {
                    change.after = None;
                }
                Answer::Done(over)
            }
        }
    }

    /// What is to be written.
    pub fn into_changes(self) -> Changes {
        Changes {
            accounts: self.accounts.into_iter().filter(|(_, change)| change.before != change.after).collect(),
            reservations: self.reservations.into_iter().filter(|(_, change)| change.before != change.after).collect(),
        }
    }

    /// A meter as it is now.
    fn account(&self, meter: &Meter) -> Account {
        let known = self.accounts.get(meter).and_then(|change| change.after.clone());
        known.map_or_else(|| Account::blank(meter.clone(), self.now), |account| account.at(self.now))
    }

    /// A meter as it is to be; one that says nothing is not kept.
    fn put(&mut self, account: Account) {
        let after = (!account.is_blank()).then(|| account.clone());
        self.accounts
            .entry(account.meter)
            .and_modify(|change| change.after.clone_from(&after))
            .or_insert(Change { before: None, after });
    }

    fn reservation(&self, id: &ReservationId) -> Option<Reservation> {
        self.reservations.get(id).and_then(|change| change.after.clone())
    }

    fn put_reservation(&mut self, id: &ReservationId, after: Option<Reservation>) {
        self.reservations
            .entry(id.clone())
            .and_modify(|change| change.after.clone_from(&after))
            .or_insert(Change { before: None, after });
    }

    fn reserve(&mut self, reserve: &Reserve) -> Reserved {
        let expires = self.now.plus(reserve.lapses);
        match self.reservation(&reserve.id) {
            Some(known) if known.is_held(self.now) => {
                let held = Reservation { expires: known.expires.max(expires), ..known };
                self.put_reservation(&reserve.id, Some(held));
                return Reserved::Granted(self.usages(reserve));
            }
            Some(known) if known.status == Status::Settled => return Reserved::Granted(self.usages(reserve)),
            // Its time is over and nobody has looked yet.
            Some(known) if known.status == Status::Held => drop(self.lapse(&reserve.id)),
            // What was lost with a lapsed one counts as used; this is another try.
            _ => {}
        }
        let refusals: Vec<Refusal> = reserve
            .charges
            .iter()
            .filter_map(|charge| self.account(&charge.meter).refusal(charge, reserve.task, self.now))
            .collect();
        if let Some(mut refusal) = refusals.into_iter().reduce(later) {
            refusal.called = self.stand_in_line(reserve);
            return Reserved::Refused(refusal);
        }
        let (mut parts, mut usages) = (Vec::with_capacity(reserve.charges.len()), Vec::new());
        for charge in &reserve.charges {
            let mut account = self.account(&charge.meter);
            let (part, passed) = account.charge(charge, self.now);
            if charge.meter.window == Window::Places {
                account.line.enter(&reserve.id, reserve.task);
            }
            usages.push(super::Usage { passed, ..account.usage(charge.limit) });
            parts.push(part);
            self.put(account);
        }
        let (id, task) = (reserve.id.clone(), reserve.task);
        self.put_reservation(&reserve.id, Some(Reservation { id, task, parts, expires, status: Status::Held }));
        Reserved::Granted(usages)
    }

    /// Waits for the places that were refused; who else is called.
    fn stand_in_line(&mut self, reserve: &Reserve) -> Vec<TaskId> {
        let mut called = Vec::new();
        for charge in reserve.charges.iter().filter(|charge| charge.meter.window == Window::Places) {
            let mut account = self.account(&charge.meter);
            account.limit = Some(charge.limit);
            // However long it waits, it could not have so many.
            if charge.amount <= charge.limit && account.refusal(charge, reserve.task, self.now).is_some() {
                account.line.join(reserve.task, charge.amount, self.now);
            }
            called.extend(account.call(self.now).into_iter().filter(|task| *task != reserve.task));
            self.put(account);
        }
        called
    }

    fn usages(&self, reserve: &Reserve) -> Vec<super::Usage> {
        reserve.charges.iter().map(|charge| self.account(&charge.meter).usage(charge.limit)).collect()
    }

    fn settle(&mut self, settle: &Settle) -> Settled {
        let Some(known) = self.reservation(&settle.id) else { return Settled::default() };
        let mut called = Vec::new();
        let places_are_held = match known.status {
            Status::Settled => return Settled { found: true, called },
            Status::Held => true,
            Status::Lapsed => false,
        };
        for part in &known.parts {
            let named = settle.spent.iter().find(|(meter, _)| *meter == part.meter).map(|(_, spent)| *spent);
            match part.meter.window {
                Window::Places if places_are_held => {
                    self.free(&settle.id, part);
                    let mut account = self.account(&part.meter);
                    called.extend(account.call(self.now));
                    self.put(account);
                }
                Window::Places => {}
                Window::Total | Window::Idle(_) | Window::Every(_) => {
                    self.correct(part, named.unwrap_or(part.amount));
                }
            }
        }
        // One that was settled late has been looked at by then: it stays until it would have gone.
        let expires = if places_are_held { known.expires } else { known.due_at() };
        self.put_reservation(&settle.id, Some(Reservation { status: Status::Settled, expires, ..known }));
        Settled { found: true, called }
    }

    /// Gives places back.
    fn free(&mut self, id: &ReservationId, part: &Part) {
        let mut account = self.account(&part.meter);
        account.correct(part, 0);
        account.line.leave(id);
        self.put(account);
    }

    fn correct(&mut self, part: &Part, spent: u64) {
        let mut account = self.account(&part.meter);
        account.correct(part, spent);
        self.put(account);
    }

    /// A reservation whose time has come lapses, or is forgotten; whether it was that time.
    fn lapse(&mut self, id: &ReservationId) -> bool {
        let Some(known) = self.reservation(id).filter(|known| known.due_at() <= self.now) else { return false };
        if known.status != Status::Held {
            self.put_reservation(id, None);
            return true;
        }
        for part in known.parts.iter().filter(|part| part.meter.window == Window::Places) {
            self.free(id, part);
        }
        // With nothing but places there is nothing to be settled later.
        let counted = known.parts.iter().any(|part| part.meter.window != Window::Places);
        self.put_reservation(id, counted.then_some(Reservation { status: Status::Lapsed, ..known }));
        true
    }
}

/// Of two refusals, the one that stands in the way for longer.
fn later(one: Refusal, other: Refusal) -> Refusal {
    match (one.until, other.until) {
        (None, _) => one,
        (Some(_), None) => other,
        (Some(a), Some(b)) => {
            if b > a {
                other
            } else {
                one
            }
        }
    }
}

#[cfg(test)]
mod tests;
