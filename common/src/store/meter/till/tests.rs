#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::id::{MeterName, TaskId};
use crate::span::Span;
use crate::store::meter::{Charge, LATE_SETTLEMENT, LONGEST_HOLD_BACK};

const MINUTE: Span = Span::from_secs(60);
const TOTAL: Window = Window::Total;
const EVERY: Window = Window::Every(MINUTE);
const IDLE: Window = Window::Idle(MINUTE);
const PLACES: Window = Window::Places;
const LAPSES: Duration = Duration::from_secs(600);

/// What a store would keep, with a time.
#[derive(Default)]
struct Kept {
    now: i64,
    accounts: BTreeMap<Meter, Account>,
    reservations: BTreeMap<ReservationId, Reservation>,
}

fn meter(name: &str, window: Window) -> Meter {
    Meter { name: MeterName::new(name).unwrap(), window }
}

fn id(name: &str) -> ReservationId {
    ReservationId::new(name).unwrap()
}

fn charge(name: &str, window: Window, limit: u64, amount: u64) -> Charge {
    Charge { meter: meter(name, window), limit, amount }
}

impl Kept {
    fn order(&mut self, order: &Order) -> Answer {
        let mut till = Till::new(self.now());
        loop {
            let missing = till.missing([order]);
            if missing.is_empty() {
                break;
            }
            for id in missing.reservations {
                till.load_reservation(id.clone(), self.reservations.get(&id).cloned());
            }
            for meter in missing.meters {
                till.load_account(meter.clone(), self.accounts.get(&meter).cloned());
            }
        }
        let answer = till.perform(order);
        let changes = till.into_changes();
        for (meter, change) in changes.accounts {
            assert_eq!(self.accounts.get(&meter), change.before.as_ref());
            match change.after {
                Some(account) => self.accounts.insert(meter, account),
                None => self.accounts.remove(&meter),
            };
        }
        for (id, change) in changes.reservations {
            match change.after {
                Some(reservation) => self.reservations.insert(id, reservation),
                None => self.reservations.remove(&id),
            };
        }
        answer
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.now)
    }

    fn reserve(&mut self, name: &str, charges: Vec<Charge>) -> Reserved {
        let task = TaskId::new(Timestamp::default(), [0; 10]);
        let reserve = Reserve { id: id(name), task, charges, lapses: LAPSES };
        reserve.check().unwrap();
        self.order(&Order::Reserve(reserve)).reserved().unwrap()
    }

    fn granted(&mut self, name: &str, charge: Charge) -> bool {
        matches!(self.reserve(name, vec![charge]), Reserved::Granted(_))
    }

    fn refused(&mut self, name: &str, charges: Vec<Charge>) -> Refusal {
        match self.reserve(name, charges) {
            Reserved::Refused(refusal) => refusal,
            Reserved::Granted(usage) => panic!("granted: {usage:?}"),
        }
    }

    fn settle(&mut self, name: &str, spent: &[(Meter, u64)]) -> bool {
        self.order(&Order::Settle(Settle { id: id(name), spent: spent.to_vec() })).settled().unwrap().found
    }

    fn used(&self, meter: &Meter) -> u64 {
        self.accounts.get(meter).map_or(0, |account| account.clone().at(self.now()).used)
    }

    fn advance(&mut self, by: Duration) {
        self.now += i64::try_from(by.as_millis()).unwrap();
    }

    /// What a store does by itself.
    fn sweep(&mut self) {
        let reservations: Vec<_> = self.reservations.keys().cloned().collect();
        for id in reservations {
            self.order(&Order::Lapse(id));
        }
        let meters: Vec<_> = self.accounts.keys().cloned().collect();
        for meter in meters {
            self.order(&Order::Close(meter));
        }
    }
}

#[test]
fn what_is_not_used_is_given_back_and_what_is_used_beyond_is_added() {
    let mut kept = Kept::default();
    let total = meter("t", TOTAL);
    assert!(kept.granted("a", charge("t", TOTAL, 100, 60)));
    assert!(!kept.granted("b", charge("t", TOTAL, 100, 60)));
    assert!(kept.settle("a", &[(total.clone(), 10)]));
    assert_eq!(kept.used(&total), 10);
    assert!(kept.granted("b", charge("t", TOTAL, 100, 60)));
    assert!(kept.settle("b", &[(total.clone(), 500)]), "the truth counts");
    assert_eq!(kept.used(&total), 510);
    assert!(!kept.granted("c", charge("t", TOTAL, 100, 1)));
    assert!(kept.granted("c", charge("t", TOTAL, 1_000, 1)), "an operator raised it");
}

