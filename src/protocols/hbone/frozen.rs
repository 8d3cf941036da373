//! An HTTP/2 connection that stands still, as a value. Another process can go on with it (`adopted.rs`).

use std::{fmt, task::Context};

use bytes::Bytes;

use super::ledger::{BadSnapshot, Ledger, Snapshot, Standing};

/// The HTTP/2 connection of a tunnel that stands still.
#[derive(Clone, PartialEq, Eq)]
pub struct FrozenHttp2 {
    /// Streams, windows and settings.
    pub ledger: Snapshot,
    /// Bytes of the peer that follow and that nobody has looked at.
    pub unread: Bytes,
    /// Bytes that the ledger counts as sent and that the connection below has not taken.
    pub unsent: Bytes,
}

/// A stream of a tunnel that stands still.
#[derive(Clone, PartialEq, Eq)]
pub struct FrozenStream {
    /// The number of the stream.
    pub id: u32,
    /// Bytes of the peer that have not been passed on to the relay. At most the window of the stream.
    pub received: Bytes,
    /// Whether the peer has ended its half.
    pub ended: bool,
    /// Whether this end has ended its half.
    pub finished: bool,
    /// The number of bytes that the stream has handed to HTTP/2, without what is beyond 32 bits. It counts only where the
    /// stream stood still.
    pub sent: u32,
}

/// A side of a relay that is a stream of a tunnel.
pub trait Freeze {
    /// The stream as it stands while its tunnel and its relay stand still. The side can go on as if nothing had happened.
    ///
    /// The result is `None` if the stream is about to end by a reset or a failure.
    fn freeze(&mut self, cx: &mut Context<'_>) -> Option<FrozenStream>;
}

/// Why a tunnel cannot be frozen now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotStill {
    /// A frame is half way, or HTTP/2 has something to say.
    #[error("a frame is half way")]
    Moving,
    /// A stream is being set up, or ends, or does not stand still.
    #[error("stream {0} does not stand still")]
    Stream(u32),
    /// The tunnel has passed a bound within which it can be accounted for.
    #[error("the tunnel has too many streams")]
    TooMany,
    /// The state is none that HTTP/2 allows.
    #[error("the peer has broken the rules: {0}")]
    Broken(#[from] BadSnapshot),
}

// === impl FrozenHttp2 ===

impl fmt::Debug for FrozenHttp2 {
    /// Leaves the bytes out, which are applications'.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrozenHttp2")
            .field("ledger", &self.ledger)
            .field("unread", &self.unread.len())
            .field("unsent", &self.unsent.len())
            .finish()
    }
}

// === impl FrozenStream ===

impl fmt::Debug for FrozenStream {
    /// Leaves the bytes out, which are an application's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrozenStream")
            .field("id", &self.id)
            .field("received", &self.received.len())
            .field("ended", &self.ended)
            .field("finished", &self.finished)
            .finish_non_exhaustive()
    }
}

/// The state of a connection whose streams stand still like that. `sent`: whether what the streams have sent is compared,
/// because HTTP/2 may hold some of it.
///
/// # Errors
/// See [`NotStill`].
pub(super) fn snapshot(ledger: &Ledger, streams: &[FrozenStream], sent: bool) -> Result<Snapshot, NotStill> {
    for stream in streams {
        let as_known = match ledger.standing(stream.id) {
            Standing::Open(open) => {
                (!sent || open.sent == stream.sent)
                    && open.sent_all == stream.finished
                    && open.received_all == stream.ended
            }
            Standing::Closed { reset } => !reset && stream.finished && stream.ended,
            Standing::Idle => false,
        };
        if !as_known {
            return Err(NotStill::Stream(stream.id));
        }
    }
    let is_there = |id: u32| streams.iter().any(|stream| stream.id == id);
    if let Some(open) = ledger.streams().iter().find(|open| !is_there(open.id)) {
        return Err(NotStill::Stream(open.id));
    }
    let snapshot = ledger.snapshot().ok_or(NotStill::TooMany)?;
    snapshot.check()?;
    Ok(snapshot)
}
