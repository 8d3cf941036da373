//! The metrics of single pods: those that carry the most by name, and the others as one.

#[cfg(test)]
mod tests;

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;

use super::series::{
    Computed, MetricsError, Readings,
    declared::{POD_CONNECTIONS, POD_CPU, POD_HANDSHAKES, POD_RECEIVED, POD_SENT},
};

/// Limit: pods that metrics name, those that carry the most: 64; past it: the others are counted as `rest`.
const MAX_NAMED: usize = 64;
/// The label of the pods that are not named.
const REST: &str = "rest";

/// What a pod has done since it is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodTotals {
    /// Connections and streams of the pod.
    pub(crate) connections: u64,
    /// Bytes from clients to servers.
    pub(crate) received: u64,
    /// Bytes from servers to clients.
    pub(crate) sent: u64,
    /// Tunnels that were set up or were to be, by either end.
    pub(crate) handshakes: u64,
    /// The processor time of the pod's connections and tunnels.
    pub(crate) busy: Duration,
}

/// A pod and its totals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodReading {
    /// A number that no other pod has.
    pub(crate) serial: u64,
    /// `namespace/name`.
    pub(crate) name: String,
    /// What the pod has done.
    pub(crate) totals: PodTotals,
}

/// The series of one moment.
#[derive(Debug, Default)]
struct Ranking {
    /// The totals of pods that are not named, when they were last read.
    unnamed: HashMap<u64, PodTotals>,
    /// The sum of what unnamed pods did. It only grows: a pod that is named later has its past counted here.
    rest: PodTotals,
}

/// The series of the pods that `read` finds.
///
/// # Errors
/// A name is not valid, which is a mistake in the declarations.
pub(crate) fn of_pods(
    read: impl Fn() -> Vec<PodReading> + Send + Sync + 'static,
) -> Result<Computed, MetricsError> {
    let ranking = Mutex::new(Ranking::default());
    let families = &[POD_CONNECTIONS, POD_RECEIVED, POD_SENT, POD_HANDSHAKES, POD_CPU];
    Computed::new(families, move |readings| {
        let mut ranking = ranking.lock();
        for pod in ranking.rank(read()) {
            put(readings, &pod.name, &pod.totals);
        }
        if ranking.rest != PodTotals::default() {
            put(readings, REST, &ranking.rest);
        }
    })
}

fn put(readings: &mut Readings, pod: &str, totals: &PodTotals) {
    let PodTotals { connections, received, sent, handshakes, busy } = *totals;
    let numbers = [
        (POD_CONNECTIONS, connections as f64),
        (POD_RECEIVED, received as f64),
        (POD_SENT, sent as f64),
        (POD_HANDSHAKES, handshakes as f64),
        (POD_CPU, busy.as_secs_f64()),
    ];
    for (family, number) in numbers {
        readings.put(family, &[pod], number);
    }
}

// === impl Ranking ===

impl Ranking {
    /// The pods to name. What the others have done since the last reading is added to the rest.
    fn rank(&mut self, mut pods: Vec<PodReading>) -> Vec<PodReading> {
        let weight = |pod: &PodReading| pod.totals.received.saturating_add(pod.totals.sent);
        // The serial decides among equals, so that the names do not change from one reading to the next.
        pods.sort_by_key(|pod| (std::cmp::Reverse(weight(pod)), pod.serial));
        let others = pods.split_off(pods.len().min(MAX_NAMED));
        let mut unnamed = HashMap::with_capacity(others.len());
        for pod in others {
            let before = self.unnamed.get(&pod.serial).copied().unwrap_or_default();
            self.rest.add_change(&before, &pod.totals);
            unnamed.insert(pod.serial, pod.totals);
        }
        self.unnamed = unnamed;
        pods
    }
}

// === impl PodTotals ===

impl PodTotals {
    fn add_change(&mut self, before: &Self, now: &Self) {
        let change = |now: u64, before: u64| now.saturating_sub(before);
        self.connections += change(now.connections, before.connections);
        self.received += change(now.received, before.received);
        self.sent += change(now.sent, before.sent);
        self.handshakes += change(now.handshakes, before.handshakes);
        self.busy += now.busy.saturating_sub(before.busy);
    }
}
