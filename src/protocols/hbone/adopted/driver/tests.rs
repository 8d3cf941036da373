//! Tunnels that are frozen wherever they are, once with the h2 crate and then again, with the h2 crate at the other end,
//! which notices nothing.

#![allow(clippy::disallowed_methods, reason = "tests own their tasks by the LocalSet they run in")]

mod scripted;

use std::{future::poll_fn, rc::Rc, time::Duration};

use h2::{RecvStream, SendStream, server::SendResponse};
use http::{Request, Response};
use proptest::prelude::{Just, ProptestConfig, any, prop, prop_oneof, proptest};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::{
    io::{DuplexStream, duplex},
    sync::{Notify, mpsc},
    task::{LocalSet, spawn_local, yield_now},
    time::timeout,
};

use super::*;
use crate::protocols::{
    config::Http2Config,
    hbone::{
        adopted::side::AdoptedSide,
        budget::BufferBudget,
        client,
        frames::Role,
        frozen::{Freeze, FrozenStream, NotStill},
        io::{Below, coalesced_within},
        server,
        side::{Received, StreamSide},
    },
    relay::Side,
    tls::buffer::Buffers,
};

/// Far beyond what any of this takes.
const STUCK_AFTER: Duration = Duration::from_secs(60);
const MAX_FRAME: u32 = 16_384;

/// What a test does.
#[derive(Clone, Debug)]
struct Plan {
    role: Role,
    seed: u64,
    /// How many bytes go each way on each stream.
    streams: Vec<(usize, usize)>,
    /// The bytes on the way between both ends.
    pipe: usize,
    /// The windows that the peer gives.
    peer_window: u32,
    own_window: u32,
    /// The turns after which the tunnel is frozen, each time.
    freezes: Vec<usize>,
}

fn byte(stream: usize, at: usize, down: bool) -> u8 {
    (at * 31 + at / 253 + stream * 7 + usize::from(down)) as u8
}

fn pattern(stream: usize, from: usize, to: usize, down: bool) -> Bytes {
    (from..to).map(|at| byte(stream, at, down)).collect()
}

/// An application and a relay at the near end of a stream.
struct Pump<S> {
    side: S,
    stream: usize,
    /// The bytes to send, and those that were sent.
    total: usize,
    sent: usize,
    /// What the side has not taken.
    pending: Bytes,
    finished: bool,
    got: usize,
    /// Bytes that were read and not passed on.
    held: usize,
    ended: bool,
    rng: SmallRng,
}

