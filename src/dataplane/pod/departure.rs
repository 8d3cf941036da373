//! The way of a connection out of this process: its task offers the connection, and learns whether another process has
//! taken it.

use std::os::fd::OwnedFd;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::protocols::handover::{
    record::{Record, SOCKETS},
    tunnel::TunnelRecord,
};

/// A connection that stands still and is offered to another process.
#[derive(Debug)]
pub(crate) struct Offer {
    /// The connection as a value. The pods are left out, except for the uid of the server's pod of a local connection.
    pub(crate) record: Record,
    /// The sockets of the client and of the server, under descriptors of their own.
    pub(crate) sockets: [OwnedFd; SOCKETS],
    /// The answer, for which the connection waits. A drop is [`Answer::Kept`].
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// A tunnel that stands still and is offered to another process.
#[derive(Debug)]
pub(crate) struct TunnelOffer {
    /// The tunnel as a value. The pod is left out.
    pub(crate) record: TunnelRecord,
    /// The sockets of the tunnel and of the streams' applications, under descriptors of their own.
    pub(crate) sockets: Vec<OwnedFd>,
    /// The answer, for which the tunnel waits. A drop is [`Answer::Kept`].
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// What became of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Another process has the connection. This process must not touch it any more.
    Taken,
    /// The connection stays, and nobody else has touched it.
    Kept,
}

/// The place where the task of a connection or tunnel finds to whom it makes its offer.
#[derive(Debug)]
pub(crate) struct Departure<O = Offer>(Mutex<Option<oneshot::Sender<O>>>);

// === impl Departure ===

impl<O> Departure<O> {
    /// Has the next offer go to the returned receiver. A receiver that is dropped is offered nothing.
    pub(crate) fn open(&self) -> oneshot::Receiver<O> {
        let (offers, offered) = oneshot::channel();
        *self.0.lock() = Some(offers);
        offered
    }

    /// Where the offer goes, once.
    pub(crate) fn take(&self) -> Option<oneshot::Sender<O>> {
        self.0.lock().take()
    }
}

impl<O> Default for Departure<O> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}
