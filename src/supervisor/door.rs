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
use ractor::{
    Actor as _, ActorCell, ActorProcessingErr, ActorRef, ActorRuntime, SpawnErr, SupervisionEvent,
    concurrency::JoinHandle,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};
use tracing::{Instrument, Span};

use super::{
    faults::blow,
    mailbox::{Actor, Described, Letter, Mailbox, Queue},
    record::Handling,
    snapshot::Node,
};

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

/// An actor with a door and a flight recorder. It is the actor in everything else.
pub(super) struct Reachable<A> {
    actor: A,
    node: Arc<Node>,
    queue: Arc<Queue>,
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

    /// Whether a fault waits for the next knock.
    fn has_fault(&self) -> bool {
        self.fault.lock().is_some()
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
fn is_knock(event: &SupervisionEvent) -> bool {
    let SupervisionEvent::ActorStarted(who) = event else { return false };
    who.is_message_type_of::<Knock>() == Some(true)
}

// === impl Reachable ===

impl<A: Actor> Reachable<A> {
    pub(super) fn new(actor: A, node: Arc<Node>) -> Self {
        let queue = node.record.begin();
        Self { actor, node, queue }
    }

    /// Starts it under `supervisor`; a root has none.
    pub(super) async fn start(
        self,
        arguments: A::Arguments,
        supervisor: Option<ActorCell>,
    ) -> Result<(Mailbox<A::Msg>, JoinHandle<()>), SpawnErr> {
        let queue = self.queue.clone();
        let (actor, ended) = match supervisor {
            // No name: ractor's registry is one for the process, and two trees must not collide.
            Some(supervisor) => Self::spawn_linked(None, self, arguments, supervisor).await?,
            None => Self::spawn(None, self, arguments).await?,
        };
        Ok((Mailbox::new(actor, queue), ended))
    }

    fn mailbox(&self, actor: ActorRef<Letter<A::Msg>>) -> Mailbox<A::Msg> {
        Mailbox::new(actor, self.queue.clone())
    }

    /// Records what happens outside of a message's handler.
    fn outside(&self, what: &'static str) -> Handling<'_> {
        self.node.record.handling(what, Duration::ZERO, Span::none())
    }
}

impl<A: Actor> ractor::Actor for Reachable<A> {
    type Msg = Letter<A::Msg>;
    type State = A::State;
    type Arguments = A::Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: A::Arguments,
    ) -> Result<A::State, ActorProcessingErr> {
        self.actor.pre_start(self.mailbox(myself), arguments).await
    }

    async fn post_start(
        &self,
        myself: ActorRef<Self::Msg>,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        let handling = self.outside("post-start");
        let done = self.actor.post_start(self.mailbox(myself), state).await;
        handling.done();
        done
    }

    async fn post_stop(
        &self,
        myself: ActorRef<Self::Msg>,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        let handling = self.outside("post-stop");
        let done = self.actor.post_stop(self.mailbox(myself), state).await;
        handling.done();
        done
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        Letter { message, span }: Self::Msg,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        let waited = self.queue.leave().map_or(Duration::ZERO, |sent| sent.elapsed());
        let handling = self.node.record.handling(message.kind(), waited, span.clone());
        self.node.door.drag().await;
        let done = self.actor.handle(self.mailbox(myself), message, state).instrument(span).await;
        handling.done();
        done
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        if is_knock(&event) {
            let handling = self.node.door.has_fault().then(|| self.outside("injected-fault"));
            self.node.door.open(&self.node.path).await;
            if let Some(handling) = handling {
                handling.done();
            }
            return Ok(());
        }
        let handling = match &event {
            SupervisionEvent::ActorFailed(..) => Some(self.outside("child-failed")),
            SupervisionEvent::ActorTerminated(..) => Some(self.outside("child-ended")),
            _ => None,
        };
        let done = self.actor.handle_supervisor_evt(self.mailbox(myself), event, state).await;
        if let Some(handling) = handling {
            handling.done();
        }
        done
    }
}

/// Runs an actor without a supervisor.
#[cfg(test)]
pub(crate) async fn run_alone<A: Actor>(
    actor: A,
    arguments: A::Arguments,
) -> Result<Mailbox<A::Msg>, SpawnErr> {
    let spec = super::SupervisorSpec::new("alone", super::Strategy::OneForOne);
    let node = Node::root(&spec.into(), |_| None);
    Reachable::new(actor, node).start(arguments, None).await.map(|(mailbox, _)| mailbox)
}

// === impl Knocker ===

impl ractor::Actor for Silent {
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
