#![allow(clippy::disallowed_methods, reason = "tests own their tasks by the LocalSet they run in")]

use std::{cell::Cell, rc::Rc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    task::{LocalSet, yield_now},
};

use super::*;

#[tokio::test]
async fn what_is_written_waits_for_more_and_leaves_at_once() {
    let (near, mut far) = duplex(64);
    let (mut io, mut flush) = coalesced(near, Role::Server);
    let (more, turns) = (Cell::new(true), Cell::new(0));
    let driven = flush.drive_behind(Instant::now, || more.get(), async {
        turns.set(turns.get() + 1);
        io.write_all(b"all of it").await.unwrap();
    });
    let others = async {
        yield_now().await;
        let early = turns.get();
        more.set(false);
        early
    };
    let (early, driven) = tokio::join!(others, driven);
    driven.unwrap();
    assert_eq!((early, turns.get()), (0, 1));
    let mut got = [0; 9];
    far.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"all of it");
}

/// SETTINGS, and so many PRIORITY frames.
fn flood(frames: usize) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    for _ in 0..frames {
        bytes.extend_from_slice(&[0, 0, 5, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 9]);
    }
    bytes
}

/// Runs `driven` beside a task that counts its own turns. Returns the error of `driven` and the number of turns.
async fn beside_a_victim<T>(driven: impl Future<Output = io::Result<T>>) -> (String, usize) {
    let turns = Rc::new(Cell::new(0));
    let counted = turns.clone();
    let local = LocalSet::new();
    local.spawn_local(async move {
        loop {
            counted.set(counted.get() + 1);
            yield_now().await;
        }
    });
    let error = local.run_until(driven).await.err().expect("the tunnel goes on");
    (error.to_string(), turns.get())
}

/// The error code of the GOAWAY that `far` ends with.
async fn goaway(mut far: tokio::io::DuplexStream) -> u8 {
    let mut got = Vec::new();
    far.read_to_end(&mut got).await.unwrap();
    let last = got.len() - 17;
    assert_eq!(got[last..last + 9], [0, 0, 8, 7, 0, 0, 0, 0, 0]);
    got[got.len() - 1]
}

#[tokio::test]
async fn a_flood_of_frames_that_move_nothing_gives_others_their_turns_and_ends_the_tunnel() {
    // At least as many turns as there are budgets in the frames after which the peer is found out.
    const TURNS: usize = 2 * 4096 / 1024;
    let (near, mut far) = duplex(1 << 20);
    far.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    far.write_all(&flood(20_000)).await.unwrap();
    let (io, mut flush) = coalesced(near, Role::Server);
    let driven = flush.drive(Instant::now, async {
        let mut connection = h2::server::handshake(io).await.unwrap();
        while let Some(Ok(_)) = connection.accept().await {}
    });
    let (error, turns) = beside_a_victim(driven).await;
    drop(flush);
    assert_eq!(error, PeerFloods.to_string());
    assert!(turns >= TURNS, "{turns} turns");
    assert_eq!(goaway(far).await, 0xb);

    let (near, mut far) = duplex(1 << 20);
    far.write_all(&flood(20_000)).await.unwrap();
    let (io, mut flush) = coalesced(near, Role::Client);
    let driven = flush.drive(Instant::now, async {
        let (_send, connection) = h2::client::handshake(io).await.unwrap();
        connection.await
    });
    let (error, turns) = beside_a_victim(driven).await;
    drop(flush);
    assert_eq!(error, PeerFloods.to_string());
    assert!(turns >= TURNS, "{turns} turns");
    assert_eq!(goaway(far).await, 0xb);
}
