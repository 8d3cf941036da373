//! The process that stops: it offers its connections to the next process, a few at a time, until none is left or the
//! process ends.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{TryStreamExt, stream};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::{
    exchange::{InFlight, LOOK_INTERVAL, REFUSED_PAUSE},
    link::{Link, LinkError},
    shared::Shared,
};
use crate::{
    actors::{admin::readiness::HAND_OVER, pods::pod::Pod},
    dataplane::pod::{
        conns::{ConnInfo, TunnelInfo},
        departure::{Departure, Offer, Stays, TunnelOffer},
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

/// How long nothing may move until the log says why.
/// Limit: time in which no connection moves until the log has the reason: 2 s; past it: it has.
const STUCK_AFTER: Duration = Duration::from_secs(2);
/// The pause after a connection's offer has ended the link, doubling with each time. Others are offered meanwhile.
/// Limit: time until a connection is offered again whose offer has ended the link: 1 s, doubling to 8 s; past it: it is.
const SETBACK: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(8)];

/// The number of connections that stand still for their moves at a time. Each waits for turns of two busy shards, so
/// several wait together.
/// Limit: connections that are offered to the next process at a time: 8; past it: the next ones go on meanwhile.
const CONNECTIONS_AT_ONCE: usize = 8;
/// The same for tunnels, each of which has many connections.
/// Limit: tunnels that are offered to the next process at a time: 2; past it: the next ones go on meanwhile.
const TUNNELS_AT_ONCE: usize = 2;

/// A connection or tunnel: the uid of its pod, the kind of its set, and its id there.
type Key = (String, &'static str, ConnId);

/// The connections and tunnels whose offers have ended a link. One that brings every link down holds up no other: it is
/// offered alone from then on.
#[derive(Debug, Default)]
struct Setbacks(HashMap<Key, (Instant, Duration)>);

/// What a round has done.
#[derive(Debug, Default)]
struct Round {
    given: u64,
    kept: u64,
    /// The last reason of a refusal.
    reason: Option<String>,
    /// The last reason why something could not be offered.
    stays: Option<Stays>,
}

/// The state of the giving that outlives a link.
#[derive(Default)]
struct Giver {
    setbacks: Mutex<Setbacks>,
    round: Mutex<Round>,
    /// The number of the last offer.
    number: AtomicU64,
}

/// How long nothing has moved, and why.
#[derive(Debug, Default)]
struct Stuck {
    since: Option<Instant>,
    told: Option<Stays>,
}

/// What offers on a link share.
struct Session<'a> {
    shared: &'a Shared,
    giver: &'a Giver,
    in_flight: &'a InFlight,
}

/// An offer, of which is told however it ends.
struct Offering<'a> {
    session: &'a Session<'a>,
    key: Option<Key>,
    kind: Kind,
    count: usize,
    taken: AtomicBool,
}

/// The wish that a connection or tunnel stand still. A drop takes the wish back.
struct Wish<'a, T, O> {
    conn: &'a Conn<T>,
    departure: &'a Departure<O>,
}

/// Members of sets with their pods.
type Members<T> = Vec<(Arc<Pod>, Conn<T>)>;

