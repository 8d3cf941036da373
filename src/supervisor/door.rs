//! A side door into running actors: it reaches one that gets no messages, whatever its messages are.
//!
//! ractor hands an actor the events of actors linked to it, before any message. A knock is such an event, of an actor
//! that is linked for that one moment. The handler of the event looks at the [`Door`] of its node: there may be a
//! fault to suffer, and the answer says that the actor's loop turns.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, ActorRuntime, SupervisionEvent};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

use super::{faults::blow, snapshot::Node};

/// What an actor is made to suffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Its handler panics.
    Panic,
    /// Its handler does not return for so long. It can be killed meanwhile.
    Hang(Duration),
    /// It is late with everything: each message waits so much longer before it is handled, for so long.
    Slow {
        /// What is added to each message.
        each: Duration,
        /// How long this goes on.
        lasting: Duration,
    },
}

/// What a node's actor finds when somebody knocks.
#[derive(Debug, Default)]
pub(super) struct Door {
    fault: Mutex<Option<Fault>>,
    /// What each message is delayed by, and until when.
    drag: Mutex<Option<(Duration, Instant)>>,
    asked: AtomicU64,
    answered: AtomicU64,
    /// Looks of the watchdog since the last answer.
    silent: AtomicU32,
    heard: Notify,
}

/// A worker with a door. It is the worker in everything else.
pub(super) struct Reachable<A> {
    pub(super) actor: A,
    pub(super) node: Arc<Node>,
}

/// Who knocks: an actor that does nothing, linked to its target while it does.
pub(super) struct Knocker(ActorRef<Knock>);

struct Silent;

/// Tells a knock from the events of real children. Never sent.
enum Knock {}

// === impl Door ===

impl Door {
    /// Another incarnation is behind it: what was meant for the one before is void.
    pub(super) fn reset(&self) {
        *self.fault.lock() = None;
        *self.drag.lock() = None;
        self.answered.store(self.asked.load(Ordering::Relaxed), Ordering::Relaxed);
        self.silent.store(0, Ordering::Relaxed);
    }

    /// Leaves a fault for the next knock.
    pub(super) fn leave(&self, fault: Fault) {
        *self.fault.lock() = Some(fault);
    }

    /// A number for a question; the next knock answers it.
    pub(super) fn ask(&self) -> u64 {
        self.asked.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Settles question `number` and those before it.
    pub(super) fn settle(&self, number: u64) {
        self.answered.fetch_max(number, Ordering::Relaxed);
        self.heard.notify_waiters();
    }

    /// Whether every question has been answered.
    pub(super) fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed) >= self.asked.load(Ordering::Relaxed)
    }

    /// Counts the looks at a question that is not answered; 0 if all are.
    pub(super) fn silence(&self) -> u32 {
        if self.is_answered() {
            self.silent.store(0, Ordering::Relaxed);
            return 0;
        }
        self.silent.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Resolves when question `number` is answered.
    pub(super) async fn answer_to(&self, number: u64) {
        loop {
            let heard = self.heard.notified();
            if self.answered.load(Ordering::Relaxed) >= number {
                return;
            }
            heard.await;
        }
    }

    /// What the actor does when it hears a knock.
    pub(super) async fn open(&self, path: &str) {
        let asked = self.asked.load(Ordering::Relaxed);
        let fault = self.fault.lock().take();
        match fault {
            Some(Fault::Panic) => blow(path),
            Some(Fault::Hang(time)) => sleep(time).await,
            Some(Fault::Slow { each, lasting }) => *self.drag.lock() = Some((each, Instant::now() + lasting)),
            None => {}
        }
        self.settle(asked);
    }

    /// What the actor does before it handles a message: nothing, unless it was made slow.
    pub(super) async fn drag(&self) {
        let each = {
            let mut drag = self.drag.lock();
            *drag = drag.filter(|(_, until)| Instant::now() < *until);
            drag.map(|(each, _)| each)
        };
        if let Some(each) = each {
            sleep(each).await;
        }
    }
}

/// Whether an event is a knock.
pub(super) fn is_knock(event: &SupervisionEvent) -> bool {
    let SupervisionEvent::ActorStarted(who) = event else { return false };
    who.is_message_type_of::<Knock>() == Some(true)
}

// === impl Reachable ===

impl<A: Actor> Actor for Reachable<A> {
    type Msg = A::Msg;
    type State = A::State;
    type Arguments = A::Arguments;

    fn pre_start(
        &self,
        myself: ActorRef<A::Msg>,
        arguments: A::Arguments,
    ) -> impl Future<Output = Result<A::State, ActorProcessingErr>> + Send {
        self.actor.pre_start(myself, arguments)
    }

    fn post_start(
        &self,
        myself: ActorRef<A::Msg>,
        state: &mut A::State,
    ) -> impl Future<Output = Result<(), ActorProcessingErr>> + Send {
        self.actor.post_start(myself, state)
    }

    fn post_stop(
        &self,
        myself: ActorRef<A::Msg>,
        state: &mut A::State,
    ) -> impl Future<Output = Result<(), ActorProcessingErr>> + Send {
        self.actor.post_stop(myself, state)
    }

    async fn handle(
        &self,
        myself: ActorRef<A::Msg>,
        message: A::Msg,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        self.node.door.drag().await;
        self.actor.handle(myself, message, state).await
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<A::Msg>,
        event: SupervisionEvent,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        if is_knock(&event) {
            self.node.door.open(&self.node.path).await;
            return Ok(());
        }
        self.actor.handle_supervisor_evt(myself, event, state).await
    }
}

// === impl Knocker ===

impl Actor for Silent {
    type Msg = Knock;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Knock>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

impl Knocker {
    /// A knocker, on the current tokio runtime; nothing if that cannot be.
    pub(super) fn new() -> Option<Self> {
        ActorRuntime::spawn_instant(None, Silent, ()).ok().map(|(actor, _)| Self(actor))
    }

    /// Knocks. Not heard by an actor that is ending, nor if this knocker died with one it knocked at.
    pub(super) fn knock(&self, target: &ActorCell) -> bool {
        let knocker = self.0.get_cell();
        knocker.link(target.clone());
        let linked = knocker.try_get_supervisor().as_ref() == Some(target);
        if linked {
            knocker.notify_supervisor(SupervisionEvent::ActorStarted(knocker.clone()));
            knocker.unlink(target.clone());
        }
        linked
    }
}

impl Drop for Knocker {
    fn drop(&mut self) {
        self.0.kill();
    }
}
