//! Who is connected to a server, and who makes room for a new client when the server is full.
//!
//! Clients that keep their connections must not keep the kubelet's probe or Prometheus out.

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

/// How long an answer may be under way before its connection counts as idle.
/// Limit: an answer on a server that is full: 10 s; past it: the connection makes room for a new one.
const BUSY_WITHIN: Duration = Duration::from_secs(10);

/// The clients of one listener.
#[derive(Debug)]
pub(super) struct Clients {
    most: usize,
    most_each: usize,
    places: Vec<Weak<Place>>,
    /// A connection has become idle or has ended.
    changed: Arc<Notify>,
}

/// The place of one connection.
#[derive(Debug)]
pub(super) struct Place {
    client: IpAddr,
    state: Mutex<State>,
    /// The connection is asked to end.
    leave: Notify,
    changed: Arc<Notify>,
}

/// Whether a connection gets a place.
#[derive(Debug)]
pub(super) enum Admission {
    /// The connection has a place.
    Place(Arc<Place>),
    /// All connections are busy. The new one has to wait for a change.
    Wait,
    /// The client has its share already, and all of its connections are busy.
    Refuse,
}

#[derive(Debug)]
struct State {
    /// Whether a request is being answered.
    busy: bool,
    /// The time of the last change of `busy`.
    since: Instant,
    /// The connection was asked to end and has no place any more.
    leaving: bool,
}

// === impl Clients ===

impl Clients {
    /// Room for `most` connections, and for `most_each` of one address. Loopback addresses may take all of the room.
    pub(super) fn new(most: usize, most_each: usize) -> Self {
        Self { most, most_each, places: Vec::new(), changed: Arc::default() }
    }

    /// Whether a connection can be accepted: a place is free, or an idle connection can make room.
    pub(super) fn has_room(&mut self) -> bool {
        let places = self.held();
        places.len() < self.most || longest_idle(&places).is_some()
    }

    /// Resolves when a connection has become idle or has ended.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// A place for a connection of `client`. The longest idle connection makes room: one of `client` if `client` has its
    /// share already, otherwise one of the address with the most connections.
    pub(super) fn admit(&mut self, client: IpAddr) -> Admission {
        let places = self.held();
        let own: Vec<_> = places.iter().filter(|place| place.client == client).cloned().collect();
        if !client.is_loopback() && own.len() >= self.most_each {
            match longest_idle(&own) {
                Some(place) => place.ask_to_leave(),
                None => return Admission::Refuse,
            }
        } else if places.len() >= self.most {
            match longest_idle(&places) {
                Some(place) => place.ask_to_leave(),
                None => return Admission::Wait,
            }
        }
        let state = State { busy: false, since: Instant::now(), leaving: false };
        let (leave, changed) = (Notify::new(), self.changed.clone());
        let place = Arc::new(Place { client, state: Mutex::new(state), leave, changed });
        self.places.push(Arc::downgrade(&place));
        Admission::Place(place)
    }

    /// The connections that hold a place.
    fn held(&mut self) -> Vec<Arc<Place>> {
        self.places.retain(|place| place.upgrade().is_some_and(|place| !place.state.lock().leaving));
        self.places.iter().filter_map(Weak::upgrade).collect()
    }
}

/// The connection that makes room: the longest idle one of the address with the most connections among `places` that
/// has an idle one.
fn longest_idle(places: &[Arc<Place>]) -> Option<&Arc<Place>> {
    let mut counts = HashMap::<IpAddr, usize>::new();
    for place in places {
        *counts.entry(place.client).or_default() += 1;
    }
    let idle = places.iter().filter_map(|place| Some((place, place.idle_since()?)));
    let (place, _) =
        idle.min_by_key(|(place, since)| (std::cmp::Reverse(counts.get(&place.client)), *since))?;
    Some(place)
}

// === impl Place ===

impl Place {
    /// Notes that a request is being answered until the result is dropped.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.set_busy(true);
        Busy(self.clone())
    }

    /// Resolves when the connection has to make room.
    pub(super) async fn must_leave(&self) {
        self.leave.notified().await;
    }

    fn ask_to_leave(&self) {
        self.state.lock().leaving = true;
        self.leave.notify_one();
    }

    fn set_busy(&self, busy: bool) {
        let mut state = self.state.lock();
        (state.busy, state.since) = (busy, Instant::now());
        drop(state);
        if !busy {
            self.changed.notify_one();
        }
    }

    /// Since when the connection is idle, or busy for too long.
    fn idle_since(&self) -> Option<Instant> {
        let state = self.state.lock();
        (!state.busy || state.since.elapsed() > BUSY_WITHIN).then_some(state.since)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.changed.notify_one();
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct Busy(Arc<Place>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.set_busy(false);
    }
}
