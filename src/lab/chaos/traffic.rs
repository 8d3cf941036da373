//! Steady traffic through the node that is broken. Each of its data paths carries long-lived streams of numbered
//! messages with checksums, and short-lived connections.

use std::time::Duration;

use super::{
    chaos_mesh::{ChaosMesh, WEB, text},
    flow::Flow,
};
use crate::lab::apps::{
    Background,
    echo::{self, Pacing},
    load,
};

/// The number of long-lived streams of each flow.
pub(super) const STREAMS: usize = 4;
/// The time from one message of a stream to its next.
const PACE: Duration = Duration::from_millis(10);
/// The number of clients of each flow that open a connection for each request.
const CLIENTS: usize = 1;
/// The time from one request of such a client to its next.
const INTERVAL: Duration = Duration::from_millis(10);
/// The time after which an unanswered message is lost. It exceeds every allowed stall, so that stalls are measured
/// rather than cut.
const LOST: Duration = Duration::from_secs(20);
/// The running time of traffic, which exceeds the length of a trial or of a leg of a soak.
const TIME: Duration = Duration::from_secs(300);

const ECHO: u16 = 9000;

/// The traffic of one flow.
pub(super) struct Load {
    flow: Flow,
    streams: Pacing,
    requests: Background<load::Report>,
}

/// The results of one flow's traffic.
#[derive(Debug)]
pub(super) struct FlowReport {
    /// The flow.
    pub(super) flow: Flow,
    /// The report of the flow's streams.
    pub(super) streams: echo::Report,
    /// The report of the flow's requests, each on its own connection.
    pub(super) requests: load::Report,
}

// === impl Load ===

impl Load {
    /// Starts the traffic of all flows; the streams are open on return.
    pub(super) fn start(chaos_mesh: &ChaosMesh) -> Result<Vec<Self>, String> {
        let mut loads = Vec::new();
        for flow in Flow::ALL {
            let plan = echo::Plan { connections: STREAMS, interval: PACE, time: TIME, limit: LOST };
            let streams = echo::pace(&chaos_mesh.route(flow.ends(), ECHO)?, plan).map_err(text)?;
            let plan = load::Plan {
                host: "server".to_owned(),
                clients: CLIENTS,
                keep_alive: false,
                requests: u64::MAX,
                time: TIME,
                limit: LOST,
                interval: INTERVAL,
            };
            let requests = load::start(&chaos_mesh.route(flow.ends(), WEB)?, plan).map_err(text)?;
            loads.push(Self { flow, streams, requests });
        }
        loads.iter_mut().for_each(|load| load.streams.wait_until_open());
        Ok(loads)
    }

    /// Ends the traffic and returns the reports.
    pub(super) fn finish(loads: Vec<Self>) -> Result<Vec<FlowReport>, String> {
        let ended = loads.into_iter().map(|Self { flow, streams, requests }| {
            let (streams, requests) = (streams.finish().map_err(text)?, requests.finish().map_err(text)?);
            Ok(FlowReport { flow, streams, requests })
        });
        ended.collect()
    }
}

// === impl FlowReport ===

impl FlowReport {
    /// The longest time that a message or a request took.
    pub(super) fn stall(&self) -> Duration {
        self.streams.latencies.slowest().max(self.requests.latencies.slowest())
    }

    /// The first problem of the flow.
    pub(super) fn first_problem(&self) -> &str {
        let first = self.streams.first_problem.as_ref().or(self.requests.first_failure.as_ref());
        first.map_or("", String::as_str)
    }

    /// A complaint about wrong answers, and about losses unless these are allowed.
    pub(super) fn complaint(&self, may_lose: bool) -> Option<String> {
        let Self { flow, streams, requests } = self;
        if streams.wrong > 0 {
            return Some(format!("{flow:?}: {} wrong answers: {}", streams.wrong, self.first_problem()));
        }
        let idle = streams.opened < STREAMS as u64 || requests.requests == 0;
        let lost = streams.broken > 0 || requests.failures > 0;
        (idle || lost && !may_lose).then(|| {
            let (broken, opened) = (streams.broken, streams.opened);
            let (failed, all) = (requests.failures, requests.requests);
            let first = self.first_problem();
            format!("{flow:?}: {broken} of {opened} streams, {failed} of {all} requests lost: {first}")
        })
    }
}