/// Waits until the process stops, and gives its connections away from then on.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut leaves = shared.leaves.subscribe();
    if leaves.wait_for(|leaves| *leaves).await.is_err() {
        return;
    }
    let (since, mut told, giver) = (Instant::now(), None, Giver::default());
    loop {
        let mut target = find(&shared, since.elapsed());
        let error = loop {
            match target {
                Ok(found) => target = session(&shared, &giver, found).await,
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
    giver: &Giver,
    Target { socket, is_keeper }: Target,
) -> Result<Target, LinkError> {
    let mut link = Link::new(socket)?;
    let successor = link.greet(&shared.hello, true).await?;
    shared.breaker.reached(HandoverStep::OldGreeted).await;
    let tunnels = successor.takes.contains(&Kind::InboundTunnel);
    let to = if is_keeper { "the keeper" } else { "the next process" };
    tracing::info!(target: "handover", program = successor.program, instance = successor.instance, tunnels, "connections go to {to}");
    let (mut refused, mut stuck) = (None, Stuck::default());
    loop {
        let began = Instant::now();
        let (in_flight, answers) = InFlight::open(&mut link);
        let session = Session { shared, giver, in_flight: &in_flight };
        let ended = answers.beside(&in_flight, session.give_all(&successor)).await;
        let Round { given, kept, reason, stays } = std::mem::take(&mut *giver.round.lock());
        if given > 0 || reason != refused {
            let took = began.elapsed();
            tracing::info!(target: "handover", given, kept, ?took, reason, "live connections handed over");
        }
        refused = reason;
        ended?;
        let stays = stays.filter(|_| given == 0);
        if let Some(stays) = stuck.tell(stays, Instant::now()) {
            tracing::info!(target: "handover", reason = %stays, "live connections stay here, and are asked again");
        }
        let why = stays.map_or_else(String::new, |stays| format!(", one of which stays because {stays}"));
        note(shared, &format!("{to} takes them{why}"));
        sleep(if refused.is_some() { REFUSED_PAUSE } else { LOOK_INTERVAL }).await;
        if is_keeper && let Ok(socket) = SeqPacket::connect(&shared.terms.next) {
            return Ok(Target { socket, is_keeper: false });
        }
    }
}

/// Has a connection or tunnel stand still. The error: it cannot move now.
async fn stand_still<T, O>(conn: &Conn<T>, departure: &Departure<O>) -> Result<O, Stays> {
    let offered = departure.open();
    let wish = Wish { conn, departure };
    conn.want();
    let offer = timeout(STILL_WITHIN, offered).await;
    drop(wish);
    offer.map_or(Err(Stays::Busy), |offer| offer.unwrap_or(Err(Stays::Busy)))
}

/// The members of the pods' sets that can be had to stand still.
fn movable<T: Send + Sync + 'static>(pods: &[Arc<Pod>], set: impl Fn(&Pod) -> &ConnSet<T>) -> Members<T> {
    let mut found = Vec::new();
    for pod in pods.iter().filter(|pod| pod.id.is_handed_over()) {
        set(pod).for_each(|conn| {
            if conn.is_movable() {
                found.push((pod.clone(), conn.clone()));
            }
        });
    }
    found
}

// === impl Session ===

impl Session<'_> {
    /// Offers each connection and tunnel that can be moved now.
    async fn give_all(&self, successor: &Hello) -> Result<(), LinkError> {
        let pods = self.shared.pods.all();
        let (live, alone) = self.split("live", movable(&pods, |pod| &pod.conns().live));
        for (members, at_once) in [(live, CONNECTIONS_AT_ONCE), (alone, 1)] {
            let members = stream::iter(members.into_iter().map(Ok));
            let give = |(pod, conn): (Arc<Pod>, Conn<ConnInfo>)| async move { self.give(&pod, &conn).await };
            members.try_for_each_concurrent(at_once, give).await?;
        }
        if successor.takes.contains(&Kind::InboundTunnel) {
            self.give_tunnels("peers", movable(&pods, |pod| &pod.conns().peers)).await?;
        }
        if successor.takes.contains(&Kind::OutboundTunnel) {
            self.give_tunnels("dialled", movable(&pods, |pod| &pod.conns().dialled)).await?;
        }
        Ok(())
    }

    /// Those that can be offered together, and those to be offered alone. Some are to be offered later.
    fn split<T>(&self, set: &'static str, members: Members<T>) -> (Members<T>, Members<T>) {
        let (setbacks, now) = (self.giver.setbacks.lock(), Instant::now());
        let due = members.into_iter().filter(|(pod, conn)| !setbacks.has(&key(pod, set, conn), now));
        due.partition(|(pod, conn)| !setbacks.knows(&key(pod, set, conn)))
    }

    /// Offers a connection of `pod`, if it stands still.
    async fn give(&self, pod: &Pod, conn: &Conn<ConnInfo>) -> Result<(), LinkError> {
        let offer = match stand_still(conn, &conn.info().departure).await {
            Ok(offer) => offer,
            Err(stays) => return self.stays(stays),
        };
        let Offer { mut record, sockets, answer } = offer;
        let offering = self.offering(key(pod, "live", conn), record.kind, 1);
        // A drop of the answer says that the connection stays.
        let heard = match fill_in(self.shared, pod, &mut record) {
            Ok(()) => {
                let number = self.number();
                let message = encode_record(number, record);
                let exchange = self
                    .in_flight
                    .offer(number, answer)
                    .breaking(&self.shared.breaker)
                    .noting(&offering.taken);
                exchange.run(&message, &sockets).await?
            }
            Err(reason) => Err(reason),
        };
        if let Err(reason) = offering.heard(heard) {
            tracing::debug!(target: "handover", src = %conn.info().src, dst = %conn.info().dst, reason, "connection stays");
        }
        Ok(())
    }

    /// Offers the tunnels of a set that stand still.
    async fn give_tunnels<T: AsRef<TunnelInfo> + Send + Sync + 'static>(
        &self,
        set: &'static str,
        tunnels: Members<T>,
    ) -> Result<(), LinkError> {
        let (tunnels, alone) = self.split(set, tunnels);
        for (tunnels, at_once) in [(tunnels, TUNNELS_AT_ONCE), (alone, 1)] {
            let tunnels = stream::iter(tunnels.into_iter().map(Ok));
            let give =
                |(pod, conn): (Arc<Pod>, Conn<T>)| async move { self.give_tunnel(&pod, set, &conn).await };
            tunnels.try_for_each_concurrent(at_once, give).await?;
        }
        Ok(())
    }

    async fn give_tunnel<T: AsRef<TunnelInfo>>(
        &self,
        pod: &Pod,
        set: &'static str,
        conn: &Conn<T>,
    ) -> Result<(), LinkError> {
        let info = conn.info().as_ref();
        let offer = match stand_still(conn, &info.departure).await {
            Ok(offer) => offer,
            Err(stays) => return self.stays(stays),
        };
        let TunnelOffer { mut record, sockets, answer } = offer;
        record.pod = place(pod);
        let (kind, count) = (record.kind, record.streams.len());
        let offering = self.offering(key(pod, set, conn), kind, count);
        let number = self.number();
        let message = encode_tunnel(number, record);
        let exchange =
            self.in_flight.offer(number, answer).breaking(&self.shared.breaker).noting(&offering.taken);
        let heard = exchange.run(&message, &sockets).await?;
        if let Err(reason) = offering.heard(heard) {
            tracing::debug!(target: "handover", peer = %info.peer, streams = count, reason, "tunnel stays");
        }
        Ok(())
    }

    /// Notes why something stays that ought to move.
    fn stays(&self, stays: Stays) -> Result<(), LinkError> {
        if stays != Stays::Unused {
            self.giver.round.lock().stays = Some(stays);
        }
        Ok(())
    }

    fn offering(&self, key: Key, kind: Kind, count: usize) -> Offering<'_> {
        Offering { session: self, key: Some(key), kind, count, taken: AtomicBool::new(false) }
    }

    fn number(&self) -> u64 {
        self.giver.number.fetch_add(1, Relaxed) + 1
    }
}

