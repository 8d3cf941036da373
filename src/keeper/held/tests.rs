//! What is held is bounded, is given away as it was, and is reset once its time is over.

use std::{
    fs::File,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
};

use tokio::time::timeout;

use super::*;
use crate::protocols::handover::{
    message::encode_record,
    record::{BadRecord, Kind, tests::record},
};

const HOLD: Duration = Duration::from_secs(15);

/// A connection of two sockets: the ends of the applications, and those in between.
pub(crate) fn connection() -> ([TcpStream; 2], Vec<OwnedFd>) {
    let pair = || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        one.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        (one, OwnedFd::from(listener.accept().unwrap().0))
    };
    let ((client, near), (server, far)) = (pair(), pair());
    ([client, server], vec![near, far])
}

/// The message of an offer of one connection.
pub(crate) fn message(number: u64, kind: Kind) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(encode_record(number, record(kind)))
}

fn offered(number: u64) -> Offered {
    Offered { number, outline: Ok(Outline { kind: Kind::Outbound, connections: 1, sockets: 2 }) }
}

fn admit(store: &Store, number: u64, sockets: Vec<OwnedFd>) -> Result<Held, String> {
    store.admit(message(number, Kind::Outbound), sockets, offered(number))
}

fn is_reset(end: &TcpStream) -> bool {
    let mut end = end;
    end.read(&mut [0; 8]).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
}

#[tokio::test(start_paused = true)]
async fn what_is_given_away_is_as_it_was_and_leaves_room() {
    let store = Store::new(HOLD);
    let ([mut client, _server], sockets) = connection();
    client.write_all(b"said meanwhile").unwrap();
    store.put(admit(&store, 3, sockets).unwrap());
    assert_eq!((store.waiting(), store.connections(), store.counts()), (1, 1, (1, 0, 0)));
    let held = store.next().unwrap();
    assert_eq!((held.number, &*held.message), (3, &*message(3, Kind::Outbound)));
    // What is on its way counts.
    assert_eq!((store.waiting(), store.connections()), (0, 1));
    let mut taken = TcpStream::from(held.sockets[0].try_clone().unwrap());
    store.forget(held);
    store.emptied().await;
    assert_eq!((store.connections(), store.counts()), (0, (1, 1, 0)));
    let mut got = [0; 14];
    taken.read_exact(&mut got).unwrap();
    taken.write_all(&got).unwrap();
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"said meanwhile");
}

#[tokio::test(start_paused = true)]
async fn what_nobody_takes_in_time_is_reset_and_nothing_else_is() {
    let store = Store::new(HOLD);
    let (first, sockets) = connection();
    store.put(admit(&store, 1, sockets).unwrap());
    let expiry = store.expire();
    tokio::pin!(expiry);
    timeout(HOLD / 2, expiry.as_mut()).await.unwrap_err();
    let (second, sockets) = connection();
    store.put(admit(&store, 2, sockets).unwrap());
    timeout(HOLD / 2 + LOOK_INTERVAL * 2, expiry.as_mut()).await.unwrap_err();
    assert_eq!((store.waiting(), store.counts()), (1, (2, 0, 1)));
    assert!(first.iter().all(is_reset));
    second[0].set_nonblocking(true).unwrap();
    let waits = (&second[0]).read(&mut [0; 8]).unwrap_err();
    assert_eq!(waits.kind(), io::ErrorKind::WouldBlock);
    second[0].set_nonblocking(false).unwrap();
    // An offer that was on its way meanwhile is over once it is back.
    let held = store.next().unwrap();
    timeout(HOLD, expiry.as_mut()).await.unwrap_err();
    store.put_back(held);
    timeout(LOOK_INTERVAL * 2, expiry.as_mut()).await.unwrap_err();
    assert_eq!((store.waiting(), store.counts()), (0, (2, 0, 2)));
    assert!(second.iter().all(is_reset));
}

#[tokio::test]
async fn what_cannot_be_held_is_refused_by_name_and_left_alone() {
    let store = Store::new(HOLD);
    let ([mut client, mut server], mut sockets) = connection();
    let again = || sockets.iter().map(|fd| fd.try_clone().unwrap()).collect::<Vec<_>>();
    let refused = |sockets| admit(&store, 1, sockets).err().unwrap();
    assert_eq!(refused(Vec::new()), "0 descriptors in the place of 2");
    assert_eq!(refused(again().into_iter().chain(again()).collect()), "4 descriptors in the place of 2");
    let file = OwnedFd::from(File::open("/proc/self/status").unwrap());
    let listener = OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
    for (other, why) in [(file, "a descriptor that is no TCP socket"), (listener, "a socket that listens")] {
        assert_eq!(refused(vec![again().remove(0), other]), why);
    }
    let unknown = Offered { number: 1, outline: Err(BadRecord::Kind(77)) };
    let why = store.admit(message(1, Kind::Outbound), again(), unknown).err().unwrap();
    assert_eq!(why, "a connection of kind 77, which this version does not take");
    assert_eq!(store.connections(), 0);
    // Nobody has touched the connection.
    let mut far = TcpStream::from(sockets.pop().unwrap());
    let mut near = TcpStream::from(sockets.pop().unwrap());
    for (from, to) in [(&mut client, &mut near), (&mut server, &mut far)] {
        from.write_all(b"still here").unwrap();
        to.read_exact(&mut [0; 10]).unwrap();
    }
}

#[test]
fn offers_and_bytes_are_bounded_and_room_comes_back() {
    let store = Store::new(HOLD);
    let half = store.weigh(1, MAX_BYTES / 2).unwrap();
    let full = store.weigh(1, MAX_BYTES / 2).unwrap();
    assert_eq!(store.weigh(1, 1).err().unwrap(), "the keeper holds 67108864 bytes already");
    drop(half);
    drop(store.weigh(1, MAX_BYTES / 2).unwrap());
    drop(full);
    let all: Vec<Weight> = (0..MAX_HELD).map(|_| store.weigh(3, 0).unwrap()).collect();
    assert_eq!(store.weigh(1, 0).err().unwrap(), "the keeper holds 32768 connections and tunnels already");
    assert_eq!(store.connections(), 3 * MAX_HELD);
    drop(all);
    assert_eq!(store.connections(), 0);
}

#[test]
fn a_message_is_held_in_no_more_room_than_it_needs() {
    let mut wide = Zeroizing::new(Vec::with_capacity(1 << 20));
    wide.extend_from_slice(b"message");
    let fitted = fitted(wide);
    assert_eq!((&**fitted, fitted.capacity()), (&b"message"[..], 7));
}

#[tokio::test(start_paused = true)]
async fn at_the_end_everything_is_reset() {
    let store = Store::new(HOLD);
    let (ends, sockets) = connection();
    store.put(admit(&store, 1, sockets).unwrap());
    store.close_all();
    assert!(ends.iter().all(is_reset));
    assert_eq!((store.connections(), store.counts()), (0, (1, 0, 1)));
}
