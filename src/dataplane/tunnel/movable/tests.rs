//! A tunnel stands still with all of its streams, is offered as it is, and goes on here unless the offer is taken.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    net::SocketAddr,
    sync::Arc,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::*;
use crate::{
    dataplane::{
        arrival::info,
        pod::conns::{PodConns, cut},
        report::{ConnMeta, ConnReport, Past},
        testing::stream::{TestEnd, TestSide, connection},
        timed_relay::timed,
        tunnel::streams::outbound,
    },
    protocols::{
        handover::{record::tests::record, tunnel::tests::tunnel},
        hbone::frozen::{Freeze, NotStill},
        labels::Reporter,
        relay::{End, RelayError, Side, relay},
        tls::{aead::Cipher, buffer::Buffers},
    },
    runtime::conns::ConnSet,
    telemetry::metrics::Metrics,
};

/// A time in which everything here happens, by any clock.
const LONG: Duration = Duration::from_secs(20);

/// What a scripted driver is told to do, and what it has been asked for.
#[derive(Default)]
struct Script {
    /// How often the tunnel was stopped, and was told to go on.
    stopped: Cell<usize>,
    gone_on: Cell<usize>,
    /// Whether HTTP/2 comes to stand still, and is whole then.
    still: Cell<bool>,
    whole: Cell<bool>,
    /// Whether the GOAWAY that was sent is the last one.
    said_goodbye: Cell<bool>,
    /// The streams that it was frozen with.
    frozen: RefCell<Vec<u32>>,
    ended: Cell<bool>,
}

struct Scripted<'a>(&'a Script);

/// A tunnel's stream over a pipe, with a number.
struct PipeStream {
    side: TestSide,
    id: u32,
    ends: Rc<Cell<bool>>,
}

/// A connection of a tunnel: its application, the peer, and what the proxy knows of it.
struct Stream {
    app: TcpStream,
    peer: TestEnd,
    near: TcpStream,
    side: PipeStream,
    report: Box<ConnReport>,
    ends: Rc<Cell<bool>>,
}

struct Bed {
    conns: Arc<PodConns>,
    metrics: Arc<Metrics>,
    buffers: Buffers,
    tunnels: ConnSet<TunnelInfo>,
    streams: Rc<Streams>,
    script: Script,
}

impl TunnelDriver for Scripted<'_> {
    type Ended = &'static str;

    fn poll_drive(&mut self, _: &mut Context<'_>) -> Poll<&'static str> {
        if self.0.ended.get() { Poll::Ready("ended") } else { Poll::Pending }
    }

    fn has_said_goodbye(&self) -> bool {
        self.0.said_goodbye.get()
    }

    fn stop(&mut self) {
        self.0.stopped.set(self.0.stopped.get() + 1);
    }

    fn poll_still(&mut self, _: &mut Context<'_>) -> Poll<()> {
        if self.0.still.get() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn freeze(&mut self, streams: &[FrozenStream]) -> Result<StillTunnel, Stays> {
        *self.0.frozen.borrow_mut() = streams.iter().map(|stream| stream.id).collect();
        let TunnelRecord { tls, http2, .. } = tunnel(Kind::OutboundTunnel, true, Cipher::Aes128);
        let socket = std::fs::File::open("/dev/null").unwrap().into();
        if self.0.whole.get() {
            Ok(StillTunnel { tls, http2, socket })
        } else {
            Err(NotStill::TooMany.into())
        }
    }

    fn go_on(&mut self) {
        self.0.gone_on.set(self.0.gone_on.get() + 1);
    }
}

impl Side for PipeStream {
    fn poll_chunk(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
        buffers: &Buffers,
    ) -> Poll<Result<Bytes, End>> {
        self.side.poll_chunk(cx, max, buffers)
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        chunk: &mut Bytes,
        last: bool,
    ) -> Poll<Result<(), Option<RelayError>>> {
        self.side.poll_write(cx, chunk, last)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.side.poll_finish(cx)
    }
}

impl Freeze for PipeStream {
    fn freeze(&mut self, _: &mut Context<'_>) -> Option<FrozenStream> {
        let (id, received) = (self.id, Bytes::new());
        let stream = FrozenStream { id, received, ended: false, finished: false, sent: 0 };
        (!self.ends.get()).then_some(stream)
    }
}

// === impl Bed ===

impl Bed {
    fn new() -> Self {
        let script = Script::default();
        script.still.set(true);
        script.whole.set(true);
        script.said_goodbye.set(true);
        Self {
            conns: PodConns::new(1),
            metrics: Metrics::new("test").unwrap(),
            buffers: Buffers::default(),
            tunnels: ConnSet::new(1),
            streams: Rc::default(),
            script,
        }
    }

    fn member(&self) -> Conn<TunnelInfo> {
        self.tunnels.admit(0, TunnelInfo::new("10.0.0.2:15008".parse().unwrap())).unwrap()
    }

    /// A connection that is ready to be relayed.
    async fn stream(&self, id: u32) -> Stream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let app = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let near = listener.accept().await.unwrap().0;
        let local: SocketAddr = "10.0.0.1:80".parse().unwrap();
        let (peer, stream) = connection(local, None);
        let facts = record(Kind::Outbound).side;
        let conn = self.conns.live.admit(0, info(&facts, Reporter::Source)).unwrap();
        let past = Past { age: Duration::ZERO, bytes: (0, 0) };
        let report = ConnReport::adopt(&self.metrics, &conn, facts.dialled, ConnMeta::default(), past);
        let ends = Rc::new(Cell::new(false));
        let side = PipeStream { side: stream.into_side(), id, ends: ends.clone() };
        Stream { app, peer, near, side, report, ends }
    }
}

