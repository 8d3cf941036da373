//! The way of a connection out of this process: its task offers the connection, and learns whether another process has
//! taken it.

use std::os::fd::OwnedFd;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::protocols::{
    handover::{
        record::{Record, SOCKETS},
        tunnel::TunnelRecord,
    },
    hbone::frozen::NotStill,
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

/// Why a connection or tunnel cannot move now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Stays {
    /// Its task had no turn in time, or has ended.
    #[error("its shard is busy")]
    Busy,
    /// It has ended in one direction at least, and the rest is on its way.
    #[error("it is about to end")]
    Ends,
    /// A socket cannot be had a second time.
    #[error("no descriptor is left")]
    Descriptors,
    /// The peer may still open streams.
    #[error("its peer has not heard yet that the tunnel goes away")]
    Goodbye,
    /// It has no streams, and ends without them.
    #[error("it has no streams")]
    Unused,
    /// Streams are being set up.
    #[error("streams are being set up")]
    SettingUp,
    /// The relays of its streams have not come to stand still in time.
    #[error("its streams do not stand still")]
    Relays,
    /// HTTP/2 has not come to stand still in time.
    #[error("a frame is half way")]
    Frame,
    /// HTTP/2 is not as the streams are.
    #[error("{0}")]
    Http2(#[from] NotStill),
    /// It has more streams than a message has room for.
    #[error("it has too many streams")]
    TooMany,
}

/// Where an offer goes, or why there is none.
pub(crate) type Offers<O> = oneshot::Sender<Result<O, Stays>>;

/// The place where the task of a connection or tunnel finds to whom it makes its offer.
#[derive(Debug)]
pub(crate) struct Departure<O = Offer>(Mutex<Option<Offers<O>>>);

// === impl Departure ===

impl<O> Departure<O> {
    /// Has the next offer go to the returned receiver. A receiver that is dropped is offered nothing.
    pub(crate) fn open(&self) -> oneshot::Receiver<Result<O, Stays>> {
        let (offers, offered) = oneshot::channel();
        *self.0.lock() = Some(offers);
        offered
    }

    /// Where the offer goes, once.
    pub(crate) fn take(&self) -> Option<Offers<O>> {
        self.0.lock().take()
    }
}

impl<O> Default for Departure<O> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}
