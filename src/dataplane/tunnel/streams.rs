//! The streams of a tunnel that another process can take over, and how they come to stand still together.
//!
//! A tunnel's driver and the relays of its streams are tasks of one shard. The driver says what is next, and each relay
//! does it when it is polled.

use std::{
    cell::{Cell, RefCell},
    fmt,
    future::Future,
    marker::PhantomData,
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use slab::Slab;
use tokio::net::TcpStream;

use crate::{
    dataplane::{pod::conns::ConnInfo, report::ConnReport, timed_relay::TimedRelay},
    protocols::{
        handover::tunnel::StreamRecord,
        hbone::frozen::Freeze,
        relay::{RelayError, Side},
    },
    runtime::conns::{Conn, CutReason},
};

/// The streams of one tunnel.
#[derive(Default)]
pub(crate) struct Streams {
    /// The streams that exist, also those that are being set up.
    open: Cell<usize>,
    step: Cell<Step>,
    relays: RefCell<Slab<Place>>,
    /// The driver of the tunnel, while the tunnel comes to stand still.
    driver: RefCell<Option<Waker>>,
}

/// What the relays of a tunnel have to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    /// To relay.
    #[default]
    Goes,
    /// To stand still.
    Stops,
    /// To say how they stand.
    Freezes,
    /// To wait for the answer of another process.
    Offered,
    /// To end without a word: another process has the tunnel.
    Given,
}

/// The place of a relay among the streams of its tunnel.
struct Place {
    waker: Option<Waker>,
    stands: Stands,
}

/// How far a relay has followed.
enum Stands {
    No,
    Still,
    Frozen(Box<StillStream>),
    /// The stream is about to end.
    Unable,
}

/// A stream that stands still, and the socket of its application.
pub(crate) struct StillStream {
    /// The stream as a value.
    pub(crate) record: StreamRecord,
    /// The socket of the application, under a descriptor of its own.
    pub(crate) app: OwnedFd,
}

/// The error of a tunnel one of whose streams is about to end.
#[derive(Debug)]
pub(crate) struct AboutToEnd;

/// A stream of a tunnel, from its request to its end.
pub(crate) struct OpenStream(Rc<Streams>);

/// The stream's side of a relay, and the socket of the application's side.
pub(crate) type Ends<'x> = (&'x mut dyn Freeze, Option<&'x TcpStream>);

/// The relay of a stream of a tunnel that another process can take over.
///
/// It completes with `None` if another process has taken the tunnel over: the sides may only be dropped then, and no
/// report may speak of an end.
#[must_use = "futures do nothing unless polled"]
pub(crate) struct StreamRelay<'a, A, B, E> {
    relay: TimedRelay<'a, A, B, ConnReport>,
    streams: &'a Rc<Streams>,
    place: usize,
    ends: PhantomData<fn(E)>,
}

/// Which side of a relay is the tunnel's stream.
pub(crate) trait StreamEnd<A, B> {
    /// The stream's side, and the socket of the application's side.
    fn ends<'x>(a: &'x mut A, b: &'x mut B) -> Ends<'x>;
}

/// The first side is the stream.
pub(crate) struct FirstEnd;

/// The second side is the stream.
pub(crate) struct SecondEnd;

impl<A: Freeze, B: Side> StreamEnd<A, B> for FirstEnd {
    fn ends<'x>(a: &'x mut A, b: &'x mut B) -> Ends<'x> {
        (a, b.plain())
    }
}

impl<A: Side, B: Freeze> StreamEnd<A, B> for SecondEnd {
    fn ends<'x>(a: &'x mut A, b: &'x mut B) -> Ends<'x> {
        (b, a.plain())
    }
}

/// Runs the relay between a stream that a peer has opened, the first side, and an application.
pub(crate) fn inbound<'a, A: Side + Freeze, B: Side>(
    streams: &'a Rc<Streams>,
    relay: TimedRelay<'a, A, B, ConnReport>,
) -> StreamRelay<'a, A, B, FirstEnd> {
    StreamRelay::new(streams, relay)
}

/// Runs the relay between an application, the first side, and a stream to a peer.
pub(crate) fn outbound<'a, A: Side, B: Side + Freeze>(
    streams: &'a Rc<Streams>,
    relay: TimedRelay<'a, A, B, ConnReport>,
) -> StreamRelay<'a, A, B, SecondEnd> {
    StreamRelay::new(streams, relay)
}

// === impl Streams ===

impl Streams {
    /// A stream begins, until [`Streams::end`].
    pub(crate) fn begin(&self) {
        self.open.set(self.open.get() + 1);
    }

    /// A stream ends.
    pub(crate) fn end(&self) {
        self.open.set(self.open.get().saturating_sub(1));
        self.wake_driver();
    }

    /// A stream begins, and ends when the result is dropped.
    pub(crate) fn stream(self: &Rc<Self>) -> OpenStream {
        self.begin();
        OpenStream(self.clone())
    }

    /// The number of streams that exist.
    pub(crate) fn open(&self) -> usize {
        self.open.get()
    }

    /// Whether there are streams, and all of them are relayed and none is being set up.
    pub(super) fn are_relayed(&self) -> bool {
        self.open() > 0 && self.relays.borrow().len() == self.open()
    }

    /// Has the relays stand still.
    pub(super) fn stop(&self) {
        self.next(Step::Stops);
    }

    /// Whether all relays stand still. If not, the task of `cx` is woken later.
    pub(super) fn are_still(&self, cx: &Context<'_>) -> bool {
        self.wait(cx);
        self.are_relayed()
            && self.relays.borrow().iter().all(|(_, place)| matches!(place.stands, Stands::Still))
    }

