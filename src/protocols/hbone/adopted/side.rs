//! The streams of an adopted tunnel, as sides of relays.

use std::{
    fmt,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::Reason;

use super::tunnel::{AdoptedTunnel, Inbox, NoSuchStream};
use crate::protocols::{
    hbone::{
        frozen::{Freeze, FrozenStream},
        ledger::Standing,
        side::Waiting,
    },
    relay::{End, RelayError, Side},
    tls::buffer::Buffers,
};

/// A stream of a tunnel that was taken over, as a side of a relay. A drop before both ends have finished resets the
/// stream.
pub struct AdoptedSide {
    tunnel: AdoptedTunnel,
    stream: u32,
    /// Whether this end has ended its half.
    finished: bool,
    /// Whether the relay knows that the peer has ended its half.
    drained: bool,
}

// === impl AdoptedTunnel ===

impl AdoptedTunnel {
    /// Goes on with a stream. Of what it has received, `in_relay` bytes wait in its relay besides those in `frozen`.
    ///
    /// A stream that does not go on is reset when the driver begins.
    ///
    /// # Errors
    /// The stream is not one of the tunnel, or not as the tunnel has it.
    pub fn side(&self, frozen: FrozenStream, in_relay: usize) -> Result<AdoptedSide, NoSuchStream> {
        let FrozenStream { id, received, ended, finished, .. } = frozen;
        let this = &mut *self.0.borrow_mut();
        let is_same = match this.core.ledger().standing(id) {
            Standing::Open(open) => open.sent_all == finished && open.received_all == ended,
            Standing::Closed { .. } => id > 0 && finished && ended,
            Standing::Idle => false,
        };
        if !is_same {
            return Err(NoSuchStream::Unknown(id));
        }
        if this.inboxes.contains_key(&id) {
            return Err(NoSuchStream::Twice(id));
        }
        let unread = received.len() + in_relay;
        this.core.hold(unread);
        let mut window = this.windows.resumed(id, this.core.credit(id), unread);
        // The peer may wait for an update that the former process has not sent.
        window.taken(0, ended);
        let mut waiting = Waiting::default();
        if !received.is_empty() {
            waiting.push(received);
        }
        let inbox = Inbox { waiting, finished: ended, reset: None, window, unread, waker: None };
        this.inboxes.insert(id, inbox);
        // A relay that has heard of the end does not ask for more.
        let drained = ended && unread == 0;
        Ok(AdoptedSide { tunnel: self.clone(), stream: id, finished, drained })
    }
}

// === impl AdoptedSide ===

impl Freeze for AdoptedSide {
    fn freeze(&mut self, _: &mut Context<'_>) -> Option<FrozenStream> {
        let this = self.tunnel.0.borrow();
        let inbox = this.inboxes.get(&self.stream)?;
        if inbox.reset.is_some() || this.ended.is_some() {
            return None;
        }
        let (id, received) = (self.stream, inbox.waiting.copy());
        Some(FrozenStream { id, received, ended: inbox.finished, finished: self.finished, sent: 0 })
    }
}

impl Side for AdoptedSide {
    fn poll_chunk(&mut self, cx: &mut Context<'_>, _: usize, _: &Buffers) -> Poll<Result<Bytes, End>> {
        let this = &mut *self.tunnel.0.borrow_mut();
        let inbox = this.inboxes.get_mut(&self.stream);
        if let Some(chunk) = inbox.and_then(|inbox| inbox.waiting.pop_bytes()) {
            return Poll::Ready(Ok(chunk));
        }
        if this.inboxes.get(&self.stream).is_none_or(|inbox| inbox.finished) {
            self.drained = true;
            return Poll::Ready(Err(End::Finished));
        }
        if let Some(fault) = this.gone(self.stream) {
            return Poll::Ready(Err(End::Gone(fault)));
        }
        this.wait_for(self.stream, cx);
        Poll::Pending
    }

    fn ended(&mut self, _: &mut Context<'_>) -> Option<End> {
        let this = self.tunnel.0.borrow();
        let inbox = this.inboxes.get(&self.stream)?;
        if !inbox.waiting.is_empty() || !inbox.finished {
            return None;
        }
        self.drained = true;
        Some(End::Finished)
    }

    fn passed(&mut self, n: usize) {
        let this = &mut *self.tunnel.0.borrow_mut();
        if let Some(inbox) = this.inboxes.get_mut(&self.stream) {
            inbox.unread = inbox.unread.saturating_sub(n);
            inbox.window.taken(n, inbox.finished);
        }
        this.core.release(n);
        if !this.core.output().is_empty() {
            this.wake_driver();
        }
    }

    fn poll_room(&mut self, cx: &mut Context<'_>, want: usize) -> Poll<Result<usize, Option<RelayError>>> {
        let this = &mut *self.tunnel.0.borrow_mut();
        if let Some(fault) = this.gone(self.stream) {
            return Poll::Ready(Err(fault));
        }
        match this.core.room(self.stream) {
            0 => {
                this.wait_for_room(self.stream, cx);
                Poll::Pending
            }
            room => {
                this.uncrowd(self.stream);
                Poll::Ready(Ok(room.min(want)))
            }
        }
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Option<RelayError>> {
        if !self.drained {
            return Poll::Pending;
        }
        let this = &mut *self.tunnel.0.borrow_mut();
        match this.gone(self.stream) {
            Some(fault) => Poll::Ready(fault),
            None => {
                this.wait_for(self.stream, cx);
                Poll::Pending
            }
        }
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self.tunnel.0.borrow_mut();
        // What has come waits for the relay, which does not read now.
        this.inboxes.get_mut(&self.stream).into_iter().for_each(|inbox| inbox.window.waits());
        if this.gone(self.stream).is_some() {
            return Poll::Ready(());
        }
        this.wait_for(self.stream, cx);
        Poll::Pending
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        chunk: &mut Bytes,
        last: bool,
    ) -> Poll<Result<(), Option<RelayError>>> {
        // A relay that goes on may have bytes for which it has asked for no room here.
        if !chunk.is_empty() && ready!(self.poll_room(cx, 1)).is_err() {
            return Poll::Ready(Err(self.tunnel.0.borrow().gone(self.stream).flatten()));
        }
        let this = &mut *self.tunnel.0.borrow_mut();
        let sent = this.core.send(self.stream, chunk, last);
        this.wake_driver();
        if sent {
            self.finished |= last;
            return Poll::Ready(Ok(()));
        }
        this.wait_for_room(self.stream, cx);
        Poll::Pending
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<()> {
        if !std::mem::replace(&mut self.finished, true) {
            let this = &mut *self.tunnel.0.borrow_mut();
            this.core.send(self.stream, &mut Bytes::new(), true);
            this.wake_driver();
        }
        Poll::Ready(())
    }
}

impl Drop for AdoptedSide {
    fn drop(&mut self) {
        let this = &mut *self.tunnel.0.borrow_mut();
        if let Some(inbox) = this.inboxes.remove(&self.stream) {
            this.core.release(inbox.unread);
        }
        this.uncrowd(self.stream);
        this.core.reset(self.stream, Reason::CANCEL);
        this.wake_driver();
    }
}

impl fmt::Debug for AdoptedSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdoptedSide").field("stream", &self.stream).finish_non_exhaustive()
    }
}
