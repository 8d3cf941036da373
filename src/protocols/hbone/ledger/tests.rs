//! A ledger at each end of a connection of the h2 crate, whose windows it has to know whatever both ends do.

#![allow(clippy::disallowed_methods, reason = "tests own their tasks by the LocalSet they run in")]

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop, prop_oneof, proptest};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex},
    sync::mpsc,
    task::{LocalSet, spawn_local, yield_now},
    time::timeout,
};

use super::*;
use crate::protocols::hbone::wire::{END_HEADERS, Headers};

/// Far beyond what any of this takes.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// What passes at one end.
struct Seen {
    ledger: Ledger,
    received: Headers,
    sent: Headers,
    bytes: usize,
}

/// The bytes on their way between both ends. Two ends of the h2 crate that both change their settings while neither can
/// write wait for each other, so that there is room for all that they send.
const PIPE: usize = 4 << 20;

/// A byte stream that passes so many bytes at a time, and whose frames are entered in a ledger.
struct Tap(DuplexStream, Rc<RefCell<Seen>>, usize);

impl Tap {
    fn new(io: DuplexStream, role: Role, piece: usize) -> (Self, Rc<RefCell<Seen>>) {
        let (received, sent) = match role {
            Role::Client => (Headers::default(), Headers::after_preface()),
            Role::Server => (Headers::after_preface(), Headers::default()),
        };
        let seen = Rc::new(RefCell::new(Seen { ledger: Ledger::new(role), received, sent, bytes: 0 }));
        (Self(io, seen.clone(), piece), seen)
    }
}

impl AsyncRead for Tap {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let most = buf.remaining().min(self.2);
        let mut piece = ReadBuf::new(buf.initialize_unfilled_to(most));
        let read = Pin::new(&mut self.0).poll_read(cx, &mut piece);
        let n = piece.filled().len();
        buf.advance(n);
        let Seen { ledger, received, bytes, .. } = &mut *self.1.borrow_mut();
        *bytes += buf.filled().len() - before;
        received.pass(&buf.filled()[before..], |passed, _| ledger.received(passed));
        read
    }
}

