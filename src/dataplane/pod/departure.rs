//! The way of a connection out of this process: its task offers the connection, and learns whether another process has
//! taken it.

use std::os::fd::OwnedFd;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::protocols::handover::record::{Record, SOCKETS};

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

/// What became of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Another process has the connection. This process must not touch it any more.
    Taken,
    /// The connection stays, and nobody else has touched it.
    Kept,
}

/// The place where the task of a connection finds to whom it offers the connection.
#[derive(Debug, Default)]
pub(crate) struct Departure(Mutex<Option<oneshot::Sender<Offer>>>);

// === impl Departure ===

impl Departure {
    /// Has the next offer go to the returned receiver. A receiver that is dropped is offered nothing.
    pub(crate) fn open(&self) -> oneshot::Receiver<Offer> {
        let (offers, offered) = oneshot::channel();
        *self.0.lock() = Some(offers);
        offered
    }

    /// Where the offer goes, once.
    pub(crate) fn take(&self) -> Option<oneshot::Sender<Offer>> {
        self.0.lock().take()
    }
}