/// Both directions of a connection carry a text.
async fn talk(app: &mut TcpStream, peer: &mut TestEnd) {
    app.write_all(b"there").await.unwrap();
    peer.hears("there").await;
    peer.say("back").await;
    let mut got = [0; 4];
    app.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"back");
}

/// Asks a tunnel for its offer, until the tunnel answers.
async fn ask(member: &Conn<TunnelInfo>) -> Result<TunnelOffer, Stays> {
    let offered = member.info().departure.open();
    member.want();
    offered.await.unwrap_or(Err(Stays::Busy))
}

/// Runs a tunnel of this kind with two streams, of which the first one has the higher number, while `test` asks for it.
/// Returns how the tunnel has ended, or `None` if the test has ended before.
async fn run<T>(
    bed: &Bed,
    kind: Kind,
    test: impl AsyncFnOnce(&Conn<TunnelInfo>, [&mut TcpStream; 2], [&mut TestEnd; 2], [&Cell<bool>; 2]) -> T,
) -> (Option<Option<Result<&'static str, CutReason>>>, T) {
    let member = bed.member();
    let Stream { mut app, mut peer, near, side, report, ends } = bed.stream(7).await;
    let other = bed.stream(5).await;
    let Stream {
        app: mut app_b,
        peer: mut peer_b,
        near: near_b,
        side: side_b,
        report: report_b,
        ends: ends_b,
    } = other;
    let relays = async {
        let _open = [bed.streams.stream(), bed.streams.stream()];
        tokio::join!(
            outbound(&bed.streams, timed(relay(near.into_side(), side, &*report, &bed.buffers))),
            outbound(&bed.streams, timed(relay(near_b.into_side(), side_b, &*report_b, &bed.buffers)))
        )
    };
    let driven = async {
        let mut tunnel = MovableTunnel::new(kind, &member, &bed.streams, Scripted(&bed.script));
        let mut relays = std::pin::pin!(relays);
        // As on a shard, each has its turn when it is woken.
        poll_fn(|cx| {
            let relayed = relays.as_mut().poll(cx);
            match Pin::new(&mut tunnel).poll(cx) {
                Poll::Ready(ended) => {
                    let given = matches!(relays.as_mut().poll(cx), Poll::Ready((None, None)));
                    assert!(ended.is_some() || given, "a relay goes on with a tunnel that was given away");
                    Poll::Ready(ended)
                }
                Poll::Pending => {
                    assert!(relayed.is_pending(), "a relay has ended alone");
                    Poll::Pending
                }
            }
        })
        .await
    };
    let testing = test(&member, [&mut app, &mut app_b], [&mut peer, &mut peer_b], [&*ends, &*ends_b]);
    let mut driven = std::pin::pin!(driven);
    let mut ended = None;
    let tested = {
        let mut testing = std::pin::pin!(testing);
        let both = poll_fn(|cx| {
            if ended.is_none()
                && let Poll::Ready(end) = driven.as_mut().poll(cx)
            {
                ended = Some(end);
            }
            testing.as_mut().poll(cx)
        });
        timeout(LONG, both).await.expect("stuck")
    };
    (ended, tested)
}

