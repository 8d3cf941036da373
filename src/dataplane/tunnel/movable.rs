//! Tunnels that another process can take over. The relays of the streams stand still, then HTTP/2 between two frames; the
//! tunnel is offered as a value with its sockets, and goes on here unless the offer is taken.

use std::{
    future::Future,
    io,
    os::fd::OwnedFd,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::{Duration, Instant},
};

use tokio::{
    sync::oneshot,
    time::{Sleep, sleep},
};

use super::streams::{AboutToEnd, StillStream, Streams};
use crate::{
    dataplane::{
        movable::now_us,
        pod::{
            conns::TunnelInfo,
            departure::{Answer, Offers, Stays, TunnelOffer},
        },
        stream::AppStream,
    },
    protocols::{
        handover::{
            record::{Kind, PodPlace},
            tunnel::{MAX_STREAMS, TunnelRecord},
        },
        hbone::{
            frozen::{FrozenHttp2, FrozenStream},
            io::Below,
        },
        tls::{session::Session, stream::TlsStream},
    },
    runtime::conns::{Conn, CutReason},
};

/// The time for a tunnel to stand still. A frame that is half way is waited for as long.
/// Limit: time for a tunnel to stand still for its move: 100 ms; past it: the tunnel goes on, and is asked again.
const STILL_WITHIN: Duration = Duration::from_millis(100);
/// The time for a peer to have heard that it may open no more streams. A stream that the peer opens before that is served
/// here.
/// Limit: time for the last GOAWAY of a tunnel before the tunnel is handed over: 1 s; past it: it is handed over.
const GOODBYE_WITHIN: Duration = Duration::from_secs(1);
/// The last stream of a GOAWAY that others follow (RFC 9113 section 6.8).
/// No limit: a number of the wire.
const NOT_THE_LAST: u32 = (1 << 31) - 1;

/// A tunnel as its driver has it.
pub(crate) trait TunnelDriver {
    /// How the tunnel has ended.
    type Ended;

    /// Drives the tunnel until it has ended.
    fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<Self::Ended>;
    /// Whether the peer has been told which stream is the last one that it could open.
    fn has_said_goodbye(&self) -> bool;
    /// Has the tunnel stand still, while it is driven, and opens no more streams on it.
    fn stop(&mut self);
    /// Waits until the tunnel stands still.
    fn poll_still(&mut self, cx: &mut Context<'_>) -> Poll<()>;
    /// The tunnel as it stands, whose streams are these. No byte passes from then on.
    ///
    /// # Errors
    /// These are not all of its streams, or it is not whole.
    fn freeze(&mut self, streams: &[FrozenStream]) -> Result<StillTunnel, Stays>;
    /// Has the tunnel go on as if it had never stood still.
    fn go_on(&mut self);
}

/// A tunnel that stands still, without its streams.
pub(crate) struct StillTunnel {
    /// The TLS session.
    pub(crate) tls: Session,
    /// The HTTP/2 connection.
    pub(crate) http2: FrozenHttp2,
    /// The tunnel's socket, under a descriptor of its own.
    pub(crate) socket: OwnedFd,
}

/// A tunnel that this process has set up. `stops` is called when the tunnel may open no more streams.
pub(crate) struct OwnTunnel<'a, F, S, C> {
    /// What drives the tunnel.
    pub(crate) driving: Pin<&'a mut F>,
    /// The connection below HTTP/2.
    pub(crate) below: Below<TlsStream<S>>,
    /// Called when the tunnel may open no more streams.
    pub(crate) stops: C,
}

/// Drives a tunnel until it has ended, is cut, or another process has taken it over.
///
/// In the last case it completes with `None`: all that belongs to the tunnel may only be dropped then.
#[must_use = "futures do nothing unless polled"]
pub(crate) struct MovableTunnel<'a, T, D> {
    kind: Kind,
    member: &'a Conn<T>,
    streams: &'a Rc<Streams>,
    driver: D,
    state: State,
    registered: Option<Waker>,
    /// When the tunnel was wanted first.
    wanted: Option<Instant>,
}

