//! How an actor is reached.
//!
//! ractor says nothing of an actor's queue. Here every message travels in an [`Envelope`], and only an [`ActorRef`]
//! makes envelopes. It counts a message in before the message is sent, and the actor counts it out before it is handled.
//! An incarnation that ends takes its count along with its queue.

use std::{fmt, sync::Arc, time::Duration};

use ractor::{ActorCell, ActorId, ActorStatus, Message, MessagingErr, RpcReplyPort};
use tokio::{sync::oneshot, time::timeout};
use tracing::Span;

use super::{diagnostics::MailboxGauge, faults::Fault};

/// How long a reply may come after the end of its actor, which may have passed the reply port on.
/// Limit: reply after the end of the actor that was asked: 1 s; past it: the caller gets `Lost`.
const ANSWERS_AFTER_END: Duration = Duration::from_secs(1);

/// Reaches one incarnation of an actor. Clones are the same; it goes stale when the actor ends.
pub struct ActorRef<M> {
    actor: ractor::ActorRef<Envelope<M>>,
    gauge: Arc<MailboxGauge>,
}

/// The actor is gone: the message was not delivered, or will not be answered.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the actor is gone")]
pub struct Gone;

/// What an actor is sent.
pub(super) enum Envelope<M> {
    /// A message of the actor's own kind.
    Message {
        message: M,
        /// Where it was sent from.
        span: Span,
    },
    /// Something to act out in the handler. It is not counted.
    Fault(Fault),
    /// A question that the actor answers when its turn comes. It is not counted.
    Probe(oneshot::Sender<()>),
}

/// One incarnation of an actor, whatever its messages are: what its supervisor does to it.
pub(super) trait Incarnation: fmt::Debug + Send + Sync {
    /// Its id.
    fn actor_id(&self) -> ActorId;

    /// Has it stop what is below it, then itself, and clean up.
    fn shut_down(&self);

    /// Ends it at its next await.
    fn kill(&self);

    /// Has it act out `fault` when its turn comes.
    ///
    /// # Errors
    /// The actor is gone.
    fn inject(&self, fault: Fault) -> Result<(), Gone>;

    /// Has it answer when its turn comes.
    ///
    /// # Errors
    /// The actor is gone.
    fn probe(&self, answer: oneshot::Sender<()>) -> Result<(), Gone>;
}

// === impl ActorRef ===

impl<M> Clone for ActorRef<M> {
    fn clone(&self) -> Self {
        Self { actor: self.actor.clone(), gauge: self.gauge.clone() }
    }
}

impl<M> fmt::Debug for ActorRef<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActorRef").field("actor", &self.actor.get_id()).finish_non_exhaustive()
    }
}

impl<M: Message> ActorRef<M> {
    pub(super) fn new(actor: ractor::ActorRef<Envelope<M>>, gauge: Arc<MailboxGauge>) -> Self {
        Self { actor, gauge }
    }

    /// Sends without waiting. `Ok` does not mean that it will be handled.
    ///
    /// # Errors
    /// The actor is gone.
    pub fn cast(&self, message: M) -> Result<(), Gone> {
        self.send(message).map_err(|_| Gone)
    }

    /// Sends the message built around a reply port and waits for the reply, as long as the actor lives.
    ///
    /// # Errors
    /// The actor is gone, or has dropped the reply port.
    pub async fn call<T: Send + 'static>(
        &self,
        message: impl FnOnce(RpcReplyPort<T>) -> M,
    ) -> Result<T, Gone> {
        let (port, reply) = oneshot::channel();
        self.cast(message(port.into()))?;
        self.answer(reply).await
    }

    /// Waits for the reply to a message that was sent. A message that meets the end of its actor can stay in the closed
    /// queue, with its reply port, so the end is waited for, too.
    ///
    /// # Errors
    /// The actor has ended without a reply, or has dropped the reply port.
    pub(super) async fn answer<T>(&self, mut reply: oneshot::Receiver<T>) -> Result<T, Gone> {
        let actor = self.cell();
        let answered = tokio::select! {
            biased;
            answered = &mut reply => answered,
            _ = actor.wait(None) => timeout(ANSWERS_AFTER_END, reply).await.map_err(|_| Gone)?,
        };
        answered.map_err(|_| Gone)
    }

    /// Sends a message every `period`, until the actor ends.
    pub fn send_interval(&self, period: Duration, message: impl Fn() -> M + Send + 'static) {
        let gauge = self.gauge.clone();
        let make = move || {
            gauge.enter();
            Envelope::Message { message: message(), span: Span::none() }
        };
        // ractor ends the timer with the actor.
        drop(ractor::time::send_interval(period, self.actor.get_cell(), make));
    }

    /// Asks it to end once the handler it is in is done; what waits is discarded.
    pub fn stop(&self, reason: Option<String>) {
        self.actor.stop(reason);
    }

    /// Ends it at its next await.
    pub fn kill(&self) {
        self.actor.kill();
    }

    /// Whether it has not begun to end.
    pub fn is_up(&self) -> bool {
        !matches!(self.actor.get_status(), ActorStatus::Stopping | ActorStatus::Stopped)
    }

    /// How many messages wait.
    pub fn depth(&self) -> usize {
        self.gauge.depth()
    }

    /// The incarnation's id.
    pub fn id(&self) -> ActorId {
        self.actor.get_id()
    }

    /// Ends it, and waits until it has.
    #[cfg(test)]
    pub(crate) async fn killed(&self) {
        let ended = self.actor.get_cell().kill_and_wait(None).await;
        assert!(ended.is_ok(), "{ended:?}");
    }

    /// Stops it, and waits until it has ended.
    #[cfg(test)]
    pub(crate) async fn stopped(&self) {
        let ended = self.actor.get_cell().stop_and_wait(None, None).await;
        assert!(ended.is_ok(), "{ended:?}");
    }

    pub(super) fn cell(&self) -> ActorCell {
        self.actor.get_cell()
    }

    /// Sends; gives an undelivered message back if it can.
    pub(super) fn send(&self, message: M) -> Result<(), Option<M>> {
        // Before it is sent: the actor may be on another thread.
        self.gauge.enter();
        self.actor.send_message(Envelope::Message { message, span: Span::current() }).map_err(|error| {
            self.gauge.undo();
            match error {
                MessagingErr::SendErr(Envelope::Message { message, .. }) => Some(message),
                _ => None,
            }
        })
    }

    /// Sends what is not counted.
    fn post(&self, envelope: Envelope<M>) -> Result<(), Gone> {
        self.actor.send_message(envelope).map_err(|_| Gone)
    }
}

impl<M: Message> Incarnation for ActorRef<M> {
    fn actor_id(&self) -> ActorId {
        self.id()
    }

    fn shut_down(&self) {
        self.stop(None);
    }

    fn kill(&self) {
        self.actor.kill();
    }

    fn inject(&self, fault: Fault) -> Result<(), Gone> {
        self.post(Envelope::Fault(fault))
    }

    fn probe(&self, answer: oneshot::Sender<()>) -> Result<(), Gone> {
        self.post(Envelope::Probe(answer))
    }
}
