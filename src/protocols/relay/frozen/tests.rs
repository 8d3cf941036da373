//! A relay that stands still and goes on, in the same value or in another relay, loses and repeats no byte.

use std::{future::poll_fn, os::fd::AsFd, pin::Pin, task::Poll};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;
use crate::protocols::{
    relay::{
        Attention, relay,
        tcp::TcpSide,
        tests::{Counts, tcp},
    },
    tls::buffer::Buffers,
};

/// The socket of a side under another descriptor.
fn other(side: &TcpSide) -> TcpStream {
    let fd = side.plain().unwrap().as_fd().try_clone_to_owned().unwrap();
    TcpStream::from_std(fd.into()).unwrap()
}

/// Exchanges `sent` in both directions, reading a few bytes at a time.
async fn exchange(mut stream: TcpStream, sent: &[u8]) -> Vec<u8> {
    let (mut read, mut write) = stream.split();
    let mut got = Vec::new();
    let (read, written) = tokio::join!(
        async {
            let mut room = vec![0; 9_000];
            loop {
                match read.read(&mut room).await? {
                    0 => return Ok::<_, std::io::Error>(()),
                    n => got.extend_from_slice(&room[..n]),
                }
                tokio::task::yield_now().await;
            }
        },
        async {
            write.write_all(sent).await?;
            write.shutdown().await
        }
    );
    read.and(written).unwrap();
    got
}

/// Relays with a new relay after every few polls, until both directions have ended. Returns the number of relays.
async fn relay_in_steps(a: TcpStream, b: TcpStream, counts: &Counts, steps: usize) -> usize {
    let buffers = Buffers::default();
    let mut current = relay(TcpSide::new(a), TcpSide::new(b), counts, &buffers);
    for relays in 1.. {
        for _ in 0..steps {
            let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut current).poll(cx))).await;
            if let Poll::Ready(relayed) = polled {
                relayed.unwrap();
                return relays;
            }
            tokio::task::yield_now().await;
        }
        let Some(frozen) = current.freeze() else { continue };
        let (a, b) = (other(current.sides().0), other(current.sides().1));
        current = relay(TcpSide::new(a), TcpSide::new(b), counts, &buffers).resume(frozen);
    }
    unreachable!()
}

#[tokio::test]
async fn relays_that_follow_each_other_carry_every_byte() {
    let sent: Vec<u8> = (0..3_000_000u32).map(|i| (i * 7 + i / 251) as u8).collect();
    // A relay that is new learns only after a while that its sockets are ready.
    let mut most = 0;
    for steps in [3, 8] {
        let ((client, a), (b, server)) = (tcp().await, tcp().await);
        let counts = Counts::default();
        let (relays, down, up) = tokio::join!(
            relay_in_steps(a, b, &counts, steps),
            exchange(client, &sent),
            exchange(server, &sent)
        );
        most = relays.max(most);
        assert!(down == sent && up == sent, "bytes differ after {relays} relays");
        assert_eq!((counts.0.get(), counts.1.get()), (sent.len(), sent.len()));
    }
    assert!(most > 1, "no relay followed another");
}

#[tokio::test]
async fn a_half_closed_connection_goes_on_in_another_relay() {
    let ((mut client, a), (b, mut server)) = (tcp().await, tcp().await);
    let (counts, buffers) = (Counts::default(), Buffers::default());
    let mut first = relay(TcpSide::new(a), TcpSide::new(b), &counts, &buffers);
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut got = Vec::new();
    tokio::select! {
        _ = &mut first => panic!("the relay has ended"),
        read = server.read_to_end(&mut got) => assert_eq!(read.unwrap(), 8),
    }
    let frozen = first.freeze().unwrap();
    assert_eq!((frozen.forth.progress, frozen.back.progress), (Progress::Ended, Progress::Open));
    let (a, b) = (other(first.sides().0), other(first.sides().1));
    drop(first);
    let second = relay(TcpSide::new(a), TcpSide::new(b), &counts, &buffers).resume(frozen);
    let (relayed, ()) = tokio::join!(second, async {
        server.write_all(b"answer").await.unwrap();
        drop(server);
        let mut got = String::new();
        client.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "answer");
    });
    relayed.unwrap();
    assert_eq!((counts.0.get(), counts.1.get()), (8, 6));
}

#[tokio::test]
async fn what_waits_for_a_stopped_reader_is_in_the_value_and_in_the_relay() {
    let ((client, a), (b, mut server)) = (tcp().await, tcp().await);
    let (counts, buffers) = (Counts::default(), Buffers::default());
    let mut relay = relay(TcpSide::new(a), TcpSide::new(b), &counts, &buffers);
    let mut written = 0;
    let mut stuck = 0;
    while stuck < 50 {
        assert!(poll_fn(|cx| Poll::Ready(Pin::new(&mut relay).poll(cx).is_pending())).await);
        let wrote = client.try_write(&[7; 1 << 16]);
        written += wrote.as_ref().map_or(0, |n| *n);
        let waits = wrote.is_err() && relay.attention() == Attention::Check;
        stuck = if waits { stuck + 1 } else { 0 };
        tokio::task::yield_now().await;
    }
    let frozen = relay.freeze().unwrap();
    assert!(!frozen.forth.pending.is_empty());
    assert!(!format!("{frozen:?}").contains("7, 7"), "bytes of an application in {frozen:?}");
    // Nobody takes the value, so the relay goes on.
    drop(client);
    let mut got = Vec::new();
    let (relayed, ()) = tokio::join!(relay, async {
        server.read_to_end(&mut got).await.unwrap();
        server.shutdown().await.unwrap();
    });
    relayed.unwrap();
    assert_eq!((got.len(), counts.0.get()), (written, written));
}

#[tokio::test]
async fn a_relay_whose_side_is_gone_has_no_value() {
    let ((client, a), (b, _server)) = (tcp().await, tcp().await);
    let (counts, buffers) = (Counts::default(), Buffers::default());
    let mut relay = relay(TcpSide::new(a), TcpSide::new(b), &counts, &buffers);
    client.set_zero_linger().unwrap();
    drop(client);
    while relay.freeze().is_some() {
        tokio::task::yield_now().await;
    }
}