enum State {
    /// The tunnel goes on.
    Goes,
    /// The tunnel comes to stand still.
    Stops(Box<Stopping>),
    /// The tunnel is offered to another process.
    Offered(oneshot::Receiver<Answer>),
}

struct Stopping {
    offers: Offers<TunnelOffer>,
    deadline: Pin<Box<Sleep>>,
    /// Whether the relays say how they stand.
    freezes: bool,
}

// === impl OwnTunnel ===

impl<F: Future, S: AppStream, C: FnMut()> TunnelDriver for OwnTunnel<'_, F, S, C> {
    type Ended = F::Output;

    fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.driving.as_mut().poll(cx)
    }

    fn has_said_goodbye(&self) -> bool {
        self.below.last_stream_said().is_some_and(|last| last != NOT_THE_LAST)
    }

    fn stop(&mut self) {
        (self.stops)();
        self.below.stop();
    }

    fn poll_still(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.below.poll_still(cx)
    }

    fn freeze(&mut self, streams: &[FrozenStream]) -> Result<StillTunnel, Stays> {
        let socket = self.below.look(|tls| duplicate(tls.io())).map_err(|_| Stays::Descriptors)?;
        let http2 = self.below.freeze(streams)?;
        let tls = self.below.with(TlsStream::session).ok_or(Stays::Ends)?;
        Ok(StillTunnel { tls, http2, socket })
    }

    fn go_on(&mut self) {
        self.below.go_on();
    }
}

/// Another descriptor of a tunnel's socket.
///
/// # Errors
/// There is none left, or the tunnel is not on a socket.
pub(crate) fn duplicate(stream: &impl AppStream) -> io::Result<OwnedFd> {
    stream.descriptor().ok_or(io::ErrorKind::Unsupported)?.try_clone_to_owned()
}

// === impl MovableTunnel ===

impl<'a, T: AsRef<TunnelInfo>, D: TunnelDriver> MovableTunnel<'a, T, D> {
    /// Drives a tunnel of this kind, whose place in its set is `member`.
    pub(crate) fn new(kind: Kind, member: &'a Conn<T>, streams: &'a Rc<Streams>, driver: D) -> Self {
        member.set_movable(true);
        Self { kind, member, streams, driver, state: State::Goes, registered: None, wanted: None }
    }

    /// Has the tunnel stand still, if somebody wants it, its peer opens no more streams, and none is being set up.
    fn stop(&mut self) {
        self.member.let_go();
        let wanted = *self.wanted.get_or_insert_with(Instant::now);
        let offers = self.member.info().as_ref().departure.take();
        // The streams go on until then.
        let is_patient = self.kind == Kind::InboundTunnel && wanted.elapsed() < GOODBYE_WITHIN;
        let stays = if is_patient && !self.driver.has_said_goodbye() {
            Some(Stays::Goodbye)
        } else if self.streams.open() == 0 {
            Some(Stays::Unused)
        } else {
            (!self.streams.are_relayed()).then_some(Stays::SettingUp)
        };
        let Some(offers) = offers else { return };
        if let Some(stays) = stays {
            // Whoever has asked may have gone.
            return drop(offers.send(Err(stays)));
        }
        self.driver.stop();
        self.streams.stop();
        let deadline = Box::pin(sleep(STILL_WITHIN));
        self.state = State::Stops(Box::new(Stopping { offers, deadline, freezes: false }));
    }

    fn go_on(&mut self) {
        if matches!(self.state, State::Goes) {
            return;
        }
        self.state = State::Goes;
        self.driver.go_on();
        self.streams.go_on();
    }

