//! However an offer ends, exactly one process has the connection, and its task knows.

use tokio::{sync::oneshot::error::TryRecvError, time::sleep};

use super::*;
use crate::{
    protocols::handover::{
        message::{Hello, encode_hello, encode_record, encode_verdict},
        record::{Kind, tests::record},
    },
    sys::fdpass::SeqPacket,
};

fn pair() -> (Link, SeqPacket) {
    let (one, two) = SeqPacket::pair().unwrap();
    (Link::new(one).unwrap(), two)
}

fn verdict(number: u64, taken: Result<(), &str>) -> Vec<u8> {
    let message = encode_verdict(&Verdict { number, taken: taken.map_err(str::to_owned) });
    [&[0], &*message].concat()
}

/// Offers a connection under number 7 while `peer` does something. Returns what the caller and the task hear.
async fn offer(
    peer: impl AsyncFnOnce(SeqPacket),
) -> (Result<Result<(), String>, LinkError>, Result<Answer, oneshot::error::RecvError>) {
    let (mut link, socket) = pair();
    let (answer, answered) = oneshot::channel();
    let (in_flight, answers) = InFlight::open(&mut link);
    let exchange = in_flight.offer(7, answer);
    let message = encode_record(7, record(Kind::Outbound));
    let (verdict, ()) = tokio::join!(answers.beside(&in_flight, exchange.run(&message, &[])), peer(socket));
    (verdict, answered.await)
}

async fn heard(socket: &SeqPacket) {
    let packet = socket.recv().await.unwrap().unwrap();
    let Ok(Message::Record(7, Ok(heard))) = Message::decode(&packet.bytes[1..]) else { panic!("no record") };
    assert_eq!(*heard, record(Kind::Outbound));
}

#[tokio::test]
async fn an_answer_decides() {
    let (told, answer) = offer(async |peer| {
        heard(&peer).await;
        peer.send(&verdict(7, Ok(())), None).await.unwrap();
    })
    .await;
    assert!(matches!(told, Ok(Ok(()))) && answer == Ok(Answer::Taken), "{told:?} {answer:?}");
    let (told, answer) = offer(async |peer| {
        heard(&peer).await;
        peer.send(&verdict(7, Err("no such pod")), None).await.unwrap();
    })
    .await;
    assert!(told.is_ok_and(|told| told == Err("no such pod".into())) && answer == Ok(Answer::Kept));
}

