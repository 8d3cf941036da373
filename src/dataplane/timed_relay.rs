//! A relay with a clock: a side that is gone is noticed, and a connection one side of which is gone ends.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

use crate::protocols::relay::{
    Attention, ClientBytes, Meter, Relay, RelayError, Shortcut, Side, frozen::Frozen,
};

/// How often a relay checks for a loss that wakes no task, while such a loss is possible.
/// Limit: loss of a side while bytes wait for the other side: 500 ms until it is seen; past it: it is seen.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// How long a side may take no byte of a connection whose other side is gone.
/// Limit: connection one side of which is gone, without a byte that moves: 5 s; past it: the connection is dropped.
const STALLED_FOR: Duration = Duration::from_secs(5);
/// How long a side may take to read the rest of a connection whose other side is gone.
/// Limit: connection one side of which is gone: 300 s; past it: the connection is dropped.
const GONE_FOR: Duration = Duration::from_secs(300);

/// A relay that ends some time after one of its sides is gone.
#[must_use = "futures do nothing unless polled"]
pub(crate) struct TimedRelay<'a, A, B, M, S = ()> {
    relay: Relay<'a, A, B, M, S>,
    /// Boxed, because most connections need no clock.
    clock: Option<Box<Clock>>,
}

/// The clock of a relay that needs attention.
struct Clock {
    tick: Pin<Box<Sleep>>,
    gone: Option<Gone>,
    /// Whether the sides know that the connection is half-closed.
    half_closed: bool,
}

/// The time at which a side was found to be gone, and the time of the last progress.
#[derive(Clone, Copy)]
struct Gone {
    since: Instant,
    moved: Instant,
}

/// Gives `relay` a clock.
pub(crate) fn timed<A, B, M, S>(relay: Relay<'_, A, B, M, S>) -> TimedRelay<'_, A, B, M, S> {
    TimedRelay { relay, clock: None }
}

// === impl Clock ===

impl Clock {
    fn new() -> Box<Self> {
        Box::new(Self { tick: Box::pin(sleep(CHECK_INTERVAL)), gone: None, half_closed: false })
    }

    /// Waits for the next check.
    fn poll_tick(&mut self, cx: &mut Context<'_>) -> Poll<Instant> {
        ready!(self.tick.as_mut().poll(cx));
        let now = Instant::now();
        self.tick.as_mut().reset(now + CHECK_INTERVAL);
        Poll::Ready(now)
    }

    /// Whether the rest of a connection has had its time. `moved` tells whether bytes have moved since the last call.
    fn is_over(&mut self, now: Instant, moved: bool) -> bool {
        let gone = self.gone.get_or_insert(Gone { since: now, moved: now });
        if moved {
            gone.moved = now;
        }
        now - gone.moved >= STALLED_FOR || now - gone.since >= GONE_FOR
    }
}

// === impl TimedRelay ===

impl<A, B, M, S: Shortcut> TimedRelay<'_, A, B, M, S> {
    /// Starts the relay with what the first side has sent before.
    pub(crate) fn after(self, said: ClientBytes) -> Self {
        Self { relay: self.relay.after(said), ..self }
    }
}

impl<'a, A, B, M, S> TimedRelay<'a, A, B, M, S> {
    /// What counts the bytes.
    pub(crate) fn meter(&self) -> &'a M {
        self.relay.meter()
    }

    /// Both sides.
    pub(crate) fn sides(&self) -> (&A, &B) {
        self.relay.sides()
    }

    /// Both sides, to be changed.
    pub(crate) fn sides_mut(&mut self) -> (&mut A, &mut B) {
        self.relay.sides_mut()
    }
}

impl<A: Side, B: Side, M: Meter, S: Shortcut> TimedRelay<'_, A, B, M, S> {
    /// Has the relay stand still; see [`Relay::freeze`].
    pub(crate) fn freeze(&mut self) -> Option<Frozen> {
        self.relay.freeze()
    }

    /// Goes on where another relay stood still.
    pub(crate) fn resume(self, frozen: Frozen) -> Self {
        Self { relay: self.relay.resume(frozen), ..self }
    }
}

impl<A, B, M, S> Future for TimedRelay<'_, A, B, M, S>
where
    A: Side + Unpin,
    B: Side + Unpin,
    M: Meter,
    S: Shortcut + Unpin,
{
    type Output = Result<(), RelayError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            if let Poll::Ready(ended) = Pin::new(&mut this.relay).poll(cx) {
                return Poll::Ready(ended);
            }
            // A clock that is not needed any more is dropped at its next tick, as it may be needed again before.
            let attention = this.relay.attention();
            if attention == Attention::None && this.clock.is_none() {
                return Poll::Pending;
            }
            let clock = this.clock.get_or_insert_with(Clock::new);
            let now = ready!(clock.poll_tick(cx));
            let moved = this.relay.progressed();
            match attention {
                Attention::None => this.clock = None,
                Attention::Check => {
                    // Nearly all connections end before their first tick, and are spared the calls.
                    if this.relay.is_half_closed() && !std::mem::replace(&mut clock.half_closed, true) {
                        let (a, b) = this.relay.sides_mut();
                        a.keep_half_closed();
                        b.keep_half_closed();
                    }
                    this.relay.check_gone();
                }
                Attention::Deadline if clock.is_over(now, moved) => {
                    return Poll::Ready(Err(this.relay.give_up()));
                }
                Attention::Deadline => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