    /// Waits until the tunnel and all of its streams stand still. The error: they do not, or not in time.
    fn poll_stopped(&mut self, cx: &mut Context<'_>) -> Poll<Result<Vec<StillStream>, Stays>> {
        let State::Stops(stopping) = &mut self.state else { return Poll::Ready(Err(Stays::Busy)) };
        let is_over = stopping.offers.is_closed() || stopping.deadline.as_mut().poll(cx).is_ready();
        if !stopping.freezes {
            if !self.streams.are_still(cx) {
                return if is_over { Poll::Ready(Err(Stays::Relays)) } else { Poll::Pending };
            }
            if self.driver.poll_still(cx).is_pending() {
                return if is_over { Poll::Ready(Err(Stays::Frame)) } else { Poll::Pending };
            }
            stopping.freezes = true;
            self.streams.freeze();
        }
        match self.streams.frozen(cx) {
            Some(frozen) => Poll::Ready(frozen.map_err(|AboutToEnd| Stays::Ends)),
            None if is_over => Poll::Ready(Err(Stays::Relays)),
            None => Poll::Pending,
        }
    }

    /// Offers the tunnel with these streams, or says why it cannot move and goes on.
    fn offer(&mut self, streams: Result<Vec<StillStream>, Stays>) {
        let (answer, answered) = oneshot::channel();
        let offer = streams.and_then(|streams| self.still(streams, answer));
        let is_offered = offer.is_ok();
        if !is_offered {
            self.driver.go_on();
            self.streams.go_on();
        }
        let next = if is_offered { State::Offered(answered) } else { State::Goes };
        let State::Stops(stopping) = std::mem::replace(&mut self.state, next) else { return };
        if is_offered {
            self.streams.offered();
        }
        // An offer that reaches nobody is dropped, and the next turn hears of it.
        drop(stopping.offers.send(offer));
    }

    /// The tunnel as it stands, with these streams.
    fn still(
        &mut self,
        streams: Vec<StillStream>,
        answer: oneshot::Sender<Answer>,
    ) -> Result<TunnelOffer, Stays> {
        let frozen: Vec<FrozenStream> = streams.iter().map(|still| still.record.stream.clone()).collect();
        let StillTunnel { tls, http2, socket } = self.driver.freeze(&frozen)?;
        if streams.len() > MAX_STREAMS {
            return Err(Stays::TooMany);
        }
        let info = self.member.info().as_ref();
        let mut sockets = vec![socket];
        let streams = streams.into_iter().map(|StillStream { record, app }| {
            sockets.push(app);
            record
        });
        let record = TunnelRecord {
            kind: self.kind,
            pod: PodPlace::default(),
            peer: info.peer,
            peer_identity: info.identity().cloned(),
            certificates: info.chain().map(|chain| (chain.presented(), chain.verified_at())),
            tls,
            http2,
            streams: streams.collect(),
            frozen_at_us: now_us(),
        };
        Ok(TunnelOffer { record, sockets, answer })
    }
}

impl<T: AsRef<TunnelInfo>, D: TunnelDriver + Unpin> Future for MovableTunnel<'_, T, D> {
    type Output = Option<Result<D::Ended, CutReason>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let _timed = this.member.timed();
        // A wish takes the waker that it wakes.
        let is_registered = this.registered.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if !is_registered || this.member.needs_waker() {
            this.member.register(cx.waker());
            this.registered = Some(cx.waker().clone());
        }
        loop {
            if let State::Offered(answered) = &mut this.state {
                if ready!(Pin::new(answered).poll(cx)) == Ok(Answer::Taken) {
                    this.streams.given();
                    return Poll::Ready(None);
                }
                this.go_on();
            }
            if let Some(why) = this.member.cut_reason() {
                this.go_on();
                return Poll::Ready(Some(Err(why)));
            }
            if let Poll::Ready(ended) = this.driver.poll_drive(cx) {
                this.go_on();
                return Poll::Ready(Some(Ok(ended)));
            }
            match &this.state {
                State::Goes if this.member.is_wanted() => {
                    this.stop();
                    if matches!(this.state, State::Goes) {
                        return Poll::Pending;
                    }
                }
                State::Goes => return Poll::Pending,
                State::Stops(_) => {
                    let streams = ready!(this.poll_stopped(cx));
                    this.offer(streams);
                }
                // The next turn waits for the answer.
                State::Offered(_) => {}
            }
        }
    }
}

impl<T, D> Drop for MovableTunnel<'_, T, D> {
    fn drop(&mut self) {
        self.member.set_movable(false);
    }
}

#[cfg(test)]
mod tests;
