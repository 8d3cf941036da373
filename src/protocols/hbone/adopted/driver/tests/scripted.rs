//! What a taken-over tunnel does turn by turn, and what its peer and its streams hear.

use std::cell::Cell;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::io::poll_read_buf;

use super::*;
use crate::protocols::{
    hbone::{
        adopted::tunnel::NoSuchStream,
        ledger::{PeerSettings, Snapshot, StreamSnapshot},
    },
    relay::RelayError,
};

/// A tunnel with the streams 1 and 3 that was taken over, and the peer's end of its connection.
fn scripted() -> (AdoptedTunnel, Driver<DuplexStream>, DuplexStream) {
    scripted_as(false)
}

/// The same; the peer may have ended its halves of the streams before.
fn scripted_as(received_all: bool) -> (AdoptedTunnel, Driver<DuplexStream>, DuplexStream) {
    let stream = |id| StreamSnapshot { id, send: 1000, receive: 1000, sent_all: false, received_all };
    let ledger = Snapshot {
        role: Role::Client,
        send: 5000,
        receive: 70_000,
        peer: PeerSettings { initial_window: 1000, max_frame: MAX_FRAME },
        own_initial: 1000,
        own_pending: vec![],
        acks_owed: 0,
        last_own: 3,
        last_peer: 0,
        goaway_sent: None,
        goaway_received: None,
        streams: vec![stream(1), stream(3)],
        reset: vec![],
    };
    let (near, far) = duplex(100_000);
    let frozen = FrozenHttp2 { ledger, unread: Bytes::new(), unsent: Bytes::new() };
    let place = Place { windows: windows(1000).0, max_frame: MAX_FRAME, now: Instant::now };
    let (tunnel, driver) = adopt(near, frozen, place).unwrap();
    (tunnel, driver, far)
}

fn frozen(id: u32) -> FrozenStream {
    FrozenStream { id, received: Bytes::new(), ended: false, finished: false, sent: 0 }
}

/// Has the driver take a turn, and returns what the peer has got then.
async fn turn(
    driver: &mut Driver<DuplexStream>,
    far: &mut DuplexStream,
) -> (Poll<Result<(), Ended>>, Vec<u8>) {
    let ended = poll_fn(|cx| Poll::Ready(Pin::new(&mut *driver).poll(cx))).await;
    let mut got = BytesMut::with_capacity(100_000);
    let mut cx = Context::from_waker(Waker::noop());
    while let Poll::Ready(Ok(1..)) = poll_read_buf(Pin::new(&mut *far), &mut cx, &mut got) {}
    (ended, got.to_vec())
}

fn chunk(side: &mut AdoptedSide) -> Poll<Result<Bytes, End>> {
    side.poll_chunk(&mut Context::from_waker(Waker::noop()), 100, &Buffers::default())
}

const RESET_1: [u8; 13] = [0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8];
const RESET_3: [u8; 13] = [0, 0, 4, 3, 0, 0, 0, 0, 3, 0, 0, 0, 8];

#[tokio::test]
async fn a_stream_that_nobody_goes_on_with_is_reset_and_so_is_one_that_is_given_up() {
    let (tunnel, mut driver, mut far) = scripted();
    let side = tunnel.side(frozen(3), 0).unwrap();
    let (ended, got) = turn(&mut driver, &mut far).await;
    assert!(ended.is_pending() && got == RESET_1, "{got:?}");
    drop(side);
    let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let (ended, got) = turn(&mut driver, &mut far).await;
    assert!(ended == Poll::Ready(Ok(())) && got == [&RESET_3[..], &goaway].concat(), "{got:?}");
}

#[tokio::test]
async fn a_stream_goes_on_only_as_its_tunnel_has_it_and_once() {
    let (tunnel, _driver, _far) = scripted();
    assert_eq!(tunnel.side(frozen(5), 0).err(), Some(NoSuchStream::Unknown(5)));
    let ended = FrozenStream { ended: true, ..frozen(1) };
    assert_eq!(tunnel.side(ended, 0).err(), Some(NoSuchStream::Unknown(1)));
    let _side = tunnel.side(frozen(1), 0).unwrap();
    assert_eq!(tunnel.side(frozen(1), 0).err(), Some(NoSuchStream::Twice(1)));
}

#[tokio::test]
async fn a_reset_ends_its_stream_after_what_came_before_and_no_other() {
    let (tunnel, mut driver, mut far) = scripted();
    let (mut first, mut third) = (tunnel.side(frozen(1), 0).unwrap(), tunnel.side(frozen(3), 0).unwrap());
    far.write_all(&[0, 0, 2, 0, 0, 0, 0, 0, 1, b'h', b'i']).await.unwrap();
    far.write_all(&[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 2]).await.unwrap();
    assert!(turn(&mut driver, &mut far).await.0.is_pending());
    assert!(matches!(chunk(&mut first), Poll::Ready(Ok(bytes)) if bytes == "hi"));
    let gone = chunk(&mut first);
    assert!(
        matches!(gone, Poll::Ready(Err(End::Gone(Some(RelayError::PeerReset(Reason::INTERNAL_ERROR)))))),
        "{gone:?}"
    );
    assert!(chunk(&mut third).is_pending());
    // The peer knows that stream 1 is gone.
    drop(first);
    assert_eq!(turn(&mut driver, &mut far).await.1, b"");
}

