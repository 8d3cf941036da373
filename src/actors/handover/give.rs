//! The process that stops: it offers its connections to the next process, one by one, until none is left or the process
//! ends.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use super::{
    exchange::{Exchange, LOOK_INTERVAL, REFUSED_PAUSE},
    link::{Link, LinkError},
    shared::Shared,
};
use crate::{
    actors::{admin::readiness::HAND_OVER, pods::pod::Pod},
    dataplane::pod::{
        conns::{ConnInfo, TunnelInfo},
        departure::{Departure, Offer, TunnelOffer},
    },
    protocols::{
        config::HandoverStep,
        handover::{
            message::{Hello, encode_record, encode_tunnel},
            record::{Kind, PodPlace, Record},
        },
    },
    runtime::conns::{Conn, ConnId, ConnSet},
    sys::fdpass::SeqPacket,
    telemetry::handover::Moved,
};

/// The time for a connection to stand still. A connection whose shard is busy is left to a later round.
/// Limit: time for a connection to stand still for its move: 250 ms; past it: the connection goes on, and is asked again.
const STILL_WITHIN: Duration = Duration::from_millis(250);
/// How long a process that stops looks for the next one alone. A keeper that is told to stop as well is gone by then.
/// Limit: time until a process that stops without a next one asks the keeper: 1 s; past it: the keeper is asked as well.
const KEEPER_AFTER: Duration = Duration::from_secs(1);

/// A process that may take connections.
struct Target {
    socket: SeqPacket,
    is_keeper: bool,
}

/// The pause after a connection's offer has ended the link, doubling with each time. Others are offered meanwhile.
/// Limit: time until a connection is offered again whose offer has ended the link: 1 s, doubling to 8 s; past it: it is.
const SETBACK: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(8)];

/// A connection or tunnel: the uid of its pod, the kind of its set, and its id there.
type Key = (String, &'static str, ConnId);

/// The connections and tunnels whose offers have ended a link. One that brings every link down holds up no other.
#[derive(Debug, Default)]
struct Setbacks(HashMap<Key, (Instant, Duration)>);

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
    setbacks: &'a mut Setbacks,
    link: Link,
    successor: Hello,
    /// The number of the last offer.
    number: u64,
}

