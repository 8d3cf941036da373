//! The last events of the process, for operators who look: pods, tunnels, certificates, pushes, restarts, denials.

#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use tokio::sync::watch;

/// Limit: events that are kept: 1024; past it: the oldest is forgotten, and readers are told how many they missed.
const MAX_EVENTS: usize = 1024;
/// Limit: events of a kind in a second: 20; past it: the others are counted, and the next event of the kind says so.
const MAX_IN_A_SECOND: u32 = 20;
/// Limit: text of an event: 300 characters; past it: the text is cut.
const MAX_CHARS: usize = 300;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A pod is served, or no longer.
    Pod,
    /// A tunnel was set up, has ended or could not be set up.
    Tunnel,
    /// A certificate came, or did not come.
    Certificate,
    /// The control plane has sent something, or its stream began or ended.
    Push,
    /// An actor crashed or came back.
    Actor,
    /// An input or actor was set aside.
    Quarantine,
    /// A connection was denied by policies.
    Denial,
    /// An operator did something.
    Operator,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The number of the event; the first is 1.
    pub number: u64,
    /// The time of the event.
    pub at: SystemTime,
    /// What the event is about.
    pub kind: EventKind,
    /// `namespace/name` of the pod concerned, if it is one pod's event.
    pub pod: Option<Box<str>>,
    /// What happened.
    pub says: Box<str>,
}

/// What a reader gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventsRead {
    /// The events, the oldest first.
    pub events: Vec<Event>,
    /// The number of events that were forgotten before the reader asked.
    pub missed: u64,
    /// The number of the last event that the reader has.
    pub last: u64,
}

/// The events of the process.
#[derive(Debug)]
pub struct Events {
    ring: Mutex<Ring>,
    last: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Event>,
    last: u64,
    kinds: [Rate; EventKind::ALL.len()],
}

/// The events of one kind in the running second.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    began: Option<Instant>,
    told: u32,
    left_out: u64,
}

// === impl EventKind ===

impl EventKind {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::Pod,
        Self::Tunnel,
        Self::Certificate,
        Self::Push,
        Self::Actor,
        Self::Quarantine,
        Self::Denial,
        Self::Operator,
    ];

    /// The word for the kind.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Tunnel => "tunnel",
            Self::Certificate => "certificate",
            Self::Push => "push",
            Self::Actor => "actor",
            Self::Quarantine => "quarantine",
            Self::Denial => "denial",
            Self::Operator => "operator",
        }
    }
}

// === impl Events ===

impl Default for Events {
    fn default() -> Self {
        Self { ring: Mutex::default(), last: watch::Sender::new(0) }
    }
}

impl Events {
    /// Tells an event of one pod, or of the node. The text is made only if the event is kept.
    pub fn tell<T: Into<String>>(&self, kind: EventKind, pod: Option<&str>, says: impl FnOnce() -> T) {
        let mut ring = self.ring.lock();
        let Some(rate) = ring.kinds.get_mut(kind as usize) else { return };
        let Some(left_out) = rate.admit(Instant::now()) else { return };
        let mut says: String = says().into();
        if let Some((cut, _)) = says.char_indices().nth(MAX_CHARS) {
            says.truncate(cut);
            says.push('…');
        }
        if left_out > 0 {
            says.push_str(&format!(" (and {left_out} more events of this kind)"));
        }
        ring.last += 1;
        let number = ring.last;
        let (pod, says) = (pod.map(Box::from), says.into_boxed_str());
        ring.events.push_back(Event { number, at: SystemTime::now(), kind, pod, says });
        if ring.events.len() > MAX_EVENTS {
            ring.events.pop_front();
        }
        drop(ring);
        self.last.send_replace(number);
    }

    /// The events after number `after`; all that are kept for 0.
    pub fn after(&self, after: u64) -> EventsRead {
        let ring = self.ring.lock();
        let oldest = ring.last + 1 - ring.events.len() as u64;
        // A reader of the process before this one begins anew.
        let after = if after > ring.last { 0 } else { after };
        let events: Vec<Event> = ring.events.iter().filter(|event| event.number > after).cloned().collect();
        let missed = if after == 0 { 0 } else { oldest.saturating_sub(after + 1) };
        EventsRead { events, missed, last: ring.last }
    }

    /// The last `most` events, the newest first.
    pub fn newest(&self, most: usize) -> Vec<Event> {
        self.ring.lock().events.iter().rev().take(most).cloned().collect()
    }

    /// The events after number `after`, once there is one, or after `within`.
    pub async fn wait_after(&self, after: u64, within: Duration) -> EventsRead {
        let mut last = self.last.subscribe();
        let news = last.wait_for(|last| *last != after);
        // The sender lives as long as `self`.
        let _ = tokio::time::timeout(within, news).await;
        self.after(after)
    }
}

// === impl Rate ===

impl Rate {
    /// Whether one more event may be told, and how many were left out before it.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.began.is_none_or(|began| now.duration_since(began) >= Duration::from_secs(1)) {
            (self.began, self.told) = (Some(now), 0);
        }
        if self.told >= MAX_IN_A_SECOND {
            self.left_out += 1;
            return None;
        }
        self.told += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}
