//! What carries values on its way into a store, or out of it.

use crate::journal::{Recorded, Slot, SlotMut, Submitted};
use crate::store::{Append, Next, Transcript};
use crate::task::Signal;

/// Something with slots.
pub(super) trait Carrier: Send {
    /// Visits every slot.
    fn slots(&self, visit: &mut dyn FnMut(Slot<'_>));
    /// Visits every slot, in the same order.
    fn slots_mut(&mut self, visit: &mut dyn FnMut(SlotMut<'_>));
}

impl Carrier for Submitted {
    fn slots(&self, visit: &mut dyn FnMut(Slot<'_>)) {
        visit(Slot::Value(&self.input));
    }

    fn slots_mut(&mut self, visit: &mut dyn FnMut(SlotMut<'_>)) {
        visit(SlotMut::Value(&mut self.input));
    }
}

impl Carrier for Append {
    fn slots(&self, visit: &mut dyn FnMut(Slot<'_>)) {
        for event in &self.events {
            event.slots(visit);
        }
        if let Next::Succeed { output } = &self.next {
            visit(Slot::Value(output));
        }
    }

    fn slots_mut(&mut self, visit: &mut dyn FnMut(SlotMut<'_>)) {
        for event in &mut self.events {
            event.slots_mut(visit);
        }
        if let Next::Succeed { output } = &mut self.next {
            visit(SlotMut::Value(output));
        }
    }
}

impl Carrier for Signal {
    fn slots(&self, visit: &mut dyn FnMut(Slot<'_>)) {
        self.slots(visit);
    }

    fn slots_mut(&mut self, visit: &mut dyn FnMut(SlotMut<'_>)) {
        self.slots_mut(visit);
    }
}

impl Carrier for Vec<Recorded> {
    fn slots(&self, visit: &mut dyn FnMut(Slot<'_>)) {
        for recorded in self {
            recorded.event.slots(visit);
        }
    }

    fn slots_mut(&mut self, visit: &mut dyn FnMut(SlotMut<'_>)) {
        for recorded in self {
            recorded.event.slots_mut(visit);
        }
    }
}

impl Carrier for Transcript {
    fn slots(&self, visit: &mut dyn FnMut(Slot<'_>)) {
        self.journal.slots(visit);
    }

    fn slots_mut(&mut self, visit: &mut dyn FnMut(SlotMut<'_>)) {
        self.journal.slots_mut(visit);
    }
}