// === impl Offering ===

impl Offering<'_> {
    /// Tells of an offer that the peer has answered, or that was not made.
    fn heard(mut self, heard: Result<(), String>) -> Result<(), String> {
        if let Err(reason) = &heard {
            self.session.giver.round.lock().reason = Some(reason.clone());
        }
        self.tell(true);
        heard
    }

    /// Counts the connections of the offer, and notes whether the link can still be used.
    fn tell(&mut self, went_well: bool) {
        let Some(key) = self.key.take() else { return };
        let (Session { shared, giver, .. }, taken) = (self.session, *self.taken.get_mut());
        giver.setbacks.lock().note(key, Instant::now(), went_well);
        let moved = if taken { Moved::Given } else { Moved::Kept };
        shared.metrics.handover.moved(moved, Some(self.kind), self.count);
        let mut round = giver.round.lock();
        *(if taken { &mut round.given } else { &mut round.kept }) += self.count as u64;
    }
}

impl Drop for Offering<'_> {
    fn drop(&mut self) {
        // The link has ended, unless the offer was told of. The peer may have the connection all the same.
        self.tell(false);
    }
}

// === impl Wish ===

impl<T, O> Drop for Wish<'_, T, O> {
    fn drop(&mut self) {
        self.conn.let_go();
        drop(self.departure.take());
    }
}

// === impl Stuck ===

impl Stuck {
    /// What to tell after a round in which nothing has moved because of `stays`. Each reason is told once.
    fn tell(&mut self, stays: Option<Stays>, now: Instant) -> Option<Stays> {
        let Some(stays) = stays else {
            *self = Self::default();
            return None;
        };
        let since = *self.since.get_or_insert(now);
        let is_due = now >= since + STUCK_AFTER && self.told != Some(stays);
        is_due.then(|| *self.told.insert(stays))
    }
}

// === impl Setbacks ===

impl Setbacks {
    /// Whether this one is not to be offered yet.
    fn has(&self, key: &Key, now: Instant) -> bool {
        self.0.get(key).is_some_and(|(until, _)| now < *until)
    }

    /// Whether an offer of this one has ended a link.
    fn knows(&self, key: &Key) -> bool {
        self.0.contains_key(key)
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

fn key<T>(pod: &Pod, set: &'static str, conn: &Conn<T>) -> Key {
    (pod.id.uid.to_string(), set, conn.id())
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