#[test]
fn a_repeated_settlement_changes_nothing_and_an_unknown_one_is_not_found() {
    let mut kept = Kept::default();
    let total = meter("t", TOTAL);
    assert!(kept.granted("a", charge("t", TOTAL, 100, 60)));
    assert!(kept.settle("a", &[(total.clone(), 10)]) && kept.settle("a", &[(total.clone(), 50)]));
    assert_eq!(kept.used(&total), 10);
    assert!(!kept.settle("z", &[(total, 10)]));
}

#[test]
fn a_repeated_reservation_charges_nothing_also_after_it_was_settled() {
    let mut kept = Kept::default();
    let total = meter("t", TOTAL);
    for _ in 0..3 {
        assert!(kept.granted("a", charge("t", TOTAL, 100, 60)));
        assert_eq!(kept.used(&total), 60);
    }
    kept.settle("a", &[(total.clone(), 10)]);
    assert!(kept.granted("a", charge("t", TOTAL, 100, 60)));
    assert_eq!(kept.used(&total), 10);
}

#[test]
fn asking_again_holds_it_for_longer() {
    let mut kept = Kept::default();
    assert!(kept.granted("a", charge("p", PLACES, 1, 1)));
    kept.advance(LAPSES / 2);
    assert!(kept.granted("a", charge("p", PLACES, 1, 1)));
    kept.advance(LAPSES / 2);
    kept.sweep();
    assert!(!kept.granted("b", charge("p", PLACES, 1, 1)));
    kept.advance(LAPSES / 2);
    kept.sweep();
    assert!(kept.granted("b", charge("p", PLACES, 1, 1)));
    assert!(!kept.granted("a", charge("p", PLACES, 1, 1)), "its place has gone to another");
}

#[test]
fn a_window_turns_at_full_multiples_and_late_settlements_of_the_one_before_count_nothing() {
    let mut kept = Kept { now: 59_000, ..Kept::default() };
    let every = meter("m", EVERY);
    assert!(kept.granted("a", charge("m", EVERY, 10, 8)));
    let refusal = kept.refused("b", vec![charge("m", EVERY, 10, 8)]);
    assert_eq!(refusal.until, Some(Timestamp::from_millis(60_000)));
    assert_eq!((refusal.usage.used, refusal.usage.limit), (8, 10));
    assert_eq!(kept.refused("b", vec![charge("m", EVERY, 10, 11)]).until, None, "no window is wide enough");
    kept.now = 60_000;
    assert!(kept.granted("b", charge("m", EVERY, 10, 8)));
    assert!(kept.settle("a", &[(every.clone(), 1)]));
    assert_eq!(kept.used(&every), 8);
    kept.now = 59_999;
    assert!(!kept.granted("c", charge("m", EVERY, 10, 8)), "a clock that goes back turns no window back");
}

#[test]
fn all_or_nothing_and_the_longest_wait_is_told() {
    let mut kept = Kept { now: 30_000, ..Kept::default() };
    assert!(kept.granted("a", charge("t", TOTAL, 10, 10)));
    let both = vec![charge("m", EVERY, 10, 1), charge("t", TOTAL, 10, 1)];
    let refusal = kept.refused("b", both);
    assert_eq!((refusal.usage.meter.clone(), refusal.until), (meter("t", TOTAL), None));
    assert_eq!(kept.used(&meter("m", EVERY)), 0);
    assert!(kept.granted("c", charge("m", EVERY, 10, 10)));
    let hour = Window::Every(Span::from_secs(3_600));
    assert!(kept.granted("d", charge("m", hour, 1, 1)));
    let refusal = kept.refused("e", vec![charge("m", EVERY, 10, 1), charge("m", hour, 1, 1)]);
    assert_eq!(refusal.until, Some(Timestamp::from_millis(3_600_000)));
}

#[test]
fn what_lapses_frees_its_places_and_counts_its_worst_case() {
    let mut kept = Kept::default();
    let total = meter("t", TOTAL);
    kept.reserve("a", vec![charge("p", PLACES, 1, 1), charge("t", TOTAL, 100, 60)]);
    kept.advance(LAPSES);
    kept.sweep();
    assert_eq!((kept.used(&meter("p", PLACES)), kept.used(&total)), (0, 60));
    assert!(kept.granted("b", charge("p", PLACES, 1, 1)));
    assert!(kept.settle("a", &[(total.clone(), 5)]), "late is better than never");
    assert_eq!((kept.used(&meter("p", PLACES)), kept.used(&total)), (1, 5));
    kept.advance(LATE_SETTLEMENT);
    kept.sweep();
    assert!(kept.reservations.is_empty());
}

#[test]
fn another_try_of_what_lapsed_is_charged_anew() {
    let mut kept = Kept::default();
    assert!(kept.granted("a", charge("t", TOTAL, 100, 40)));
    kept.advance(LAPSES);
    assert!(kept.granted("a", charge("t", TOTAL, 100, 40)), "nobody had looked yet");
    assert_eq!(kept.used(&meter("t", TOTAL)), 80);
    assert!(kept.granted("a", charge("t", TOTAL, 100, 40)), "and now it is held");
    kept.advance(LAPSES);
    kept.sweep();
    assert!(!kept.granted("a", charge("t", TOTAL, 100, 40)));
}