#[tokio::test]
async fn a_violation_tells_the_peer_and_all_streams() {
    let (tunnel, mut driver, mut far) = scripted();
    let mut side = tunnel.side(frozen(1), 0).unwrap();
    far.write_all(&[0, 0, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
    let (ended, got) = turn(&mut driver, &mut far).await;
    let violation = Ended::Violation(Reason::PROTOCOL_ERROR);
    assert_eq!(ended, Poll::Ready(Err(violation.clone())));
    let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    assert_eq!(got, [&RESET_3[..], &goaway].concat());
    let Poll::Ready(Err(End::Gone(Some(error)))) = chunk(&mut side) else { panic!("goes on") };
    assert!(error.to_string().contains(&violation.to_string()), "{error}");
}

#[tokio::test]
async fn an_end_by_this_end_or_by_the_connection_is_told() {
    let (tunnel, mut driver, mut far) = scripted();
    let _sides = [tunnel.side(frozen(1), 0).unwrap(), tunnel.side(frozen(3), 0).unwrap()];
    tunnel.leave(Reason::NO_ERROR);
    let (ended, got) = turn(&mut driver, &mut far).await;
    assert_eq!(ended, Poll::Ready(Err(Ended::Left(Reason::NO_ERROR))));
    assert_eq!(got, [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);

    let (tunnel, mut driver, far) = scripted();
    let mut side = tunnel.side(frozen(1), 0).unwrap();
    drop(far);
    let ended = poll_fn(|cx| Pin::new(&mut driver).poll(cx)).await;
    assert_eq!(ended, Err(Ended::Closed));
    assert!(matches!(chunk(&mut side), Poll::Ready(Err(End::Gone(Some(_))))));
}

#[tokio::test]
async fn a_ping_ends_with_its_answer() {
    let (tunnel, mut driver, mut far) = scripted();
    let _sides = [tunnel.side(frozen(1), 0).unwrap(), tunnel.side(frozen(3), 0).unwrap()];
    let mut ping = std::pin::pin!(tunnel.ping());
    assert!(poll_fn(|cx| Poll::Ready(ping.as_mut().poll(cx))).await.is_pending());
    let (_, mut got) = turn(&mut driver, &mut far).await;
    assert_eq!((got.len(), got[3]), (17, 6));
    got[4] = 1;
    far.write_all(&got).await.unwrap();
    assert!(turn(&mut driver, &mut far).await.0.is_pending());
    ping.await;
}

/// One end of a tunnel with streams, both ends of which were taken over.
fn bulk_end(role: Role, io: DuplexStream, streams: &[u32]) -> (Driver<DuplexStream>, Vec<AdoptedSide>) {
    const WINDOW: i64 = 1 << 30;
    let last = streams.iter().max().copied().unwrap_or_default();
    let (last_own, last_peer) = if role == Role::Client { (last, 0) } else { (0, last) };
    let stream =
        |id| StreamSnapshot { id, send: WINDOW, receive: WINDOW, sent_all: false, received_all: false };
    let ledger = Snapshot {
        role,
        send: WINDOW,
        receive: WINDOW,
        peer: PeerSettings { initial_window: 65_535, max_frame: MAX_FRAME },
        own_initial: 65_535,
        own_pending: vec![],
        acks_owed: 0,
        last_own,
        last_peer,
        goaway_sent: None,
        goaway_received: None,
        streams: streams.iter().map(|id| stream(*id)).collect(),
        reset: vec![],
    };
    let frozen_http2 = FrozenHttp2 { ledger, unread: Bytes::new(), unsent: Bytes::new() };
    let place = Place { windows: windows(1 << 20).0, max_frame: MAX_FRAME, now: Instant::now };
    let (tunnel, driver) = adopt(io, frozen_http2, place).unwrap();
    (driver, streams.iter().map(|id| tunnel.side(frozen(*id), 0).unwrap()).collect())
}

#[tokio::test]
async fn streams_that_all_have_more_than_there_is_room_for_share_it() {
    const BYTES: usize = 16 << 20;
    let (near, mut far) = duplex(64 * 1024);
    let (driver, sides) = bulk_end(Role::Client, near, &[1, 3, 5, 7]);
    let sent: Rc<[Cell<usize>; 4]> = Rc::default();
    let tasks = LocalSet::new();
    tasks.spawn_local(driver);
    for (number, mut side) in sides.into_iter().enumerate() {
        let sent = sent.clone();
        tasks.spawn_local(async move {
            // As a relay whose source always has more.
            while let Ok(room) = poll_fn(|cx| side.poll_room(cx, 16 * 1024)).await {
                let mut bytes = Bytes::from(vec![7; room]);
                sent[number].set(sent[number].get() + room);
                assert!(poll_fn(|cx| side.poll_write(cx, &mut bytes, false)).await.is_ok());
            }
        });
    }
    let reading = async {
        let mut room = vec![0; 64 * 1024];
        let mut got = 0;
        while got < BYTES {
            got += far.read(&mut room).await.unwrap();
        }
    };
    timeout(STUCK_AFTER, tasks.run_until(reading)).await.expect("stuck");
    let sent = sent.each_ref().map(Cell::get);
    assert!(sent.iter().all(|sent| *sent > BYTES / 8), "{sent:?}");
}

#[tokio::test]
async fn two_ends_that_both_send_without_end_do_not_wait_for_each_other() {
    const BYTES: usize = 4 << 20;
    let (near, far) = duplex(5_000);
    let (mut near, mut first) = bulk_end(Role::Client, near, &[1]);
    let (mut far, mut second) = bulk_end(Role::Server, far, &[1]);
    let mut ends = [(first.remove(0), 0, 0), (second.remove(0), 0, 0)];
    let all = poll_fn(|cx| {
        for (side, sent, got) in &mut ends {
            while *sent < BYTES
                && let Poll::Ready(room) = side.poll_room(cx, BYTES - *sent)
            {
                let mut bytes = Bytes::from(vec![7; room.unwrap()]);
                *sent += bytes.len();
                assert!(side.poll_write(cx, &mut bytes, *sent == BYTES).is_ready());
            }
            while let Poll::Ready(Ok(bytes)) = side.poll_chunk(cx, BYTES, &Buffers::default()) {
                *got += bytes.len();
                side.passed(bytes.len());
            }
        }
        let driven = [Pin::new(&mut near).poll(cx), Pin::new(&mut far).poll(cx)];
        if driven.iter().all(Poll::is_ready) { Poll::Ready(driven) } else { Poll::Pending }
    });
    let done = timeout(STUCK_AFTER, all).await.expect("stuck");
    assert_eq!(done, [Poll::Ready(Ok(())), Poll::Ready(Ok(()))]);
    for (side, _, got) in &mut ends {
        while let Poll::Ready(Ok(bytes)) = chunk(side) {
            *got += bytes.len();
        }
    }
    assert_eq!(ends.map(|(_, sent, got)| (sent, got)), [(BYTES, BYTES); 2]);
}

#[tokio::test]
async fn a_peer_that_asks_and_reads_no_answers_is_left_alone_until_it_reads() {
    let (tunnel, mut driver, mut far) = scripted();
    let _sides = [tunnel.side(frozen(1), 0).unwrap(), tunnel.side(frozen(3), 0).unwrap()];
    // SETTINGS, each of which has to be acknowledged. The answers do not fit between both ends.
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0].repeat(4_000);
    let mut sent = 0;
    let mut stuck = 0;
    while stuck < 10 {
        let mut cx = Context::from_waker(Waker::noop());
        let at = sent % settings.len();
        stuck += 1;
        if let Poll::Ready(Ok(n)) = Pin::new(&mut far).poll_write(&mut cx, &settings[at..]) {
            (sent, stuck) = (sent + n, 0);
        }
        let ended = poll_fn(|cx| Poll::Ready(Pin::new(&mut driver).poll(cx))).await;
        assert!(ended.is_pending(), "{ended:?}");
    }
    // What is on the way to the peer, what waits, and what is on the way from it.
    assert!(sent < 400_000, "{sent} bytes of questions were taken");
}

#[tokio::test]
async fn the_reset_of_a_stream_whose_peer_had_ended_before_is_heard() {
    let (tunnel, mut driver, mut far) = scripted_as(true);
    let ended = |id| FrozenStream { ended: true, ..frozen(id) };
    let mut drained = tunnel.side(ended(1), 0).unwrap();
    // The relay of this one has bytes for its application, and has not heard of the end.
    let mut behind = tunnel.side(ended(3), 10).unwrap();
    far.write_all(&[RESET_1, RESET_3].concat()).await.unwrap();
    assert!(turn(&mut driver, &mut far).await.0 == Poll::Ready(Ok(())), "both streams have ended");
    let mut cx = Context::from_waker(Waker::noop());
    assert!(drained.poll_idle(&mut cx).is_ready());
    assert!(behind.poll_idle(&mut cx).is_pending());
    assert!(matches!(chunk(&mut behind), Poll::Ready(Err(End::Finished))));
    assert!(behind.poll_idle(&mut cx).is_ready());
}
