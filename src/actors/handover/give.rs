//! The process that stops: it offers its connections to the next process, one by one, until none is left or the process
//! ends.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};

use super::{
    link::{Link, LinkError, STEP_WITHIN},
    shared::Shared,
};
use crate::{
    actors::pods::pod::Pod,
    dataplane::pod::{
        conns::ConnInfo,
        departure::{Answer, Offer},
    },
    protocols::handover::{
        message::{Message, Verdict, encode_record},
        packets::MAX_MESSAGE,
        record::{PodPlace, Record},
    },
    runtime::conns::Conn,
    sys::fdpass::SeqPacket,
    telemetry::handover::Moved,
};

/// The time between two looks for the next process, and for connections that can be moved.
/// Limit: time between two looks for the next process and for connections to move: 50 ms; past it: the process looks again.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// The pause after a connection was refused, which is offered again then.
/// Limit: time until connections that were refused are offered again: 500 ms; past it: they are.
const REFUSED_PAUSE: Duration = Duration::from_millis(500);
/// The time for a connection to stand still. A connection whose shard is busy is left to a later round.
/// Limit: time for a connection to stand still for its move: 250 ms; past it: the connection goes on, and is asked again.
const STILL_WITHIN: Duration = Duration::from_millis(250);

/// What a round has done.
#[derive(Debug, Default)]
struct Round {
    given: u64,
    kept: u64,
    /// The last reason of a refusal.
    reason: Option<String>,
}

/// An offer that is under way. However it ends, the connection's task hears who has the connection.
struct Exchange<'a> {
    link: &'a mut Link,
    number: u64,
    answer: Option<oneshot::Sender<Answer>>,
}

/// Waits until the process stops, and gives its connections away from then on.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut leaves = shared.leaves.subscribe();
    if leaves.wait_for(|leaves| *leaves).await.is_err() {
        return;
    }
    let mut told = None;
    loop {
        let Err(error) = session(&shared).await;
        let error = error.to_string();
        // A failure that repeats is told once.
        if told.as_ref() != Some(&error) {
            tracing::info!(target: "handover", path = %shared.path.display(), "no next process takes connections: {error}");
            told = Some(error);
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// Gives connections to one process, until that fails.
async fn session(shared: &Shared) -> Result<std::convert::Infallible, LinkError> {
    let mut link = Link::new(SeqPacket::connect(&shared.path)?)?;
    let successor = link.greet(&shared.hello, true).await?;
    tracing::info!(target: "handover", program = successor.program, instance = successor.instance, "connections go to the next process");
    let (mut number, mut refused) = (0, None);
    loop {
        let (began, mut round) = (Instant::now(), Round::default());
        let ended = give_all(shared, &mut link, &mut number, &mut round).await;
        let Round { given, kept, reason } = round;
        if given > 0 || reason != refused {
            let took = began.elapsed();
            tracing::info!(target: "handover", given, kept, ?took, reason, "live connections handed over");
        }
        refused = reason;
        ended?;
        sleep(if refused.is_some() { REFUSED_PAUSE } else { LOOK_INTERVAL }).await;
    }
}

/// Offers each connection that can be moved now.
async fn give_all(
    shared: &Shared,
    link: &mut Link,
    number: &mut u64,
    round: &mut Round,
) -> Result<(), LinkError> {
    for pod in shared.pods.all().iter().filter(|pod| pod.id.is_handed_over()) {
        let mut conns: Vec<Conn<ConnInfo>> = Vec::new();
        pod.conns().live.for_each(|conn| {
            if conn.is_movable() {
                conns.push(conn.clone());
            }
        });
        for conn in &conns {
            let Some(offer) = stand_still(conn).await else { continue };
            *number += 1;
            let kind = offer.record.kind;
            let verdict = exchange(shared, pod, link, (*number, offer)).await;
            let taken = matches!(verdict, Ok(Ok(())));
            shared.metrics.handover.moved(if taken { Moved::Given } else { Moved::Kept }, Some(kind));
            round.given += u64::from(taken);
            round.kept += u64::from(!taken);
            if let Err(reason) = verdict? {
                tracing::debug!(target: "handover", src = %conn.info().src, dst = %conn.info().dst, reason, "connection stays");
                round.reason = Some(reason);
            }
        }
    }
    Ok(())
}

/// Has a connection stand still. The result is `None` if it has ended, cannot be moved, or its shard is busy.
async fn stand_still(conn: &Conn<ConnInfo>) -> Option<Offer> {
    let offered = conn.info().departure.open();
    conn.want();
    let offer = timeout(STILL_WITHIN, offered).await;
    conn.let_go();
    drop(conn.info().departure.take());
    offer.ok()?.ok()
}

/// Offers a connection of `pod`. The inner result is the peer's answer.
async fn exchange(
    shared: &Shared,
    pod: &Pod,
    link: &mut Link,
    (number, offer): (u64, Offer),
) -> Result<Result<(), String>, LinkError> {
    let Offer { mut record, sockets, answer } = offer;
    // A drop of the answer says that the connection stays.
    if let Err(reason) = fill_in(shared, pod, &mut record) {
        return Ok(Err(reason));
    }
    Exchange { link, number, answer: Some(answer) }.run(record, &sockets).await
}

// === impl Exchange ===

impl Exchange<'_> {
    /// Offers a connection. The inner result is the peer's answer.
    async fn run(mut self, record: Record, sockets: &[OwnedFd]) -> Result<Result<(), String>, LinkError> {
        let message = encode_record(self.number, record);
        if message.len() > MAX_MESSAGE {
            return Ok(self.kept(format!("the connection is {} bytes", message.len())));
        }
        let fds: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
        self.link.send(&message, &fds).await?;
        match self.link.recv(STEP_WITHIN).await?.ok_or(LinkError::Closed)? {
            (Message::Verdict(Verdict { number, taken: Ok(()) }), _) if number == self.number => {
                self.tell(Answer::Taken);
                Ok(Ok(()))
            }
            (Message::Verdict(Verdict { number, taken: Err(reason) }), _) if number == self.number => {
                Ok(self.kept(reason))
            }
            _ => Err(LinkError::NotDue),
        }
    }

    fn kept(mut self, reason: String) -> Result<(), String> {
        self.tell(Answer::Kept);
        Err(reason)
    }

    fn tell(&mut self, answer: Answer) {
        // A task that has ended meanwhile has no connection any more.
        let _ = self.answer.take().map(|waits| waits.send(answer));
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        if self.answer.is_none() {
            return;
        }
        // The exchange failed, or was given up at any point.
        let taken = self.link.close_and_see(self.number);
        self.tell(if taken { Answer::Taken } else { Answer::Kept });
    }
}

/// Names the pods of the connection.
fn fill_in(shared: &Shared, pod: &Pod, record: &mut Record) -> Result<(), String> {
    let place = |pod: &Pod| PodPlace { uid: pod.id.uid.to_string(), netns: pod.network().netns.id() };
    record.side.pod = place(pod);
    if let Some(beside) = &mut record.beside {
        let there = shared.pods.find(&beside.pod.uid);
        beside.pod = place(&*there.ok_or("the server's pod is gone")?);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
