//! Relays between plain sockets that another process can take over. The relay stands still between two polls, its
//! sockets and what they have not written are offered, and the relay goes on here unless the offer is taken.

use std::{
    future::Future,
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    task::{Context, Poll, Waker, ready},
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::{net::TcpStream, sync::oneshot};

use super::{
    pod::{
        conns::ConnInfo,
        departure::{Answer, Offer, Stays},
    },
    report::ConnReport,
    timed_relay::TimedRelay,
};
use crate::{
    protocols::{
        handover::record::{Kind, Record, SOCKETS, Side as SideFacts},
        labels::Reporter,
        relay::{Meter, RelayError, Side},
    },
    runtime::conns::{Conn, CutReason},
    sys::splice::Splice,
};

/// How a relay ended: by itself, or by a cut.
pub(crate) type Ended = Result<Result<(), RelayError>, CutReason>;

/// What another process has to know of a connection.
pub(crate) trait Facts: Meter {
    /// The kind, the facts of the client's or only side, and those of the server's side.
    fn facts(&self) -> (Kind, SideFacts, Option<SideFacts>);
}

impl Facts for ConnReport {
    fn facts(&self) -> (Kind, SideFacts, Option<SideFacts>) {
        let kind = match self.info().reporter {
            Reporter::Source => Kind::Outbound,
            Reporter::Destination => Kind::Plaintext,
        };
        (kind, ConnReport::facts(self), None)
    }
}

/// A relay that another process can take over.
///
/// It completes with `None` if another process has taken the connection over: the sockets may only be dropped then, and no
/// report may speak of an end.
#[must_use = "futures do nothing unless polled"]
pub(crate) struct MovableRelay<'a, A, B, M> {
    relay: TimedRelay<'a, A, B, M, Splice>,
    here: &'a Conn<ConnInfo>,
    beside: &'a Conn<ConnInfo>,
    registered: Option<Waker>,
    /// The answer to an offer. The relay stands still meanwhile.
    offered: Option<oneshot::Receiver<Answer>>,
}

/// Runs `relay` until it has ended, or until one of its connections is cut. The two are the same for a connection with one
/// side.
pub(crate) fn relay<'a, A, B, M>(
    (here, beside): (&'a Conn<ConnInfo>, &'a Conn<ConnInfo>),
    relay: TimedRelay<'a, A, B, M, Splice>,
) -> MovableRelay<'a, A, B, M> {
    here.set_movable(true);
    MovableRelay { relay, here, beside, registered: None, offered: None }
}

// === impl MovableRelay ===

impl<A: Side, B: Side, M: Facts> MovableRelay<'_, A, B, M> {
    /// Offers the connection to whoever wants it. The result is `None` if nobody does any more, or if the connection is
    /// about to end.
    fn offer(&mut self) -> Option<oneshot::Receiver<Answer>> {
        let offers = self.here.info().departure.take()?;
        let (answer, answered) = oneshot::channel();
        let offer = self.still().map(|(record, sockets)| Offer { record, sockets, answer });
        let is_offered = offer.is_ok();
        offers.send(offer).ok()?;
        is_offered.then_some(answered)
    }

    /// The connection as it stands.
    fn still(&mut self) -> Result<(Record, [OwnedFd; SOCKETS]), Stays> {
        let frozen = self.relay.freeze().ok_or(Stays::Ends)?;
        let socket = |stream: Option<&TcpStream>| stream?.as_fd().try_clone_to_owned().ok();
        let (client, server) = self.relay.sides();
        let sockets = (socket(client.plain()), socket(server.plain()));
        let (Some(client), Some(server)) = sockets else { return Err(Stays::Descriptors) };
        let (kind, side, beside) = self.relay.meter().facts();
        Ok((Record { kind, side, beside, relay: frozen, frozen_at_us: now_us() }, [client, server]))
    }
}

impl<A: Side + Unpin, B: Side + Unpin, M: Facts> Future for MovableRelay<'_, A, B, M> {
    type Output = Option<Ended>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let _timed = this.here.timed();
        let is_registered = this.registered.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if !is_registered || this.here.needs_waker() {
            this.here.register(cx.waker());
            this.beside.register(cx.waker());
            this.registered = Some(cx.waker().clone());
        }
        loop {
            if let Some(offered) = &mut this.offered {
                let answer = ready!(Pin::new(offered).poll(cx));
                this.offered = None;
                if answer == Ok(Answer::Taken) {
                    return Poll::Ready(None);
                }
            }
            if let Some(why) = this.here.cut_reason().or_else(|| this.beside.cut_reason()) {
                return Poll::Ready(Some(Err(why)));
            }
            // A relay that has not been polled yet may know of bytes that it has not counted.
            if let Poll::Ready(relayed) = Pin::new(&mut this.relay).poll(cx) {
                return Poll::Ready(Some(Ok(relayed)));
            }
            if !this.here.is_wanted() {
                return Poll::Pending;
            }
            // The wish has taken the waker that it woke.
            this.here.register(cx.waker());
            this.here.let_go();
            this.offered = this.offer();
        }
    }
}

impl<A, B, M> Drop for MovableRelay<'_, A, B, M> {
    fn drop(&mut self) {
        self.here.set_movable(false);
    }
}

/// The time in microseconds since 1970, as two processes of one host agree on it.
pub(crate) fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}
