//! A proxy that stops hears of each offer whether the keeper has it, and a link that is of no use ends.

use std::{
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
    time::Duration,
};

use super::*;
use crate::{
    keeper::held::{
        Store,
        tests::{connection, message},
    },
    protocols::handover::{
        message::{Hello, Message, encode_hello},
        record::Kind,
    },
};

fn keeper() -> Keeper {
    let (next, hello) = (PathBuf::new(), Hello::new("1", "keeper"));
    Keeper { next, hello, store: Store::new(Duration::from_secs(15)) }
}

async fn say(proxy: &SeqPacket, message: &[u8], fds: &[BorrowedFd<'_>]) -> Option<Message> {
    proxy.send_all(&[&[0], message].concat(), fds).await.unwrap();
    let packet = proxy.recv().await.unwrap()?;
    Some(Message::decode(&packet.bytes[1..]).unwrap())
}

/// Runs `proxy` on a link with the keeper. Returns how the link ended, and its sum.
async fn linked(
    keeper: &Keeper,
    proxy: impl AsyncFnOnce(SeqPacket),
) -> (Result<String, LinkError>, (u64, u64)) {
    let (one, two) = SeqPacket::pair().unwrap();
    let mut sum = Sum::default();
    let (ended, ()) = tokio::join!(take_all(keeper, one, &mut sum), proxy(two));
    (ended, (sum.taken, sum.refused))
}

#[tokio::test]
async fn an_offer_is_held_once_it_is_answered_and_a_refused_one_is_not() {
    let keeper = keeper();
    let (ended, sum) = linked(&keeper, async |proxy| {
        let hello = encode_hello(&Hello::new("7", "proxy"));
        assert!(matches!(say(&proxy, &hello, &[]).await, Some(Message::Hello(_))));
        let (_ends, sockets) = connection();
        let fds: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
        let verdict = say(&proxy, &message(5, Kind::Local), &fds).await;
        assert_eq!(verdict, Some(Message::Verdict(Verdict { number: 5, taken: Ok(()) })));
        let verdict = say(&proxy, &message(6, Kind::Local), &fds[..1]).await;
        let taken = Err("1 descriptors in the place of 2".to_owned());
        assert_eq!(verdict, Some(Message::Verdict(Verdict { number: 6, taken })));
    })
    .await;
    assert_eq!((ended.unwrap().as_str(), sum), ("7", (1, 1)));
    assert_eq!((keeper.store.waiting(), keeper.store.counts()), (1, (1, 0, 0)));
}

#[tokio::test]
async fn whoever_speaks_something_else_is_hung_up_on() {
    let keeper = keeper();
    let (ended, _) = linked(&keeper, async |proxy| {
        assert_eq!(say(&proxy, &message(5, Kind::Local), &[]).await, None);
    })
    .await;
    assert!(matches!(ended, Err(LinkError::Message(_))), "{ended:?}");
    let (ended, _) = linked(&keeper, async |proxy| {
        let hello = encode_hello(&Hello::new("7", "proxy"));
        assert!(say(&proxy, &hello, &[]).await.is_some());
        assert_eq!(say(&proxy, &hello, &[]).await, None);
    })
    .await;
    assert!(matches!(ended, Err(LinkError::NotDue)), "{ended:?}");
    assert_eq!(keeper.store.connections(), 0);
}
