//! Peers that are of no use are refused, and what a message carries arrives.

use std::{fs::File, os::fd::AsFd};

use super::*;
use crate::protocols::handover::{
    PROTOCOL,
    message::{Verdict, encode_verdict},
};

fn pair() -> (Link, Link) {
    let (one, two) = SeqPacket::pair().unwrap();
    (Link::new(one).unwrap(), Link::new(two).unwrap())
}

async fn greeted(first: &Hello, second: &Hello) -> (Result<Hello, LinkError>, Result<Hello, LinkError>) {
    let (mut one, mut two) = pair();
    tokio::join!(one.greet(first, true), two.greet(second, false))
}

#[test]
fn a_process_of_another_user_is_refused() {
    check_user(0, 0).unwrap();
    let error = check_user(1000, 0).unwrap_err().to_string();
    assert_eq!(error, "the process at the other end belongs to user 1000, and this one to user 0");
}

#[tokio::test]
async fn both_ends_learn_of_a_peer_that_is_of_no_use() {
    let (old, new) = (Hello::new("1", "old"), Hello::new("2", "new"));
    let (a, b) = greeted(&old, &new).await;
    assert_eq!((a.unwrap(), b.unwrap()), (new.clone(), old.clone()));
    let newer = Hello { protocol: PROTOCOL + 1, ..new };
    for (first, second) in [(&old, &newer), (&newer, &old), (&old, &old)] {
        let (a, b) = greeted(first, second).await;
        assert!(a.is_err() && b.is_err(), "{first:?} {second:?}: {a:?} {b:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_does_not_greet_is_given_up() {
    let (mut one, _silent) = pair();
    assert!(matches!(one.greet(&Hello::new("1", "one"), true).await, Err(LinkError::TimedOut)));
    let (mut one, two) = pair();
    let verdict = encode_verdict(&Verdict { number: 1, taken: Ok(()) });
    two.send(&verdict, &[]).await.unwrap();
    let greeted = one.greet(&Hello::new("1", "one"), true).await;
    assert!(matches!(greeted, Err(LinkError::Message(BadMessage::NoHello))), "{greeted:?}");
}

#[tokio::test]
async fn descriptors_come_with_their_message_and_too_many_are_refused() {
    let (mut one, two) = pair();
    let file = File::open("/proc/self/ns/net").unwrap();
    let verdict = encode_verdict(&Verdict { number: 1, taken: Ok(()) });
    two.send(&verdict, &[file.as_fd(), file.as_fd()]).await.unwrap();
    two.send(&verdict, &[]).await.unwrap();
    for count in [2, 0] {
        assert_eq!(one.recv(STEP_WITHIN).await.unwrap().unwrap().1.len(), count);
    }
    // As many as a tunnel has streams, and itself.
    let files = vec![file.as_fd(); MAX_MESSAGE_FDS];
    let long = encode_verdict(&Verdict { number: 1, taken: Err("no".repeat(100)) });
    let (sent, received) = tokio::join!(two.send(&long, &files), one.recv(STEP_WITHIN));
    sent.unwrap();
    assert_eq!(received.unwrap().unwrap().1.len(), MAX_MESSAGE_FDS);
    for _ in 0..=MAX_MESSAGE_FDS / MAX_PACKET_FDS {
        two.socket.0.send_all(&[1, 0], &[file.as_fd(); MAX_PACKET_FDS]).await.unwrap();
    }
    assert!(matches!(one.recv(STEP_WITHIN).await, Err(LinkError::PeerDescriptors)));
}

#[tokio::test(start_paused = true)]
async fn a_long_message_may_take_longer_than_a_step_as_long_as_its_packets_are_taken() {
    let long = encode_verdict(&Verdict { number: 1, taken: Err("no".repeat(1 << 20)) });
    // The peer takes a packet now and then. Each wait is shorter than a step, and all of them are longer.
    let (one, two) = pair();
    let slow = async |pause: Duration, packets: usize| {
        let mut room = vec![0; MAX_PACKET];
        for _ in 0..packets {
            tokio::time::sleep(pause).await;
            two.socket.0.recv_into(&mut room).await.unwrap().unwrap();
        }
    };
    let count = split(&long, 0).count();
    let begun = tokio::time::Instant::now();
    let (sent, ()) = tokio::join!(one.send(&long, &[]), slow(Duration::from_millis(80), count));
    sent.unwrap();
    assert!(begun.elapsed() > STEP_WITHIN && begun.elapsed() < MESSAGE_WITHIN, "{:?}", begun.elapsed());
    // One that takes no packet within a step is given up, and so is one that takes all of them too slowly.
    let begun = tokio::time::Instant::now();
    assert!(matches!(one.send(&long, &[]).await, Err(LinkError::TimedOut)));
    assert_eq!(begun.elapsed().as_secs(), STEP_WITHIN.as_secs());
    let (one, two) = pair();
    let slow = async {
        let mut room = vec![0; MAX_PACKET];
        for _ in 0..count {
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            let _ = two.socket.0.recv_into(&mut room).await;
        }
    };
    tokio::select! {
        sent = one.send(&long, &[]) => assert!(matches!(sent, Err(LinkError::TimedOut)), "{sent:?}"),
        () = slow => panic!("all of it was taken"),
    }
}
