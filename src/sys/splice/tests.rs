use std::{future::poll_fn, os::fd::AsFd, pin::Pin};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::protocols::{
    relay::{
        Side, relay_by,
        tcp::TcpSide,
        tests::{Counts, tcp},
    },
    tls::buffer::Buffers,
};

/// Exchanges large amounts and a small message in each direction, and then ends one direction after the other.
async fn exchange(mut stream: TcpStream, sent: &[u8]) -> Vec<u8> {
    let (mut read, mut write) = stream.split();
    let mut got = vec![0; sent.len() + 5];
    let (read, written) = tokio::join!(read.read_exact(&mut got), async {
        write.write_all(sent).await?;
        write.write_all(b"small").await
    });
    read.and(written.map(|()| 0)).unwrap();
    write.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
    got
}

#[tokio::test]
async fn every_byte_passes_through_pipes_that_are_given_back() {
    let sent: Vec<u8> = (0..9_000_000u32).map(|i| (i * 7 + i / 251) as u8).collect();
    let pipes = Pipes::default();
    for _ in 0..2 {
        let ((client, a), (b, server)) = (tcp().await, tcp().await);
        let (counts, buffers) = (Counts::default(), Buffers::default());
        let shortcuts = [pipes.shortcut(), pipes.shortcut()];
        let (relayed, down, up) = tokio::join!(
            relay_by(shortcuts, (TcpSide::new(a), TcpSide::new(b)), &counts, &buffers),
            exchange(client, &sent),
            exchange(server, &sent),
        );
        relayed.unwrap();
        for got in [down, up] {
            assert!(got[..sent.len()] == sent && got.ends_with(b"small"), "bytes differ");
        }
        assert_eq!((counts.0.get(), counts.1.get()), (sent.len() + 5, sent.len() + 5));
    }
    let shelf = pipes.0.borrow();
    assert!((1..=2).contains(&shelf.made), "{} pipes", shelf.made);
    assert_eq!(shelf.free.len(), shelf.made);
}

#[test]
fn pipes_are_bounded_and_one_with_bytes_in_it_is_not_used_again() {
    let pipes = Pipes::default();
    let mut taken: Vec<Pipe> = std::iter::from_fn(|| pipes.take()).take(MAX_PIPES + 1).collect();
    assert_eq!(taken.len(), MAX_PIPES);
    pipes.give(taken.pop().unwrap(), 1);
    assert!(pipes.0.borrow().free.is_empty());
    let anew = pipes.take().unwrap();
    assert!(pipes.take().is_none());
    pipes.give(anew, 0);
    assert_eq!(pipes.0.borrow().free.len(), 1);
    taken.into_iter().for_each(|pipe| pipes.give(pipe, 0));
    assert_eq!((pipes.0.borrow().free.len(), pipes.0.borrow().made), (IDLE_PIPES, IDLE_PIPES));
}

#[tokio::test]
async fn a_direction_whose_destination_is_gone_holds_no_pipe() {
    let ((mut client, a), (b, server)) = (tcp().await, tcp().await);
    socket2::SockRef::from(&server).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    let pipes = Pipes::default();
    let (counts, buffers) = (Counts::default(), Buffers::default());
    let shortcuts = [pipes.shortcut(), pipes.shortcut()];
    let relaying = relay_by(shortcuts, (TcpSide::new(a), TcpSide::new(b)), &counts, &buffers);
    let (relayed, ()) = tokio::join!(relaying, async {
        // The server reads nothing until it ends, so bytes are on their way.
        let full = async { while client.write(&[1; 65_536]).await.is_ok() {} };
        let waited = tokio::time::timeout(std::time::Duration::from_millis(300), full).await;
        assert!(waited.is_err(), "nothing was held up");
        drop(server);
        while client.write(&[1; 65_536]).await.is_ok() {}
    });
    relayed.unwrap();
    let shelf = pipes.0.borrow();
    assert_eq!(shelf.free.len(), shelf.made);
}

#[tokio::test]
async fn bytes_in_a_pipe_are_taken_out_for_another_relay() {
    let sent: Vec<u8> = (0..9_000_000u32).map(|i| (i * 7 + i / 251) as u8).collect();
    let ((client, a), (b, server)) = (tcp().await, tcp().await);
    let (counts, buffers, pipes) = (Counts::default(), Buffers::default(), Pipes::default());
    let relaying = async {
        let shortcuts = || [pipes.shortcut(), pipes.shortcut()];
        let mut relay = relay_by(shortcuts(), (TcpSide::new(a), TcpSide::new(b)), &counts, &buffers);
        let mut taken = 0;
        for polls in 1.. {
            let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut relay).poll(cx))).await;
            if let Poll::Ready(relayed) = polled {
                relayed.unwrap();
                return taken;
            }
            if let Some(frozen) = relay.freeze() {
                taken += frozen.forth.pending.len() + frozen.back.pending.len();
                let clone = |side: &TcpSide| {
                    let fd = side.plain().unwrap().as_fd().try_clone_to_owned().unwrap();
                    TcpSide::new(TcpStream::from_std(fd.into()).unwrap())
                };
                let sides = (clone(relay.sides().0), clone(relay.sides().1));
                // A relay that is new copies at first, so most relays go on by themselves.
                if polls % 50 == 0 {
                    relay = relay_by(shortcuts(), sides, &counts, &buffers).resume(frozen);
                }
            }
            tokio::task::yield_now().await;
        }
        unreachable!()
    };
    let (taken, down, up) = tokio::join!(relaying, exchange(client, &sent), exchange(server, &sent));
    assert!(taken > 0 && pipes.0.borrow().made > 0, "no byte was on the way at any time");
    for got in [down, up] {
        assert!(got[..sent.len()] == sent && got.ends_with(b"small"), "bytes differ");
    }
    assert_eq!((counts.0.get(), counts.1.get()), (sent.len() + 5, sent.len() + 5));
}