#[test]
fn a_meter_that_is_held_back_grants_nothing_until_then() {
    let mut kept = Kept::default();
    let every = meter("m", EVERY);
    let until = Timestamp::from_millis(90_000);
    kept.order(&Order::HoldBack(every.clone(), until));
    kept.order(&Order::HoldBack(every.clone(), Timestamp::from_millis(70_000)));
    assert_eq!(kept.refused("a", vec![charge("m", EVERY, 10, 1)]).until, Some(until));
    kept.now = 61_000;
    kept.sweep();
    assert_eq!(kept.refused("a", vec![charge("m", EVERY, 10, 1)]).until, Some(until), "a new window changes nothing");
    kept.now = 90_000;
    assert!(kept.granted("a", charge("m", EVERY, 10, 1)));
    kept.order(&Order::HoldBack(every.clone(), Timestamp::from_millis(i64::MAX)));
    let capped = kept.now().plus(LONGEST_HOLD_BACK);
    assert_eq!(kept.refused("b", vec![charge("m", EVERY, 10, 1)]).until, Some(capped));
    kept.advance(LONGEST_HOLD_BACK);
    kept.sweep();
    assert!(kept.accounts.is_empty());
}

#[test]
fn a_budget_of_what_comes_to_an_end_is_forgotten_when_nothing_is_charged_any_more() {
    let mut kept = Kept::default();
    for name in ["a", "b", "c"] {
        kept.advance(MINUTE.get() / 2);
        kept.sweep();
        assert!(kept.granted(name, charge("i", IDLE, 3, 1)));
    }
    assert!(!kept.granted("d", charge("i", IDLE, 3, 1)));
    kept.advance(MINUTE.get());
    kept.sweep();
    assert!(kept.accounts.is_empty());
    assert!(kept.granted("d", charge("i", IDLE, 3, 1)));
}

proptest! {
    /// Whatever happens in whatever order: nothing is granted beyond a limit, and what is counted is what was
    /// granted, settled and not given back.
    #[test]
    fn limits_hold_and_sums_are_right(steps in prop::collection::vec((0..6_u8, 0..6_u8, 0..40_u64, 0..90_u64), 1..120)) {
        let mut kept = Kept::default();
        let (total, places) = (meter("t", TOTAL), meter("p", PLACES));
        // What each reservation counts for on the budget, and whether it holds a place.
        let mut model: BTreeMap<String, (u64, bool)> = BTreeMap::new();
        let mut lost = 0;
        for (what, who, amount, seconds) in steps {
            let name = format!("r{who}");
            match what {
                0..=2 => {
                    let before = kept.reservations.get(&id(&name)).cloned();
                    let charges = vec![charge("t", TOTAL, 100, amount), charge("p", PLACES, 2, 1)];
                    let granted = matches!(kept.reserve(&name, charges), Reserved::Granted(_));
                    let repeated = before.as_ref().is_some_and(|before| {
                        before.is_held(kept.now()) || before.status == Status::Settled
                    });
                    prop_assert!(granted || !repeated);
                    if let Some(known) = model.get_mut(&name).filter(|_| !repeated) {
                        known.1 = false;
                    }
                    if granted && !repeated {
                        // What it held before, when its time was over, nobody can give back any more.
                        lost += model.insert(name, (amount, true)).map_or(0, |(counted, _)| counted);
                        prop_assert!(kept.used(&total) <= 100, "beyond the limit");
                    }
                }
                3 => {
                    let before = kept.reservations.get(&id(&name)).map(|known| known.status);
                    kept.settle(&name, &[(total.clone(), amount)]);
                    if matches!(before, Some(Status::Held | Status::Lapsed)) {
                        model.insert(name, (amount, false));
                    }
                }
                _ => {
                    kept.advance(Duration::from_secs(seconds));
                    kept.sweep();
                    for (name, (counted, place)) in &mut model {
                        let known = kept.reservations.get(&id(name));
                        *place = known.is_some_and(|known| known.status == Status::Held);
                        if known.is_none() {
                            lost += std::mem::take(counted);
                        }
                    }
                    model.retain(|name, _| kept.reservations.contains_key(&id(name)));
                }
            }
            let held = model.values().filter(|(_, place)| *place).count() as u64;
            let counted: u64 = model.values().map(|(counted, _)| counted).sum();
            prop_assert_eq!(kept.used(&places), held);
            prop_assert!(kept.used(&places) <= 2);
            prop_assert_eq!(kept.used(&total), counted + lost);
        }
    }
}