#[tokio::test]
async fn a_tunnel_is_offered_with_its_streams_by_number_and_goes_on_if_nobody_takes_it() {
    let bed = Bed::new();
    let (ended, ()) = run(&bed, Kind::OutboundTunnel, async |member, [a, b], [c, d], _| {
        talk(a, c).await;
        let TunnelOffer { record, sockets, answer } = ask(member).await.unwrap();
        assert_eq!((record.kind, record.peer), (Kind::OutboundTunnel, "10.0.0.2:15008".parse().unwrap()));
        let ids: Vec<u32> = record.streams.iter().map(|stream| stream.stream.id).collect();
        assert_eq!((ids, bed.script.frozen.borrow().clone(), sockets.len()), (vec![5, 7], vec![5, 7], 3));
        let bytes: Vec<_> = record.streams.iter().map(|stream| stream.side.bytes).collect();
        assert_eq!(bytes, [(0, 0), (5, 4)]);
        assert_eq!((bed.script.stopped.get(), bed.script.gone_on.get()), (1, 0));
        answer.send(Answer::Kept).unwrap();
        talk(a, c).await;
        talk(b, d).await;
        assert_eq!(bed.script.gone_on.get(), 1);
        // An answer that nobody gives is none.
        drop(ask(member).await.unwrap());
        talk(b, d).await;
        bed.script.ended.set(true);
        member.want();
        tokio::task::yield_now().await;
    })
    .await;
    assert_eq!(ended, Some(Some(Ok("ended"))));
}

#[tokio::test]
async fn a_tunnel_that_was_taken_leaves_its_sockets_alone() {
    let bed = Bed::new();
    let (ended, mut sockets) = run(&bed, Kind::OutboundTunnel, async |member, [a, _], _, _| {
        let TunnelOffer { sockets, answer, .. } = ask(member).await.unwrap();
        // The relay reads nothing any more.
        a.write_all(b"unread").await.unwrap();
        answer.send(Answer::Taken).unwrap();
        tokio::task::yield_now().await;
        sockets
    })
    .await;
    assert_eq!((ended, bed.script.gone_on.get()), (Some(None), 0));
    // The sockets of streams 5 and 7 follow that of the tunnel.
    let app = std::net::TcpStream::from(sockets.pop().unwrap());
    app.set_nonblocking(true).unwrap();
    let mut app = TcpStream::from_std(app).unwrap();
    let mut got = [0; 6];
    app.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"unread");
}

#[tokio::test]
async fn a_tunnel_with_a_stream_that_is_set_up_or_ends_is_not_offered() {
    let bed = Bed::new();
    run(&bed, Kind::OutboundTunnel, async |member, [a, b], [c, d], [_, ends]| {
        let set_up = bed.streams.stream();
        ask(member).await.unwrap_err();
        assert_eq!(bed.script.stopped.get(), 0);
        drop(set_up);
        ends.set(true);
        ask(member).await.unwrap_err();
        assert_eq!((bed.script.stopped.get(), bed.script.gone_on.get()), (1, 1));
        talk(a, c).await;
        talk(b, d).await;
        ends.set(false);
        ask(member).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_tunnel_that_does_not_stand_still_or_is_not_whole_goes_on() {
    let bed = Bed::new();
    run(&bed, Kind::OutboundTunnel, async |member, [a, _], [c, _], _| {
        bed.script.still.set(false);
        ask(member).await.unwrap_err();
        assert_eq!((bed.script.stopped.get(), bed.script.gone_on.get()), (1, 1));
        talk(a, c).await;
        bed.script.still.set(true);
        bed.script.whole.set(false);
        ask(member).await.unwrap_err();
        assert_eq!((bed.script.stopped.get(), bed.script.gone_on.get()), (2, 2));
        talk(a, c).await;
    })
    .await;
}

#[tokio::test]
async fn a_peer_hears_the_last_goaway_before_its_tunnel_moves() {
    let bed = Bed::new();
    bed.script.said_goodbye.set(false);
    run(&bed, Kind::InboundTunnel, async |member, _, _, _| {
        ask(member).await.unwrap_err();
        assert_eq!(bed.script.stopped.get(), 0, "the streams go on meanwhile");
        bed.script.said_goodbye.set(true);
        ask(member).await.unwrap();
    })
    .await;
    // A tunnel that this end has opened needs none.
    let bed = Bed::new();
    bed.script.said_goodbye.set(false);
    run(&bed, Kind::OutboundTunnel, async |member, _, _, _| drop(ask(member).await.unwrap())).await;
}

#[tokio::test]
async fn a_cut_of_a_tunnel_that_stands_still_is_not_lost() {
    let bed = Bed::new();
    let (ended, ()) = run(&bed, Kind::OutboundTunnel, async |member, _, _, _| {
        let offer = ask(member).await.unwrap();
        member.cut(cut::REVOKED);
        // Another process may have it, so the cut waits for the answer.
        tokio::task::yield_now().await;
        assert_eq!(bed.script.gone_on.get(), 0);
        offer.answer.send(Answer::Kept).unwrap();
        tokio::task::yield_now().await;
    })
    .await;
    assert_eq!(ended, Some(Some(Err(cut::REVOKED))));
}
