//! What is held goes to the proxy that takes it, once, and stays otherwise.

use std::{path::PathBuf, time::Duration};

use super::*;
use crate::{
    keeper::held::{
        Store,
        tests::{connection, message},
    },
    protocols::handover::{
        message::{Message, Verdict, encode_verdict},
        outline::Offered,
        record::Kind,
    },
    sys::fdpass::Packet,
};

/// A keeper that holds a connection of each of these kinds, by number.
fn keeper(kinds: &[Kind]) -> Keeper {
    let store = Store::new(Duration::from_secs(15));
    for (number, kind) in kinds.iter().enumerate() {
        let message = message(number as u64, *kind);
        let offered = Offered::read(&message).unwrap().unwrap();
        store.put(store.admit(message, connection().1, offered).unwrap());
    }
    Keeper { next: PathBuf::new(), hello: Hello::new("1", "keeper"), store }
}

fn proxy(takes: &[Kind]) -> Hello {
    Hello { takes: takes.to_vec(), ..Hello::new("2", "proxy") }
}

fn verdict(number: u64, taken: Result<(), &str>) -> Vec<u8> {
    let message = encode_verdict(&Verdict { number, taken: taken.map_err(str::to_owned) });
    [&[0], &*message].concat()
}

/// Receives an offer with its two sockets, and returns its number.
async fn heard(socket: &SeqPacket) -> u64 {
    let Packet { bytes, fds } = socket.recv().await.unwrap().unwrap();
    assert_eq!(fds.len(), 2);
    let Ok(Message::Record(number, Ok(_))) = Message::decode(&bytes[1..]) else { panic!("no record") };
    number
}

/// Offers everything once to a proxy that does `peer`.
async fn round(
    keeper: &Keeper,
    takes: &[Kind],
    peer: impl AsyncFnOnce(SeqPacket),
) -> (Result<(), LinkError>, Round) {
    let (one, two) = SeqPacket::pair().unwrap();
    let (mut link, mut round) = (Link::new(one).unwrap(), Round::default());
    let proxy = proxy(takes);
    let (ended, ()) = tokio::join!(give_all(keeper, &mut link, &proxy, &mut round), peer(two));
    (ended, round)
}

#[tokio::test]
async fn each_is_offered_once_a_round_until_a_proxy_has_taken_it() {
    let keeper = keeper(&[Kind::Outbound, Kind::Plaintext]);
    let (ended, first) = round(&keeper, &Kind::ALL, async |peer| {
        assert_eq!(heard(&peer).await, 0);
        peer.send(&verdict(0, Err("not here yet")), None).await.unwrap();
        assert_eq!(heard(&peer).await, 1);
        peer.send(&verdict(1, Ok(())), None).await.unwrap();
    })
    .await;
    ended.unwrap();
    assert_eq!((first.given, first.kept, first.reason.as_deref()), (1, 1, Some("not here yet")));
    assert_eq!((keeper.store.connections(), keeper.store.counts()), (1, (2, 1, 0)));
    let (ended, second) = round(&keeper, &Kind::ALL, async |peer| {
        assert_eq!(heard(&peer).await, 0);
        peer.send(&verdict(0, Ok(())), None).await.unwrap();
    })
    .await;
    ended.unwrap();
    assert_eq!((second.given, second.kept, keeper.store.connections()), (1, 0, 0));
}

#[tokio::test]
async fn what_a_proxy_does_not_take_is_not_offered_and_stays() {
    let keeper = keeper(&[Kind::Local, Kind::Outbound]);
    let (ended, round) = round(&keeper, &[Kind::Outbound], async |peer| {
        assert_eq!(heard(&peer).await, 1);
        peer.send(&verdict(1, Ok(())), None).await.unwrap();
    })
    .await;
    ended.unwrap();
    assert_eq!((round.given, round.kept), (1, 1));
    assert_eq!(round.reason.unwrap(), "the proxy takes no connections of kind local");
    assert_eq!(keeper.store.waiting(), 1);
}

#[tokio::test]
async fn a_proxy_that_dies_has_only_what_it_has_said_that_it_takes() {
    let keeper = keeper(&[Kind::Outbound, Kind::Plaintext, Kind::Local]);
    let (ended, round) = round(&keeper, &Kind::ALL, async |peer| {
        assert_eq!(heard(&peer).await, 0);
        peer.send(&verdict(0, Ok(())), None).await.unwrap();
        assert_eq!(heard(&peer).await, 1);
    })
    .await;
    assert!(matches!(ended, Err(LinkError::Closed)), "{ended:?}");
    assert_eq!((round.given, round.kept), (1, 1));
    assert_eq!((keeper.store.waiting(), keeper.store.connections()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn without_an_answer_the_connection_stays_and_cannot_be_taken_any_more() {
    let keeper = keeper(&[Kind::Outbound]);
    let (ended, _) = round(&keeper, &Kind::ALL, async |peer| {
        assert_eq!(heard(&peer).await, 0);
        sleep(Duration::from_secs(5)).await;
        peer.send(&verdict(0, Ok(())), None).await.unwrap_err();
    })
    .await;
    assert!(matches!(ended, Err(LinkError::TimedOut)), "{ended:?}");
    assert_eq!((keeper.store.waiting(), keeper.store.counts()), (1, (1, 0, 0)));
}
