//! A relay that stands still, as a value. Another relay can go on with the value, also in another process.

use std::fmt;

use bytes::Bytes;

use super::{Direction, Meter, Progress, Relay, Shortcut, Side};

/// A relay that stands still.
#[derive(Clone, Debug, PartialEq)]
pub struct Frozen {
    /// From the first side to the second.
    pub forth: FrozenDirection,
    /// From the second side to the first.
    pub back: FrozenDirection,
}

/// A direction that stands still.
#[derive(Clone, PartialEq)]
pub struct FrozenDirection {
    /// The bytes that were read and not written.
    pub pending: Bytes,
    /// How far the direction is.
    pub progress: Progress,
}

impl fmt::Debug for FrozenDirection {
    /// Leaves the bytes out, which are an application's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pending = self.pending.len();
        f.debug_struct("FrozenDirection")
            .field("pending", &pending)
            .field("progress", &self.progress)
            .finish()
    }
}

// === impl Relay ===

impl<A: Side, B: Side, M: Meter, S: Shortcut> Relay<'_, A, B, M, S> {
    /// Has the relay stand still between two polls. The value describes the relay until the next poll. The relay may go
    /// on as if nothing had happened, or another relay goes on with the value and this one is dropped.
    ///
    /// The result is `None` if a side is gone or a direction has failed. Such a relay ends soon and cannot be described.
    pub fn freeze(&mut self) -> Option<Frozen> {
        if self.fault.is_some() || self.check_gone() {
            return None;
        }
        self.meter.forward(std::mem::take(&mut self.forth.moved));
        self.meter.backward(std::mem::take(&mut self.back.moved));
        Some(Frozen { forth: self.forth.freeze()?, back: self.back.freeze()? })
    }

    /// Goes on where another relay stood still.
    pub fn resume(mut self, Frozen { forth, back }: Frozen) -> Self {
        self.forth.resume(forth);
        self.back.resume(back);
        self
    }
}

impl<'a, A, B, M, S> Relay<'a, A, B, M, S> {
    /// What counts the bytes.
    pub fn meter(&self) -> &'a M {
        self.meter
    }

    /// Both sides.
    pub fn sides(&self) -> (&A, &B) {
        (&self.a, &self.b)
    }

    /// Both sides, of a relay that stands still.
    pub fn sides_mut(&mut self) -> (&mut A, &mut B) {
        (&mut self.a, &mut self.b)
    }
}

// === impl Direction ===

impl<S: Shortcut> Direction<S> {
    fn freeze(&mut self) -> Option<FrozenDirection> {
        if self.gone || self.unsent || self.fault.is_some() {
            return None;
        }
        // What is on the way comes after what waits; one of the two is empty.
        if self.pending.is_empty() {
            self.pending = self.shortcut.take_held();
        }
        if self.shortcut.holds_bytes() {
            return None;
        }
        Some(FrozenDirection { pending: self.pending.clone(), progress: self.state })
    }

    fn resume(&mut self, FrozenDirection { pending, progress }: FrozenDirection) {
        (self.pending, self.state) = (pending, progress);
    }
}

#[cfg(test)]
mod tests;