/// Waits until the process stops, and gives its connections away from then on.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut leaves = shared.leaves.subscribe();
    if leaves.wait_for(|leaves| *leaves).await.is_err() {
        return;
    }
    let (since, mut told, mut setbacks) = (Instant::now(), None, Setbacks::default());
    loop {
        let mut target = find(&shared, since.elapsed());
        let error = loop {
            match target {
                Ok(found) => target = session(&shared, &mut setbacks, found).await,
                Err(error) => break error.to_string(),
            }
        };
        note(&shared, "no process takes them yet");
        // A failure that repeats is told once.
        if told.as_ref() != Some(&error) {
            tracing::info!(target: "handover", path = %shared.terms.next.display(), "no next process takes connections: {error}");
            told = Some(error);
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// Says how many connections are left, to whoever looks at the tree.
fn note(shared: &Shared, who: &str) {
    let left: usize = shared.pods.all().iter().map(|pod| pod.conns().live.len()).sum();
    let text = if left == 0 { String::new() } else { format!("connections left: {left}; {who}") };
    shared.readiness.note(HAND_OVER, &text);
}

/// Looks for the next process, or for a keeper `after` this process was told to stop.
fn find(shared: &Shared, after: Duration) -> Result<Target, LinkError> {
    let error = match SeqPacket::connect(&shared.terms.next) {
        Ok(socket) => return Ok(Target { socket, is_keeper: false }),
        Err(error) => error,
    };
    // Within a short deadline as well.
    let is_time = after >= KEEPER_AFTER.min(shared.terms.deadline / 2);
    let keeper = shared.terms.keeper.as_deref().filter(|_| is_time);
    let keeper = keeper.and_then(|path| SeqPacket::connect(path).ok());
    Ok(Target { socket: keeper.ok_or(error)?, is_keeper: true })
}

/// Gives connections to one process, until that fails or there is a better one.
async fn session(
    shared: &Shared,
    setbacks: &mut Setbacks,
    Target { socket, is_keeper }: Target,
) -> Result<Target, LinkError> {
    let mut link = Link::new(socket)?;
    let successor = link.greet(&shared.hello, true).await?;
    shared.breaker.reached(HandoverStep::OldGreeted).await;
    let tunnels = successor.takes.contains(&Kind::InboundTunnel);
    let to = if is_keeper { "the keeper" } else { "the next process" };
    tracing::info!(target: "handover", program = successor.program, instance = successor.instance, tunnels, "connections go to {to}");
    let mut session = Session { shared, setbacks, link, successor, number: 0 };
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
        note(shared, &format!("{to} takes them"));
        sleep(if refused.is_some() { REFUSED_PAUSE } else { LOOK_INTERVAL }).await;
        if is_keeper && let Ok(socket) = SeqPacket::connect(&shared.terms.next) {
            return Ok(Target { socket, is_keeper: false });
        }
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
                self.give_tunnels(pod, ("peers", &pod.conns().peers), round).await?;
            }
            if self.successor.takes.contains(&Kind::OutboundTunnel) {
                self.give_tunnels(pod, ("dialled", &pod.conns().dialled), round).await?;
            }
        }
        Ok(())
    }

    /// Offers a connection of `pod`, if it stands still.
    async fn give(&mut self, pod: &Pod, conn: &Conn<ConnInfo>, round: &mut Round) -> Result<(), LinkError> {
        let key = (pod.id.uid.to_string(), "live", conn.id());
        if self.setbacks.has(&key, Instant::now()) {
            return Ok(());
        }
        let Some(offer) = stand_still(conn, &conn.info().departure).await else { return Ok(()) };
        let Offer { mut record, sockets, answer } = offer;
        let kind = record.kind;
        // A drop of the answer says that the connection stays.
        let verdict = match fill_in(self.shared, pod, &mut record) {
            Ok(()) => {
                self.number += 1;
                let message = encode_record(self.number, record);
                let exchange = Exchange::new(&mut self.link, self.number, answer);
                exchange.breaking(&self.shared.breaker).run(&message, &sockets).await
            }
            Err(reason) => Ok(Err(reason)),
        };
        self.tell(round, kind, 1, &verdict);
        self.setbacks.note(key, Instant::now(), verdict.is_ok());
        if let Err(reason) = verdict? {
            tracing::debug!(target: "handover", src = %conn.info().src, dst = %conn.info().dst, reason, "connection stays");
        }
        Ok(())
    }

    /// Offers the tunnels of a set of `pod` that stand still.
    async fn give_tunnels<T: AsRef<TunnelInfo> + Send + Sync + 'static>(
        &mut self,
        pod: &Pod,
        (set, tunnels): (&'static str, &ConnSet<T>),
        round: &mut Round,
    ) -> Result<(), LinkError> {
        for conn in &movable(tunnels) {
            let info = conn.info().as_ref();
            let key = (pod.id.uid.to_string(), set, conn.id());
            if self.setbacks.has(&key, Instant::now()) {
                continue;
            }
            let Some(offer) = stand_still(conn, &info.departure).await else { continue };
            let TunnelOffer { mut record, sockets, answer } = offer;
            record.pod = place(pod);
            let (kind, streams) = (record.kind, record.streams.len());
            self.number += 1;
            let message = encode_tunnel(self.number, record);
            let exchange = Exchange::new(&mut self.link, self.number, answer);
            let verdict = exchange.breaking(&self.shared.breaker).run(&message, &sockets).await;
            self.tell(round, kind, streams, &verdict);
            self.setbacks.note(key, Instant::now(), verdict.is_ok());
            if let Err(reason) = verdict? {
                tracing::debug!(target: "handover", peer = %info.peer, streams, reason, "tunnel stays");
            }
        }
        Ok(())
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

// === impl Setbacks ===

impl Setbacks {
    /// Whether this one is not to be offered yet.
    fn has(&self, key: &Key, now: Instant) -> bool {
        self.0.get(key).is_some_and(|(until, _)| now < *until)
    }

    /// Notes how an offer went: whether the link can still be used.
    fn note(&mut self, key: Key, now: Instant, went_well: bool) {
        let [first, most] = SETBACK;
        // Those that have ended are forgotten with time.
        self.0.retain(|_, (until, _)| now < *until + most);
        if went_well {
            self.0.remove(&key);
            return;
        }
        let pause = self.0.get(&key).map_or(first, |(_, pause)| (*pause * 2).min(most));
        self.0.insert(key, (now + pause, pause));
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