impl AsyncWrite for Tap {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let most = buf.len().min(self.2);
        let written = Pin::new(&mut self.0).poll_write(cx, &buf[..most]);
        if let Poll::Ready(Ok(n)) = written {
            let Seen { ledger, sent, bytes, .. } = &mut *self.1.borrow_mut();
            *bytes += n;
            sent.pass(&buf[..n], |passed, _| ledger.sent(passed));
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// What one end does. `true`: the client.
#[derive(Clone, Debug)]
enum Op {
    Open,
    Send(bool, usize, usize),
    End(bool, usize),
    Trailers(bool, usize),
    Reset(bool, usize),
    /// The reader takes what has come.
    Read(bool, usize),
    Window(bool, u32),
    ConnectionWindow(bool, u32),
    Settle,
}

fn op() -> impl Strategy<Value = Op> {
    let (end, stream) = (any::<bool>(), 0..6usize);
    prop_oneof![
        2 => Just(Op::Open),
        6 => (end, stream.clone(), 0..60_000usize).prop_map(|(end, at, n)| Op::Send(end, at, n)),
        1 => (end, stream.clone()).prop_map(|(end, at)| Op::End(end, at)),
        1 => (end, stream.clone()).prop_map(|(end, at)| Op::Trailers(end, at)),
        1 => (end, stream.clone()).prop_map(|(end, at)| Op::Reset(end, at)),
        4 => (end, stream).prop_map(|(end, at)| Op::Read(end, at)),
        1 => (end, 0..200_000u32).prop_map(|(end, n)| Op::Window(end, n)),
        1 => (end, 65_535..400_000u32).prop_map(|(end, n)| Op::ConnectionWindow(end, n)),
        2 => Just(Op::Settle),
    ]
}

/// One end of a stream.
struct Half {
    send: SendStream<Bytes>,
    recv: RecvStream,
    ended: bool,
}

impl Half {
    fn id(&self) -> u32 {
        self.send.stream_id().into()
    }

    /// Takes what has come, without waiting.
    fn read(&mut self) {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        while let Poll::Ready(Some(Ok(bytes))) = self.recv.poll_data(&mut cx) {
            let _ = self.recv.flow_control().release_capacity(bytes.len());
        }
    }

    /// What h2 would send now.
    fn room(&mut self) -> usize {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        self.send.reserve_capacity(1 << 30);
        let _ = self.send.poll_capacity(&mut cx);
        let room = self.send.capacity();
        self.send.reserve_capacity(0);
        room
    }
}

/// A change of an end's own windows.
enum Change {
    Initial(u32),
    Connection(u32),
}

/// One end of a connection.
struct End {
    seen: Rc<RefCell<Seen>>,
    halves: Vec<Half>,
    changes: mpsc::UnboundedSender<Change>,
}

impl End {
    fn half(&mut self, at: usize) -> Option<&mut Half> {
        let count = self.halves.len();
        self.halves.get_mut(at % count.max(1))
    }

    /// What the ledger says about the streams that the end still has, and what h2 says.
    fn check(&mut self, name: &str) {
        let seen = self.seen.borrow();
        assert!(seen.received.is_between_frames() && seen.sent.is_between_frames(), "{name}: not quiet");
        let connection = seen.ledger.windows().0;
        for half in &mut self.halves {
            let expected = match seen.ledger.standing(half.id()) {
                Standing::Open(stream) if !stream.sent_all => stream.send.min(connection).max(0),
                _ => continue,
            };
            if !half.ended {
                assert_eq!(half.room() as i64, expected, "{name}: stream {}", half.id());
            }
        }
    }
}

/// Waits until nothing moves any more.
async fn settle(ends: &[End; 2]) {
    let state = || ends.each_ref().map(|end| end.seen.borrow().bytes);
    let (mut last, mut quiet) = (state(), 0);
    while quiet < 60 {
        yield_now().await;
        let now = state();
        quiet = if now == last { quiet + 1 } else { 0 };
        last = now;
    }
}

/// What one end may send is what the other one expects.
fn mirrored([client, server]: &[End; 2]) {
    let [near, far] = [client, server].map(|end| end.seen.borrow().ledger.snapshot().unwrap());
    near.check().unwrap();
    far.check().unwrap();
    assert_eq!((near.send, near.receive), (far.receive, far.send));
    assert_eq!((near.last_own, near.acks_owed, far.acks_owed), (far.last_peer, 0, 0));
    assert_eq!((near.peer.initial_window, far.peer.initial_window), (far.own_initial, near.own_initial));
    let mirror = |stream: &StreamSnapshot| StreamSnapshot {
        id: stream.id,
        send: stream.receive,
        receive: stream.send,
        sent_all: stream.received_all,
        received_all: stream.sent_all,
    };
    assert_eq!(near.streams, far.streams.iter().map(mirror).collect::<Vec<_>>());
    for (snapshot, end) in [(near, client), (far, server)] {
        let restored = Ledger::restore(&snapshot).unwrap();
        assert_eq!(restored.snapshot(), Some(snapshot), "of {:?}", end.seen.borrow().ledger.role());
    }
}

async fn run(ops: Vec<Op>, piece: usize) {
    let (near, far) = duplex(PIPE);
    let (near, near_seen) = Tap::new(near, Role::Client, piece);
    let (far, far_seen) = Tap::new(far, Role::Server, piece);
    let (tell, mut accepted) = mpsc::unbounded_channel();
    let (server_changes, mut changes) = mpsc::unbounded_channel();
    spawn_local(async move {
        let mut builder = h2::server::Builder::new();
        let mut connection = builder.max_send_buffer_size(1 << 30).handshake(far).await.unwrap();
        loop {
            tokio::select! {
                biased;
                accepted = connection.accept() => match accepted {
                    Some(Ok((request, mut respond))) => {
                        // The stream may be reset by now.
                        if let Ok(send) = respond.send_response(Response::new(()), false) {
                            let _ = tell.send(Half { send, recv: request.into_body(), ended: false });
                        }
                    }
                    _ => return,
                },
                Some(change) = changes.recv() => match change {
                    Change::Initial(window) => drop(connection.set_initial_window_size(window)),
                    Change::Connection(window) => connection.set_target_window_size(window),
                },
            }
        }
    });
    let mut builder = h2::client::Builder::new();
    let (mut opener, mut connection) =
        builder.max_send_buffer_size(1 << 30).handshake::<_, Bytes>(near).await.unwrap();
    let (client_changes, mut changes) = mpsc::unbounded_channel();
    spawn_local(async move {
        loop {
            tokio::select! {
                biased;
                _ = &mut connection => return,
                Some(change) = changes.recv() => match change {
                    Change::Initial(window) => drop(connection.set_initial_window_size(window)),
                    Change::Connection(window) => connection.set_target_window_size(window),
                },
            }
        }
    });
    let end = |seen, changes| End { seen, halves: Vec::new(), changes };
    let mut ends = [end(near_seen, client_changes), end(far_seen, server_changes)];
    for op in ops.into_iter().chain([Op::Settle]) {
        let of = |client: bool| usize::from(!client);
        match op {
            Op::Open => {
                let request = Request::builder().method(Method::CONNECT).uri("10.0.0.1:80").body(()).unwrap();
                poll_fn(|cx| opener.poll_ready(cx)).await.unwrap();
                let (response, send) = opener.send_request(request, false).unwrap();
                let (answer, half) = tokio::join!(response, accepted.recv());
                ends[0].halves.push(Half { send, recv: answer.unwrap().into_body(), ended: false });
                ends[1].halves.push(half.unwrap());
            }
            Op::Send(client, at, n) => {
                let Some(half) = ends[of(client)].half(at) else { continue };
                let n = n.min(half.room());
                if !half.ended && n > 0 {
                    half.send.reserve_capacity(n);
                    let _ = half.send.send_data(Bytes::from(vec![7; n]), false);
                }
            }
            Op::End(client, at) => {
                let Some(half) = ends[of(client)].half(at) else { continue };
                if !std::mem::replace(&mut half.ended, true) {
                    let _ = half.send.send_data(Bytes::new(), true);
                }
            }
            Op::Trailers(client, at) => {
                let Some(half) = ends[of(client)].half(at) else { continue };
                if !std::mem::replace(&mut half.ended, true) {
                    // More than one frame of them.
                    let value = HeaderValue::from_bytes(&[b'~'; 20_000]).unwrap();
                    let _ =
                        half.send.send_trailers(HeaderMap::from_iter([("x-end".parse().unwrap(), value)]));
                }
            }
            Op::Reset(client, at) => {
                let Some(half) = ends[of(client)].half(at) else { continue };
                half.ended = true;
                half.send.send_reset(Reason::CANCEL);
            }
            Op::Read(client, at) => ends[of(client)].half(at).into_iter().for_each(Half::read),
            Op::Window(client, window) => drop(ends[of(client)].changes.send(Change::Initial(window))),
            Op::ConnectionWindow(client, window) => {
                drop(ends[of(client)].changes.send(Change::Connection(window)));
            }
            Op::Settle => {
                settle(&ends).await;
                mirrored(&ends);
                ends[0].check("client");
                ends[1].check("server");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_ledger_knows_the_windows_of_the_h2_crate_at_either_end(
        ops in prop::collection::vec(op(), 1..60),
        piece in prop_oneof![Just(7usize), Just(1000), Just(100_000)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(LocalSet::new().run_until(async {
            timeout(STUCK_AFTER, run(ops, piece)).await.expect("stuck");
        }));
    }
}

fn header(kind: u8, flags: u8, stream: u32, payload: u32) -> Passed {
    Passed::Frame(Header { payload, kind, flags, stream })
}

#[test]
fn an_initial_window_counts_once_it_is_acknowledged_and_may_leave_a_debt() {
    let mut ledger = Ledger::new(Role::Server);
    ledger.received(header(HEADERS, 4, 1, 10));
    ledger.received(header(DATA, 0, 1, 60_000));
    ledger.sent(header(SETTINGS, 0, 0, 6));
    ledger.sent(Passed::Setting(INITIAL_WINDOW, 10_000));
    let receive = |ledger: &Ledger| ledger.streams()[0].receive;
    assert_eq!((receive(&ledger), ledger.unacknowledged()), (5_535, (0, 1)));
    ledger.received(header(SETTINGS, ACK, 0, 0));
    assert_eq!((receive(&ledger), ledger.unacknowledged()), (-50_000, (0, 0)));
    ledger.received(header(HEADERS, 4, 3, 10));
    assert_eq!(ledger.streams()[1].receive, 10_000);
    assert_eq!(ledger.windows(), (65_535, 5_535));
}

#[test]
fn a_stream_of_this_end_is_named_once_it_is_answered_and_one_of_the_peer_at_once() {
    use Mention::{Later, Never, Now};
    let mut ledger = Ledger::new(Role::Client);
    let told = |ledger: &Ledger| [1, 2, 3, 5].map(|id| ledger.may_update(id));
    assert_eq!(told(&ledger), [Later; 4]);
    [1, 3, 5].into_iter().for_each(|id| ledger.sent(header(HEADERS, 4, id, 10)));
    ledger.received(header(HEADERS, 4, 2, 10));
    assert_eq!(told(&ledger), [Later, Now, Later, Later]);
    ledger.received(header(HEADERS, 4, 3, 10));
    assert_eq!(told(&ledger), [Later, Now, Now, Later]);
    ledger.received(header(RST_STREAM, 0, 1, 4));
    // The peer has ignored the last stream.
    ledger.received(Passed::GoAway(3));
    assert_eq!(told(&ledger), [Never, Now, Now, Never]);
    let restored = Ledger::restore(&ledger.snapshot().unwrap()).unwrap();
    assert_eq!(told(&restored), [Never, Now, Now, Never]);
}

#[test]
fn a_ledger_past_its_bounds_has_no_snapshot() {
    let mut ledger = Ledger::new(Role::Client);
    for at in 0..MAX_STREAMS as u32 {
        ledger.sent(header(HEADERS, 4, 2 * at + 1, 10));
    }
    assert!(ledger.snapshot().is_some());
    ledger.sent(header(HEADERS, 4, 2 * MAX_STREAMS as u32 + 1, 10));
    assert_eq!(ledger.snapshot(), None);

    let mut ledger = Ledger::new(Role::Client);
    (0..=MAX_UNACKNOWLEDGED).for_each(|_| ledger.sent(header(SETTINGS, 0, 0, 0)));
    assert_eq!(ledger.snapshot(), None);
}

#[test]
fn streams_that_were_reset_are_remembered_up_to_a_bound() {
    let mut ledger = Ledger::new(Role::Server);
    for at in 0..=MAX_RESET as u32 {
        ledger.received(header(HEADERS, 4, 2 * at + 1, 10));
        ledger.sent(header(RST_STREAM, 0, 2 * at + 1, 4));
    }
    assert_eq!(ledger.standing(1), Standing::Closed { reset: false });
    assert_eq!(ledger.standing(3), Standing::Closed { reset: true });
    assert_eq!(ledger.snapshot().unwrap().reset.len(), MAX_RESET);
}

#[test]
fn what_no_connection_can_be_like_is_refused() {
    let mut good = Ledger::new(Role::Client);
    good.sent(header(HEADERS, 4, 1, 10));
    let good = good.snapshot().unwrap();
    assert_eq!(good.check(), Ok(()));
    let changed = |change: fn(&mut Snapshot)| {
        let mut bad = good.clone();
        change(&mut bad);
        Ledger::restore(&bad).map(drop)
    };
    assert_eq!(changed(|s| s.send = 1 << 31), Err(BadSnapshot::Window(1 << 31)));
    assert_eq!(changed(|s| s.own_pending = vec![Some(u32::MAX)]), Err(BadSnapshot::Window(u32::MAX.into())));
    assert_eq!(changed(|s| s.streams[0].receive = i64::MIN), Err(BadSnapshot::Window(i64::MIN)));
    assert_eq!(changed(|s| s.peer.max_frame = 100), Err(BadSnapshot::Frame(100)));
    assert_eq!(changed(|s| s.streams[0].id = 3), Err(BadSnapshot::Stream(3)));
    assert_eq!(changed(|s| s.streams.push(s.streams[0])), Err(BadSnapshot::Stream(1)));
    assert_eq!(
        changed(|s| (s.streams[0].sent_all, s.streams[0].received_all) = (true, true)),
        Err(BadSnapshot::Stream(1))
    );
    assert_eq!(changed(|s| s.reset = vec![1; 2000]), Err(BadSnapshot::TooMany("streams that were reset")));
    assert_eq!(changed(|s| s.acks_owed = 5), Err(BadSnapshot::TooMany("settings")));
}

#[test]
fn a_stream_beyond_the_last_goaway_is_none_that_goes_on() {
    let mut ledger = Ledger::new(Role::Server);
    let headers = |stream| Passed::Frame(Header { payload: 4, kind: HEADERS, flags: END_HEADERS, stream });
    let data = |stream| Passed::Frame(Header { payload: 10, kind: DATA, flags: 0, stream });
    ledger.received(headers(1));
    // The first goodbye names no last stream yet.
    ledger.sent(Passed::GoAway(u32::MAX >> 1));
    ledger.received(headers(3));
    ledger.sent(Passed::GoAway(3));
    ledger.received(headers(5));
    ledger.received(data(5));
    let open: Vec<u32> = ledger.streams().iter().map(|stream| stream.id).collect();
    assert_eq!(open, [1, 3]);
    assert!(matches!(ledger.standing(5), Standing::Closed { reset: true }));
    let snapshot = ledger.snapshot().unwrap();
    snapshot.check().unwrap();
    assert_eq!((snapshot.last_peer, snapshot.goaway_sent, &snapshot.reset[..]), (5, Some(3), &[5][..]));
    assert_eq!(snapshot.receive, 65_535 - 10);
}