#[tokio::test]
async fn a_peer_that_dies_has_the_connection_only_if_it_has_said_so() {
    let (told, answer) = offer(async |peer| {
        heard(&peer).await;
        drop(peer);
    })
    .await;
    assert!(matches!(told, Err(LinkError::Closed)) && answer == Ok(Answer::Kept), "{told:?}");
    let (told, answer) = offer(async |peer| drop(peer)).await;
    assert!(told.is_err() && answer == Ok(Answer::Kept), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_answer_in_time_cannot_answer_any_more() {
    let (told, answer) = offer(async |peer| {
        heard(&peer).await;
        sleep(STEP_WITHIN * 2).await;
        peer.send(&verdict(7, Ok(())), None).await.unwrap_err();
    })
    .await;
    assert!(matches!(told, Err(LinkError::TimedOut)) && answer == Ok(Answer::Kept), "{told:?}");
}

#[tokio::test]
async fn an_answer_to_another_offer_ends_the_link() {
    for message in [verdict(6, Ok(())), [&[0], &*encode_hello(&Hello::new("1", "x"))].concat()] {
        let (told, answer) = offer(async |peer| {
            heard(&peer).await;
            peer.send(&message, None).await.unwrap();
        })
        .await;
        assert!(matches!(told, Err(LinkError::NotDue)) && answer == Ok(Answer::Kept), "{told:?}");
    }
}

/// Drops the exchange while it waits, which is what the end of the actor does.
async fn dropped(peer: impl AsyncFnOnce(&SeqPacket)) -> Answer {
    let (mut link, socket) = pair();
    let (answer, mut answered) = oneshot::channel();
    let (in_flight, _answers) = InFlight::open(&mut link);
    let exchange = in_flight.offer(7, answer);
    {
        let message = encode_record(7, record(Kind::Outbound));
        let mut running = Box::pin(exchange.run(&message, &[]));
        tokio::select! {
            ended = &mut running => panic!("{ended:?}"),
            () = heard(&socket) => {}
        }
        peer(&socket).await;
        assert_eq!(answered.try_recv(), Err(TryRecvError::Empty));
    }
    assert!(socket.send(&verdict(7, Ok(())), None).await.is_err(), "an answer that nobody will hear");
    answered.await.unwrap()
}

#[tokio::test]
async fn an_actor_that_ends_in_the_middle_leaves_no_doubt() {
    assert_eq!(dropped(async |_| {}).await, Answer::Kept);
    assert_eq!(
        dropped(async |peer| peer.send(&verdict(7, Ok(())), None).await.unwrap()).await,
        Answer::Taken
    );
    let refused = async |peer: &SeqPacket| peer.send(&verdict(7, Err("no")), None).await.unwrap();
    assert_eq!(dropped(refused).await, Answer::Kept);
    let of_another = async |peer: &SeqPacket| {
        peer.send(&verdict(6, Ok(())), None).await.unwrap();
        peer.send(b"no packet", None).await.unwrap();
    };
    assert_eq!(dropped(of_another).await, Answer::Kept);
}

/// Makes the offers 1 to `COUNT` at once while `peer` does something. Returns what the callers and the tasks hear.
async fn several(peer: impl AsyncFnOnce(SeqPacket)) -> (Result<(), LinkError>, Vec<Answer>) {
    let (mut link, socket) = pair();
    let (in_flight, answers) = InFlight::open(&mut link);
    let (offers, tasks): (Vec<_>, Vec<_>) = (1..=COUNT)
        .map(|number| {
            let (answer, answered) = oneshot::channel();
            ((in_flight.offer(number, answer), number), answered)
        })
        .unzip();
    let offer = async |(exchange, number): (Exchange<'_>, u64)| {
        exchange.run(&encode_record(number, record(Kind::Outbound)), &[]).await.map(drop)
    };
    let all = futures_util::future::try_join_all(offers.into_iter().map(offer));
    let (ended, ()) = tokio::join!(answers.beside(&in_flight, async { all.await.map(drop) }), peer(socket));
    let mut heard = Vec::new();
    for task in tasks {
        heard.push(task.await.unwrap());
    }
    (ended, heard)
}

const COUNT: u64 = 3;

#[tokio::test]
async fn several_offers_are_answered_in_any_order() {
    let (ended, heard) = several(async |peer| {
        for _ in 0..COUNT {
            peer.recv().await.unwrap().unwrap();
        }
        for (number, taken) in [(3, Ok(())), (1, Ok(())), (2, Err("no"))] {
            peer.send(&verdict(number, taken), None).await.unwrap();
        }
    })
    .await;
    ended.unwrap();
    assert_eq!(heard, [Answer::Taken, Answer::Kept, Answer::Taken]);
}

#[tokio::test]
async fn each_of_several_offers_is_in_one_place_after_the_end_of_the_link() {
    // A peer dies, some of whose answers have come.
    let (ended, heard) = several(async |peer| {
        for _ in 0..COUNT {
            peer.recv().await.unwrap().unwrap();
        }
        peer.send(&verdict(2, Ok(())), None).await.unwrap();
        peer.send(&verdict(1, Err("no")), None).await.unwrap();
    })
    .await;
    assert!(matches!(ended, Err(LinkError::Closed)), "{ended:?}");
    assert_eq!(heard, [Answer::Kept, Answer::Taken, Answer::Kept]);
    // Answers that come before one that cannot be right, and after it.
    let (ended, heard) = several(async |peer| {
        for number in [1, 9, 3] {
            peer.send(&verdict(number, Ok(())), None).await.unwrap();
        }
        // The link is closed from the other end.
        while let Ok(Some(_)) = peer.recv().await {}
    })
    .await;
    assert!(matches!(ended, Err(LinkError::NotDue)), "{ended:?}");
    assert_eq!(heard, [Answer::Taken, Answer::Kept, Answer::Taken]);
}
