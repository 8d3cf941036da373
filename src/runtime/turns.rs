//! Turns of handshakes on a shard: a few steps at a time, and one source after the other.
//!
//! A step of a handshake costs up to a millisecond, and a stranger may have as many handshakes as it opens connections.
//! A shard therefore takes a few steps, serves its other tasks and sockets, and then takes the next steps. Sources take
//! turns, so a source with many handshakes delays those of others by one step each.

use std::{cell::RefCell, collections::VecDeque, net::IpAddr, rc::Rc};

use foldhash::{HashMap, HashMapExt};
use tokio::{sync::oneshot, task::yield_now};

use super::shard::Shard;
use crate::protocols::tls::handshake::Turns;

/// The number of steps of handshakes that a shard takes before it serves its other tasks. With one step only, a busy
/// shard would not keep up with peers that all come back at once.
/// Limit: steps of handshakes in one turn of a shard: 4; past it: other tasks of the shard go first.
const STEPS_PER_TURN: usize = 4;

/// Where a handshake comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// A peer that has connected.
    Peer(IpAddr),
    /// A pod of this node that dials, by its serial number.
    Pod(u64),
}

/// The line of handshakes that wait for their turn on one shard. A handshake waits for as long as its own timeout.
#[derive(Default)]
struct Line(RefCell<Waiting>);

#[derive(Default)]
struct Waiting {
    /// The number of handshakes that have a turn.
    taken: usize,
    /// The sources that wait, in the order of their turns. Each source is listed once.
    order: VecDeque<Source>,
    /// The handshakes of each source, in the order in which they came. A handshake that ended has dropped its receiver.
    handshakes: HashMap<Source, VecDeque<oneshot::Sender<Turn>>>,
}

/// A turn. A drop passes the turn on.
struct Turn(Option<Rc<Line>>);

/// The turns of one source's handshakes on one shard.
pub(crate) struct SourceTurns {
    line: Rc<Line>,
    source: Source,
}

// === impl SourceTurns ===

impl SourceTurns {
    /// The turns of `source` on the calling shard.
    pub(crate) fn of(shard: &Shard, source: Source) -> Self {
        Self { line: shard.local(), source }
    }
}

impl Turns for SourceTurns {
    async fn take<T>(&self, step: impl FnOnce() -> T) -> T {
        let turn = Line::wait(&self.line, self.source).await;
        let done = step();
        // The turn is kept until the shard has looked at its sockets and has served the tasks that are ready.
        yield_now().await;
        drop(turn);
        done
    }
}

// === impl Line ===

impl Line {
    async fn wait(self: &Rc<Self>, source: Source) -> Turn {
        loop {
            let Some(turn) = self.join(source) else { return Turn(Some(self.clone())) };
            // The sender is dropped only together with the line.
            if let Ok(turn) = turn.await {
                return turn;
            }
        }
    }

    /// Takes a turn, or joins the line if no turn is left.
    fn join(&self, source: Source) -> Option<oneshot::Receiver<Turn>> {
        let mut waiting = self.0.borrow_mut();
        if waiting.taken < STEPS_PER_TURN {
            waiting.taken += 1;
            return None;
        }
        let (sender, turn) = oneshot::channel();
        let handshakes = waiting.handshakes.entry(source).or_default();
        handshakes.push_back(sender);
        if handshakes.len() == 1 {
            waiting.order.push_back(source);
        }
        Some(turn)
    }

    /// The next handshake in line. The turn is free again if nobody waits.
    fn next(&self) -> Option<oneshot::Sender<Turn>> {
        let waiting = &mut *self.0.borrow_mut();
        while let Some(source) = waiting.order.pop_front() {
            let Some(handshakes) = waiting.handshakes.get_mut(&source) else { continue };
            let next = handshakes.pop_front();
            if handshakes.is_empty() {
                waiting.handshakes.remove(&source);
            } else {
                waiting.order.push_back(source);
            }
            if next.is_some() {
                return next;
            }
        }
        // A burst leaves no memory behind.
        waiting.handshakes = HashMap::new();
        waiting.order = VecDeque::new();
        waiting.taken -= 1;
        None
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(line) = self.0.take() else { return };
        while let Some(next) = line.next() {
            match next.send(Self(Some(line.clone()))) {
                Ok(()) => return,
                // The handshake has ended meanwhile. Its turn must not pass itself on a second time.
                Err(mut unheard) => unheard.0 = None,
            }
        }
    }
}

#[cfg(test)]
mod tests;