impl<S: Side> Pump<S> {
    fn new(side: S, stream: usize, total: usize) -> Self {
        let rng = SmallRng::seed_from_u64(stream as u64);
        let pending = Bytes::new();
        Self { side, stream, total, sent: 0, pending, finished: false, got: 0, held: 0, ended: false, rng }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if !self.pending.is_empty() {
                let last = self.sent == self.total;
                let written = ready!(self.side.poll_write(cx, &mut self.pending, last));
                written.expect("the stream takes no bytes");
                continue;
            }
            if self.sent == self.total {
                if !std::mem::replace(&mut self.finished, true) {
                    ready!(self.side.poll_finish(cx));
                }
                return Poll::Ready(());
            }
            let want = [1, 100, 16_384, 70_000][self.rng.random_range(0..4)];
            let room = ready!(self.side.poll_room(cx, want)).expect("the stream has no room");
            let to = self.total.min(self.sent + room.min(want));
            self.pending = pattern(self.stream, self.sent, to, false);
            self.sent = to;
        }
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>, buffers: &Buffers) -> Poll<()> {
        // What was left the last time.
        self.side.passed(std::mem::take(&mut self.held));
        while !self.ended {
            match ready!(self.side.poll_chunk(cx, 100_000, buffers)) {
                Ok(bytes) => {
                    let expected = pattern(self.stream, self.got, self.got + bytes.len(), true);
                    assert!(bytes == expected, "bytes differ at {} of stream {}", self.got, self.stream);
                    self.got += bytes.len();
                    self.held = bytes.len();
                }
                Err(End::Finished) => self.ended = true,
                Err(end) => panic!("stream {} has ended: {end:?}", self.stream),
            }
            let passed =
                if self.rng.random_bool(0.3) { self.rng.random_range(0..=self.held) } else { self.held };
            self.side.passed(passed);
            self.held -= passed;
            if self.held > 0 {
                // As a relay whose other side takes nothing for a moment.
                cx.waker().wake_by_ref();
                let _ = self.side.poll_gone(cx);
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }

    fn poll(&mut self, cx: &mut Context<'_>, buffers: &Buffers) -> Poll<()> {
        let (sent, received) = (self.poll_send(cx), self.poll_receive(cx, buffers));
        if sent.is_ready() && received.is_ready() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl<S> Pump<S> {
    /// The same application with another side.
    fn with<T>(self, side: T) -> Pump<T> {
        let Self { stream, total, sent, pending, finished, got, held, ended, rng, .. } = self;
        Pump { side, stream, total, sent, pending, finished, got, held, ended, rng }
    }
}

/// What a frozen tunnel goes on with.
type Frozen = (DuplexStream, FrozenHttp2, Vec<(FrozenStream, usize)>);

/// How a tunnel is stopped and frozen, whoever drives it.
trait Tunnel {
    fn stop(&self);
    fn poll_still(&self, cx: &mut Context<'_>) -> Poll<()>;
    fn freeze(&self, streams: &[FrozenStream]) -> Result<FrozenHttp2, NotStill>;
    fn go_on(&self);
}

macro_rules! tunnel {
    ($kind:ty) => {
        impl Tunnel for $kind {
            fn stop(&self) {
                <$kind>::stop(self);
            }
            fn poll_still(&self, cx: &mut Context<'_>) -> Poll<()> {
                <$kind>::poll_still(self, cx)
            }
            fn freeze(&self, streams: &[FrozenStream]) -> Result<FrozenHttp2, NotStill> {
                <$kind>::freeze(self, streams)
            }
            fn go_on(&self) {
                <$kind>::go_on(self);
            }
        }
    };
}

tunnel!(Below<DuplexStream>);
tunnel!(AdoptedTunnel);

/// Runs a tunnel and its streams. After so many turns it is frozen, if that is asked for and streams are left.
async fn run<S: Side + Freeze>(
    tunnel: &impl Tunnel,
    mut driver: Pin<&mut dyn Future<Output = ()>>,
    pumps: &mut Vec<Pump<S>>,
    (freeze_after, done): (Option<usize>, &Notify),
) -> Option<(FrozenHttp2, Vec<(FrozenStream, usize)>)> {
    let (buffers, mut turns) = (Buffers::default(), 0);
    let mut driven = false;
    // Now and then the successor refuses first.
    let mut refused = freeze_after.is_some_and(|after| after % 3 == 0);
    loop {
        let ran = poll_fn(|cx| {
            turns += 1;
            let left = pumps.iter_mut().filter_map(|pump| pump.poll(cx, &buffers).is_pending().then_some(()));
            let left = left.count();
            if left == 0 {
                // A connection of h2 lives as long as somebody has its streams.
                pumps.clear();
                done.notify_one();
            }
            driven = driven || driver.as_mut().poll(cx).is_ready();
            if left == 0 && driven {
                return Poll::Ready(true);
            }
            if !driven && freeze_after.is_some_and(|after| turns > after) {
                return Poll::Ready(false);
            }
            Poll::Pending
        });
        if ran.await {
            return None;
        }
        tunnel.stop();
        // The relays stand still meanwhile.
        let still = poll_fn(|cx| {
            driven = driven || driver.as_mut().poll(cx).is_ready();
            tunnel.poll_still(cx)
        });
        let frozen = match timeout(Duration::from_millis(200), still).await {
            Ok(()) => {
                let mut cx = Context::from_waker(Waker::noop());
                let frozen = pumps.iter_mut().map(|pump| Some((pump.side.freeze(&mut cx)?, pump.held)));
                frozen.collect::<Option<Vec<_>>>()
            }
            Err(_) => None,
        };
        if let Some(streams) = frozen.filter(|_| !driven) {
            let of: Vec<FrozenStream> = streams.iter().map(|(stream, _)| stream.clone()).collect();
            if let Ok(frozen) = tunnel.freeze(&of) {
                // Whoever drives it by mistake moves nothing.
                let by_mistake = poll_fn(|cx| Poll::Ready(driver.as_mut().poll(cx).is_ready())).await;
                assert!(!by_mistake);
                if !std::mem::take(&mut refused) {
                    return Some((frozen, streams));
                }
            }
        }
        tunnel.go_on();
        turns = 0;
    }
}

fn windows(own_window: u32) -> (Windows, Http2Config) {
    let config = Http2Config {
        stream_window: own_window,
        connection_window: own_window.max(65_535),
        frame_size: MAX_FRAME,
        ..Http2Config::default()
    };
    (Windows::new(BufferBudget::new(64 << 20, 1).of(0), &config, Instant::now), config)
}

/// One end of a stream of the peer, which has to see all of it and its end.
async fn far_stream(mut send: SendStream<Bytes>, mut recv: RecvStream, stream: usize, plan: Plan) {
    let (up, down) = plan.streams[stream];
    let mut rng = SmallRng::seed_from_u64(plan.seed + stream as u64);
    let mut other = rng.clone();
    let sending = async {
        let mut at = 0;
        while at < down {
            send.reserve_capacity((down - at).min(40_000));
            let room = match send.capacity() {
                // h2 tells of changes only.
                0 => poll_fn(|cx| send.poll_capacity(cx)).await.unwrap().unwrap(),
                room => room,
            };
            let n = room.min(down - at).min(rng.random_range(1..40_000));
            send.send_data(pattern(stream, at, at + n, true), false).unwrap();
            at += n;
            if rng.random_bool(0.3) {
                yield_now().await;
            }
        }
        if rng.random_bool(0.3) {
            send.send_trailers(http::HeaderMap::new()).unwrap();
        } else {
            send.send_data(Bytes::new(), true).unwrap();
        }
    };
    let receiving = async {
        let mut at = 0;
        while let Some(data) = recv.data().await {
            let data = data.unwrap_or_else(|error| panic!("stream {stream} at {at}: {error}"));
            assert!(data == pattern(stream, at, at + data.len(), false), "bytes differ at {at} of {stream}");
            at += data.len();
            if other.random_bool(0.2) {
                yield_now().await;
            }
            recv.flow_control().release_capacity(data.len()).unwrap();
        }
        assert_eq!(at, up, "bytes of stream {stream}");
    };
    tokio::join!(sending, receiving);
}

type Sides = Vec<Pump<StreamSide>>;

/// The streams of a client's tunnel, and the future that drives it.
async fn client_end(near: DuplexStream, far: DuplexStream, plan: &Plan) -> Began {
    let of = plan.clone();
    let far = spawn_local(async move {
        let mut builder = h2::server::Builder::new();
        builder
            .initial_window_size(of.peer_window)
            .initial_connection_window_size(of.peer_window.max(65_535));
        let mut connection = builder.handshake(far).await.unwrap();
        let mut streams = Vec::new();
        while let Some(accepted) = connection.accept().await {
            let (request, mut respond): (_, SendResponse<Bytes>) = accepted.unwrap();
            let send = respond.send_response(Response::new(()), false).unwrap();
            let (of, at) = (of.clone(), streams.len());
            streams.push(spawn_local(far_stream(send, request.into_body(), at, of)));
        }
        for stream in streams {
            stream.await.unwrap();
        }
    });
    let (windows, config) = windows(plan.own_window);
    let (io, mut flush) = coalesced_within(near, Role::Client, &windows);
    let below = flush.below();
    let shake = client::handshake_within(io, &config, 100, Some(&windows));
    let (mut send, mut connection) = flush.drive(Instant::now, shake).await.unwrap().unwrap();
    let changes = windows.clone();
    let mut driver: Pin<Box<dyn Future<Output = ()>>> = Box::pin(async move {
        let work = async {
            loop {
                tokio::select! {
                    biased;
                    _ = &mut connection => return,
                    window = changes.changed() => connection.set_target_window_size(window),
                }
            }
        };
        let _ = flush.drive(Instant::now, work).await;
    });
    let mut pumps = Vec::new();
    let opening = async {
        for (at, (up, _)) in plan.streams.iter().enumerate() {
            let request = Request::builder().method("CONNECT").uri("10.0.0.1:80").body(()).unwrap();
            poll_fn(|cx| send.poll_ready(cx)).await.unwrap();
            let (response, stream) = send.send_request(request, false).unwrap();
            let received = Received::within(response.await.unwrap().into_body(), &windows);
            pumps.push(Pump::new(StreamSide::new(stream, received), at, *up));
        }
    };
    beside(opening, &mut driver).await;
    drop(send);
    (below, driver, pumps, far, Rc::default())
}

/// The streams of a server's tunnel, and the future that drives it.
async fn server_end(near: DuplexStream, far: DuplexStream, plan: &Plan) -> Began {
    let (of, done) = (plan.clone(), Rc::<Notify>::default());
    let is_done = done.clone();
    let far = spawn_local(async move {
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(of.peer_window)
            .initial_connection_window_size(of.peer_window.max(65_535));
        let (mut send, connection) = builder.handshake::<_, Bytes>(far).await.unwrap();
        let driver = spawn_local(connection);
        let mut streams = Vec::new();
        for at in 0..of.streams.len() {
            let request = Request::builder().method("CONNECT").uri("10.0.0.1:80").body(()).unwrap();
            poll_fn(|cx| send.poll_ready(cx)).await.unwrap();
            let (response, stream) = send.send_request(request, false).unwrap();
            let recv = response.await.unwrap().into_body();
            streams.push(spawn_local(far_stream(stream, recv, at, of.clone())));
        }
        for stream in streams {
            stream.await.unwrap();
        }
        // The peer is the one to close, when the other end has read all.
        is_done.notified().await;
        drop(send);
        let _ = driver.await.unwrap();
    });
    let (windows, config) = windows(plan.own_window);
    let (io, mut flush) = coalesced_within(near, Role::Server, &windows);
    let below = flush.below();
    let shake = server::handshake_within(io, &config, Some(&windows));
    let mut connection = flush.drive(Instant::now, shake).await.unwrap().unwrap();
    let (tell, mut accepted) = mpsc::unbounded_channel();
    let changes = windows.clone();
    let mut driver: Pin<Box<dyn Future<Output = ()>>> = Box::pin(async move {
        let work = async {
            loop {
                tokio::select! {
                    biased;
                    stream = connection.accept() => match stream {
                        Some(stream) => drop(tell.send(stream.unwrap())),
                        None => return,
                    },
                    window = changes.changed() => connection.set_target_window_size(window),
                }
            }
        };
        let _ = flush.drive(Instant::now, work).await;
    });
    let mut pumps = Vec::new();
    let accepting = async {
        for (at, (up, _)) in plan.streams.iter().enumerate() {
            let (request, mut respond) = accepted.recv().await.unwrap();
            let received = Received::within(request.into_body(), &windows);
            let send = server::accept(&mut respond, None).unwrap();
            pumps.push(Pump::new(StreamSide::new(send, received), at, *up));
        }
    };
    beside(accepting, &mut driver).await;
    (below, driver, pumps, far, done)
}

/// A tunnel, its driver, its streams, the peer, and what the peer hears when all is read.
type Began =
    (Below<DuplexStream>, Pin<Box<dyn Future<Output = ()>>>, Sides, tokio::task::JoinHandle<()>, Rc<Notify>);

/// Runs `work` while `driver` drives its tunnel.
async fn beside(work: impl Future<Output = ()>, driver: &mut Pin<Box<dyn Future<Output = ()>>>) {
    tokio::select! {
        biased;
        () = work => {}
        () = driver => panic!("the tunnel has ended"),
    }
}

/// Has the successor go on with a frozen tunnel. The value crosses as a value: nothing else is shared.
fn go_on<S>(
    (io, frozen, streams): Frozen,
    pumps: Vec<Pump<S>>,
    plan: &Plan,
) -> (AdoptedTunnel, Driver<DuplexStream>, Vec<Pump<AdoptedSide>>) {
    let (windows, _) = windows(plan.own_window);
    let place = Place { windows, max_frame: MAX_FRAME, now: Instant::now };
    let (tunnel, driver) = adopt(io, frozen, place).unwrap();
    let sides = streams.into_iter().map(|(stream, held)| tunnel.side(stream, held).unwrap());
    let pumps =
        pumps.into_iter().zip(sides.collect::<Vec<_>>()).map(|(pump, side)| pump.with(side)).collect();
    (tunnel, driver, pumps)
}

/// Runs a plan. Returns how often the tunnel was carried over.
async fn carry_over(plan: Plan) -> usize {
    let (near, far) = duplex(plan.pipe);
    let (below, mut driver, mut pumps, peer, done) = match plan.role {
        Role::Client => client_end(near, far, &plan).await,
        Role::Server => server_end(near, far, &plan).await,
    };
    let mut freezes = plan.freezes.iter().copied();
    let Some((frozen, streams)) = run(&below, driver.as_mut(), &mut pumps, (freezes.next(), &done)).await
    else {
        peer.await.unwrap();
        return 0;
    };
    let io = below.with(|io| std::mem::replace(io, duplex(1).0));
    let mut next = go_on((io, frozen, streams), pumps, &plan);
    // The former process has forgotten all of it.
    drop((driver, below));
    let mut moved = 1;
    loop {
        let (tunnel, mut driver, mut sides) = next;
        let ended = {
            let driving = async {
                let ended = (&mut driver).await;
                assert_eq!(ended, Ok(()), "the tunnel has failed");
            };
            let mut driving = std::pin::pin!(driving);
            run(&tunnel, driving.as_mut(), &mut sides, (freezes.next(), &done)).await
        };
        let Some((frozen, streams)) = ended else { break };
        let io = std::mem::replace(driver.io(), duplex(1).0);
        next = go_on((io, frozen, streams), sides, &plan);
        moved += 1;
    }
    peer.await.unwrap();
    moved
}

fn carried_over(plan: Plan) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let told = format!("{plan:?}");
    runtime.block_on(LocalSet::new().run_until(async {
        timeout(STUCK_AFTER, carry_over(plan)).await.unwrap_or_else(|_| panic!("stuck: {told}"))
    }))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_tunnel_frozen_anywhere_goes_on_and_the_h2_crate_at_the_other_end_notices_nothing(
        role in prop_oneof![Just(Role::Client), Just(Role::Server)],
        seed in any::<u64>(),
        streams in prop::collection::vec((0..200_000usize, 0..200_000usize), 1..5),
        pipe in prop_oneof![Just(100usize), Just(5_000), Just(60_000)],
        peer_window in prop_oneof![Just(3_000u32), Just(65_535), Just(300_000)],
        own_window in prop_oneof![Just(3_000u32), Just(65_535), Just(300_000)],
        freezes in prop::collection::vec(0..60usize, 0..6),
    ) {
        carried_over(Plan { role, seed, streams, pipe, peer_window, own_window, freezes });
    }
}

#[test]
fn a_tunnel_is_carried_over_as_often_as_it_is_frozen() {
    for role in [Role::Client, Role::Server] {
        let plan = Plan {
            role,
            seed: 1,
            streams: vec![(2_000_000, 2_000_000), (0, 2_000_000), (2_000_000, 0), (1, 1)],
            pipe: 10_000,
            peer_window: 65_535,
            own_window: 100_000,
            freezes: vec![5; 10],
        };
        assert_eq!(carried_over(plan), 10, "{role:?}");
    }
}
