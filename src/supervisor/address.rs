//! Addresses: how an actor is reached, whichever incarnation of it runs.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ractor::{ActorId, Message, RpcReplyPort};
use tokio::sync::{oneshot, watch};

use super::actor_ref::{ActorRef, Gone};

/// Reaches the actor that is behind it now. An [`ActorRef`] goes stale when its actor is restarted; this does not.
///
/// ractor's mailboxes are unbounded: whoever casts because a peer said so must bound how many casts are outstanding.
pub struct Address<M> {
    name: Arc<str>,
    current: watch::Sender<Option<ActorRef<M>>>,
    /// No other incarnation will be behind it.
    retired: Arc<AtomicBool>,
}

/// Why a message got no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Nobody is behind the address: the message was not delivered.
    #[error("{name} is down")]
    Down {
        /// The address.
        name: Arc<str>,
    },
    /// The actor took the message and has not answered in time.
    #[error("{name} did not answer within {after:?}")]
    TimedOut {
        /// The address.
        name: Arc<str>,
        /// How long the caller waited in all.
        after: Duration,
    },
    /// The actor died with the message, or dropped its reply port. It may have acted on it.
    #[error("{name} was lost while answering")]
    Lost {
        /// The address.
        name: Arc<str>,
    },
}

// === impl Address ===

impl<M> Clone for Address<M> {
    fn clone(&self) -> Self {
        Self { name: self.name.clone(), current: self.current.clone(), retired: self.retired.clone() }
    }
}

impl<M> fmt::Debug for Address<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Address").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<M: Message> Address<M> {
    /// An address with nobody behind it yet. The name is for errors; it need not be unique.
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), current: watch::Sender::new(None), retired: Arc::default() }
    }

    /// The name given to [`Address::new`].
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Puts `actor` behind the address, in place of its former incarnation. Supervisors do this after each start.
    pub fn publish(&self, actor: ActorRef<M>) {
        self.current.send_replace(Some(actor));
    }

    /// No other incarnation will be put behind the address: once its actor has ended, calls fail at once. An actor that
    /// ends for good calls this first; otherwise callers would wait for a restart.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        self.current.send_modify(|_| ());
    }

    /// The actor behind the address, dead or alive; goes stale at the next restart, so do not keep it.
    pub fn current(&self) -> Option<ActorRef<M>> {
        self.current.borrow().clone()
    }

    /// The id of the current incarnation: another one means a restart has happened.
    pub fn actor_id(&self) -> Option<ActorId> {
        self.current.borrow().as_ref().map(ActorRef::id)
    }

    /// Sends without waiting.
    ///
    /// # Errors
    /// [`AddressError::Down`] at once if nobody is behind the address. `Ok` does not mean it will be handled.
    pub fn cast(&self, message: M) -> Result<(), AddressError> {
        match &*self.current.borrow() {
            Some(actor) => actor.cast(message).map_err(|_| self.down()),
            None => Err(self.down()),
        }
    }

    /// Sends the message built around a reply port and waits for the reply. If the actor is down, waits for its
    /// restart first; all within `timeout`.
    ///
    /// # Errors
    /// - `Down`: no restart came in time, or none will; the message was not delivered;
    /// - `TimedOut`: it was delivered and not answered in time;
    /// - `Lost`: the actor died with it.
    pub async fn call<T: Send + 'static>(
        &self,
        timeout: Duration,
        message: impl FnOnce(RpcReplyPort<T>) -> M,
    ) -> Result<T, AddressError> {
        let (port, reply) = oneshot::channel();
        let message = message((port, timeout).into());
        let mut delivered = false;
        let answered = tokio::time::timeout(timeout, async {
            let actor = self.deliver(message).await?;
            delivered = true;
            actor.answer(reply).await.map_err(|Gone| AddressError::Lost { name: self.name.clone() })
        })
        .await;
        match answered {
            Ok(answer) => answer,
            Err(_) if delivered => Err(AddressError::TimedOut { name: self.name.clone(), after: timeout }),
            Err(_) => Err(self.down()),
        }
    }

    async fn deliver(&self, mut message: M) -> Result<ActorRef<M>, AddressError> {
        let mut incarnations = self.current.subscribe();
        loop {
            let actor = incarnations.borrow_and_update().clone();
            if let Some(actor) = actor {
                match actor.send(message) {
                    Ok(()) => return Ok(actor),
                    Err(Some(undelivered)) => message = undelivered,
                    Err(None) => return Err(self.down()),
                }
            }
            if self.retired.load(Ordering::Acquire) {
                return Err(self.down());
            }
            incarnations.changed().await.map_err(|_| self.down())?;
        }
    }

    fn down(&self) -> AddressError {
        AddressError::Down { name: self.name.clone() }
    }
}