    /// Has the relays say how they stand.
    pub(super) fn freeze(&self) {
        self.next(Step::Freezes);
    }

    /// The streams as they stand, in the order of their numbers, once all relays have said so. `None`: the task of `cx` is
    /// woken later.
    ///
    /// # Errors
    /// A stream is about to end.
    pub(super) fn frozen(&self, cx: &Context<'_>) -> Option<Result<Vec<StillStream>, AboutToEnd>> {
        self.wait(cx);
        let mut relays = self.relays.borrow_mut();
        if relays.iter().any(|(_, place)| matches!(place.stands, Stands::No | Stands::Still)) {
            return None;
        }
        let mut still = Vec::with_capacity(relays.len());
        for (_, place) in relays.iter_mut() {
            match std::mem::replace(&mut place.stands, Stands::Still) {
                Stands::Frozen(stream) => still.push(*stream),
                Stands::No | Stands::Still | Stands::Unable => return Some(Err(AboutToEnd)),
            }
        }
        still.sort_unstable_by_key(|still| still.record.stream.id);
        Some(Ok(still))
    }

    /// Has the relays wait for the answer of another process.
    pub(super) fn offered(&self) {
        self.step.set(Step::Offered);
    }

    /// Has the relays go on.
    pub(super) fn go_on(&self) {
        self.driver.take();
        self.next(Step::Goes);
    }

    /// Has the relays end without a word.
    pub(super) fn given(&self) {
        self.driver.take();
        self.next(Step::Given);
    }

    fn next(&self, step: Step) {
        if self.step.replace(step) == step {
            return;
        }
        for (_, place) in self.relays.borrow_mut().iter_mut() {
            if step == Step::Goes {
                place.stands = Stands::No;
            }
            place.waker.iter().for_each(Waker::wake_by_ref);
        }
    }

    fn wait(&self, cx: &Context<'_>) {
        *self.driver.borrow_mut() = Some(cx.waker().clone());
    }

    fn wake_driver(&self) {
        self.driver.borrow().iter().for_each(Waker::wake_by_ref);
    }

    /// Notes how far the relay at `place` has followed.
    fn note(&self, place: usize, follows: impl FnOnce(&Stands) -> Option<Stands>) {
        if let Some(place) = self.relays.borrow_mut().get_mut(place)
            && let Some(stands) = follows(&place.stands)
        {
            place.stands = stands;
            self.wake_driver();
        }
    }
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams").field("open", &self.open).field("step", &self.step).finish_non_exhaustive()
    }
}

// === impl OpenStream ===

impl OpenStream {
    /// The streams of the tunnel.
    pub(crate) fn streams(&self) -> &Rc<Streams> {
        &self.0
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.end();
    }
}

// === impl StreamRelay ===

impl<'a, A, B, E> StreamRelay<'a, A, B, E> {
    fn new(streams: &'a Rc<Streams>, relay: TimedRelay<'a, A, B, ConnReport>) -> Self {
        let place = streams.relays.borrow_mut().insert(Place { waker: None, stands: Stands::No });
        Self { relay, streams, place, ends: PhantomData }
    }

    /// The connection.
    fn conn(&self) -> &'a Conn<ConnInfo> {
        self.relay.meter().conn()
    }

    /// Has the task of `cx` woken by a cut and by the tunnel's driver.
    fn register(&mut self, cx: &Context<'_>) {
        if let Some(place) = self.streams.relays.borrow_mut().get_mut(self.place)
            && !place.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            self.conn().register(cx.waker());
            place.waker = Some(cx.waker().clone());
        }
    }
}

impl<A: Side, B: Side, E: StreamEnd<A, B>> StreamRelay<'_, A, B, E> {
    /// The stream as it stands; `None` if it is about to end.
    fn still(&mut self, cx: &mut Context<'_>) -> Option<StillStream> {
        let relay = self.relay.freeze()?;
        let side = self.relay.meter().facts();
        let (a, b) = self.relay.sides_mut();
        let (stream, app) = E::ends(a, b);
        let app = app?.as_fd().try_clone_to_owned().ok()?;
        let stream = stream.freeze(cx)?;
        Some(StillStream { record: StreamRecord { stream, side, relay }, app })
    }
}

impl<A: Side + Unpin, B: Side + Unpin, E: StreamEnd<A, B>> Future for StreamRelay<'_, A, B, E> {
    type Output = Option<Result<Result<(), RelayError>, CutReason>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let _timed = this.conn().timed();
        this.register(cx);
        match this.streams.step.get() {
            step @ (Step::Goes | Step::Stops) => {
                if let Some(why) = this.conn().cut_reason() {
                    return Poll::Ready(Some(Err(why)));
                }
                if step == Step::Goes {
                    return Pin::new(&mut this.relay).poll(cx).map(|relayed| Some(Ok(relayed)));
                }
                this.streams.note(this.place, |stands| matches!(stands, Stands::No).then_some(Stands::Still));
            }
            Step::Freezes => {
                let still = this.still(cx);
                this.streams.note(this.place, |_| {
                    Some(still.map_or(Stands::Unable, |still| Stands::Frozen(still.into())))
                });
            }
            // A cut is looked at when the tunnel goes on, here or in the other process.
            Step::Offered => {}
            Step::Given => return Poll::Ready(None),
        }
        Poll::Pending
    }
}

impl<A, B, E> Drop for StreamRelay<'_, A, B, E> {
    fn drop(&mut self) {
        let removed = self.streams.relays.borrow_mut().try_remove(self.place);
        drop(removed);
        self.streams.wake_driver();
    }
}
