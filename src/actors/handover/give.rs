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
        conns::{ConnInfo, TunnelInfo},
        departure::{Answer, Departure, Offer, TunnelOffer},
    },
    protocols::handover::{
        message::{Hello, Message, Verdict, encode_record, encode_tunnel},
        packets::MAX_MESSAGE,
        record::{Kind, PodPlace, Record},
    },
    runtime::conns::{Conn, ConnSet},
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

/// What the givers of a link share.
struct Session<'a> {
    shared: &'a Shared,
    link: Link,
    successor: Hello,
    /// The number of the last offer.
    number: u64,
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
    let tunnels = successor.takes.contains(&Kind::InboundTunnel);
    tracing::info!(target: "handover", program = successor.program, instance = successor.instance, tunnels, "connections go to the next process");
    let mut session = Session { shared, link, successor, number: 0 };
    let mut refused = None;
    loop {
        let (began, mut round) = (Instant::now(), Round::default());
        let ended = session.give_all(&mut round).await;
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

/// Has a connection or tunnel stand still. The result is `None` if it has ended, cannot be moved, or its shard is busy.
async fn stand_still<T, O>(conn: &Conn<T>, departure: &Departure<O>) -> Option<O> {
    let offered = departure.open();
    conn.want();
    let offer = timeout(STILL_WITHIN, offered).await;
    conn.let_go();
    drop(departure.take());
    offer.ok()?.ok()
}

/// The members of a set that can be had to stand still.
fn movable<T: Send + Sync + 'static>(set: &ConnSet<T>) -> Vec<Conn<T>> {
    let mut found = Vec::new();
    set.for_each(|conn| {
        if conn.is_movable() {
            found.push(conn.clone());
        }
    });
    found
}

// === impl Session ===

impl Session<'_> {
    /// Offers each connection and tunnel that can be moved now.
    async fn give_all(&mut self, round: &mut Round) -> Result<(), LinkError> {
        for pod in self.shared.pods.all().iter().filter(|pod| pod.id.is_handed_over()) {
            for conn in &movable(&pod.conns().live) {
                self.give(pod, conn, round).await?;
            }
            if self.successor.takes.contains(&Kind::InboundTunnel) {
                self.give_tunnels(pod, &pod.conns().peers, round).await?;
            }
            if self.successor.takes.contains(&Kind::OutboundTunnel) {
                self.give_tunnels(pod, &pod.conns().dialled, round).await?;
            }
        }
        Ok(())
    }

    /// Offers a connection of `pod`, if it stands still.
    async fn give(&mut self, pod: &Pod, conn: &Conn<ConnInfo>, round: &mut Round) -> Result<(), LinkError> {
        let Some(offer) = stand_still(conn, &conn.info().departure).await else { return Ok(()) };
        let Offer { mut record, sockets, answer } = offer;
        let kind = record.kind;
        // A drop of the answer says that the connection stays.
        let verdict = match fill_in(self.shared, pod, &mut record) {
            Ok(()) => {
                let exchange = self.exchange(answer);
                let message = encode_record(exchange.number, record);
                exchange.run(&message, &sockets).await
            }
            Err(reason) => Ok(Err(reason)),
        };
        self.tell(round, kind, 1, &verdict);
        if let Err(reason) = verdict? {
            tracing::debug!(target: "handover", src = %conn.info().src, dst = %conn.info().dst, reason, "connection stays");
        }
        Ok(())
    }

    /// Offers the tunnels of a set of `pod` that stand still.
    async fn give_tunnels<T: AsRef<TunnelInfo> + Send + Sync + 'static>(
        &mut self,
        pod: &Pod,
        tunnels: &ConnSet<T>,
        round: &mut Round,
    ) -> Result<(), LinkError> {
        for conn in &movable(tunnels) {
            let info = conn.info().as_ref();
            let Some(offer) = stand_still(conn, &info.departure).await else { continue };
            let TunnelOffer { mut record, sockets, answer } = offer;
            record.pod = place(pod);
            let (kind, streams) = (record.kind, record.streams.len());
            let exchange = self.exchange(answer);
            let message = encode_tunnel(exchange.number, record);
            let verdict = exchange.run(&message, &sockets).await;
            self.tell(round, kind, streams, &verdict);
            if let Err(reason) = verdict? {
                tracing::debug!(target: "handover", peer = %info.peer, streams, reason, "tunnel stays");
            }
        }
        Ok(())
    }

    /// Begins an offer, of whose end `answer` hears.
    fn exchange(&mut self, answer: oneshot::Sender<Answer>) -> Exchange<'_> {
        self.number += 1;
        Exchange { link: &mut self.link, number: self.number, answer: Some(answer) }
    }

    /// Counts an offer of so many connections of this kind.
    fn tell(
        &self,
        round: &mut Round,
        kind: Kind,
        count: usize,
        verdict: &Result<Result<(), String>, LinkError>,
    ) {
        let taken = matches!(verdict, Ok(Ok(())));
        self.shared.metrics.handover.moved(if taken { Moved::Given } else { Moved::Kept }, Some(kind), count);
        *(if taken { &mut round.given } else { &mut round.kept }) += count as u64;
        if let Ok(Err(reason)) = verdict {
            round.reason = Some(reason.clone());
        }
    }
}

// === impl Exchange ===

impl Exchange<'_> {
    /// Makes the offer. The inner result is the peer's answer.
    async fn run(mut self, message: &[u8], sockets: &[OwnedFd]) -> Result<Result<(), String>, LinkError> {
        if message.len() > MAX_MESSAGE {
            return Ok(self.kept(format!("what moves is {} bytes", message.len())));
        }
        let fds: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
        self.link.send(message, &fds).await?;
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

/// The pod, as another process knows it.
fn place(pod: &Pod) -> PodPlace {
    PodPlace { uid: pod.id.uid.to_string(), netns: pod.network().netns.id() }
}

/// Names the pods of the connection.
fn fill_in(shared: &Shared, pod: &Pod, record: &mut Record) -> Result<(), String> {
    record.side.pod = place(pod);
    if let Some(beside) = &mut record.beside {
        let there = shared.pods.find(&beside.pod.uid);
        beside.pod = place(&*there.ok_or("the server's pod is gone")?);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
