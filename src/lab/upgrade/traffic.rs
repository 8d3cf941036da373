//! Lasting streams on all ways, and new connections beside them.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use super::{
    fleet::{Fleet, LASTING, WEB, text},
    ways::{SERVERS, WAYS, Way},
};
use crate::lab::apps::{
    Background,
    lasting::{self, Gate, Habit, Lasting, Report, Windows},
    load,
};

/// The most streams of a busy habit.
const MOST_BUSY: usize = 40;
/// The most messages of all paced streams a second.
const MESSAGES_A_SECOND: u64 = 1_500;
/// The least time from one message of a paced stream to its next.
const PACE: Duration = Duration::from_millis(20);
/// The time from one new connection of a way to the next.
const INTERVAL: Duration = Duration::from_millis(50);
/// The time after which an unanswered message or request is lost. It exceeds every stall that is allowed.
const LOST: Duration = Duration::from_secs(30);
/// How long traffic lasts at most.
const TIME: Duration = Duration::from_secs(24 * 3600);

/// What streams a row has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mix {
    /// The habits, each with its share of the streams in percent.
    pub(super) habits: &'static [(Habit, usize)],
    /// Whether the streams take the ways through tunnels alone.
    pub(super) tunnels: bool,
    /// Whether there are new connections all along.
    pub(super) new: bool,
}

/// Streams and new connections that go on.
pub(super) struct Traffic {
    streams: Vec<(Way, Lasting)>,
    loads: Vec<(Way, Background<load::Report>)>,
    /// The windows in which stalls count.
    pub(super) windows: Windows,
    gate: Gate,
    _servers: Vec<Background<u64>>,
}

/// What has become of them.
#[derive(Debug)]
pub(super) struct Flow {
    /// By way; a way may occur more than once.
    pub(super) streams: Vec<(Way, Report)>,
    /// New connections, by way.
    pub(super) new: Vec<(Way, load::Report)>,
}

// === impl Mix ===

impl Mix {
    /// The ways of the streams.
    fn ways(&self) -> impl Iterator<Item = Way> + Clone {
        let tunnels = self.tunnels;
        WAYS.into_iter().filter(move |way| !tunnels || way.places.len() > 1)
    }

    /// The number of streams of a habit, of `streams` in all: at least one for each way.
    fn count(&self, (habit, percent): (Habit, usize), streams: usize) -> usize {
        let most = match habit {
            Habit::Idle | Habit::Paced | Habit::HalfClosed => usize::MAX,
            Habit::Saturated | Habit::ServerStopped | Habit::ClientStopped => MOST_BUSY,
        };
        (streams * percent / 100).min(most).max(self.ways().count())
    }
}

// === impl Traffic ===

impl Traffic {
    /// Opens the streams, each of which is in its habit on return, and begins to make new connections.
    pub(super) fn start(fleet: &Fleet, mix: &Mix, streams: usize) -> Result<Self, String> {
        let (windows, gate) = (Windows::default(), Gate::new());
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let serve = |name: &&str| lasting::serve(fleet.pod(name)?, any, LASTING, &gate).map_err(text);
        let servers = SERVERS.iter().map(serve).collect::<Result<_, _>>()?;
        let mut traffic = Self { streams: Vec::new(), loads: Vec::new(), windows, gate, _servers: servers };
        for share in mix.habits {
            traffic.open(fleet, mix, share.0, mix.count(*share, streams))?;
        }
        traffic.streams.iter_mut().for_each(|(_, streams)| streams.wait_until_open());
        for way in WAYS.into_iter().filter(|_| mix.new) {
            let plan = load::Plan {
                host: way.to.to_owned(),
                clients: 1,
                keep_alive: false,
                requests: u64::MAX,
                time: TIME,
                limit: LOST,
                interval: INTERVAL,
            };
            traffic.loads.push((way, load::start(&fleet.route(way, WEB)?, plan).map_err(text)?));
        }
        Ok(traffic)
    }

    /// Shares the streams of a habit out among the ways.
    fn open(&mut self, fleet: &Fleet, mix: &Mix, habit: Habit, count: usize) -> Result<(), String> {
        let pace = PACE.max(Duration::from_millis(count as u64 * 1_000 / MESSAGES_A_SECOND));
        let ways = mix.ways().count();
        for (number, way) in mix.ways().enumerate() {
            let plan = lasting::Plan {
                habit,
                streams: count / ways + usize::from(number < count % ways),
                pace,
                limit: LOST,
                windows: self.windows.clone(),
                gate: self.gate.clone(),
            };
            self.streams.push((way, lasting::start(&fleet.route(way, LASTING)?, plan).map_err(text)?));
        }
        Ok(())
    }

    /// The number of bytes that all streams have moved.
    pub(super) fn bytes(&self) -> u64 {
        self.streams.iter().map(|(_, streams)| streams.bytes()).sum()
    }

    /// Brings all streams to their end.
    pub(super) fn finish(self) -> Result<Flow, String> {
        let new = self.loads.into_iter().map(|(way, load)| Ok((way, load.finish().map_err(text)?)));
        let new = new.collect::<Result<_, String>>()?;
        self.gate.open();
        let ended = self.streams.into_iter().map(|(way, streams)| Ok((way, streams.wait().map_err(text)?)));
        Ok(Flow { streams: ended.collect::<Result<_, String>>()?, new })
    }
}

// === impl Flow ===

impl Flow {
    /// The report of the ways that `which` accepts.
    pub(super) fn sum(&self, which: impl Fn(Way) -> bool) -> Report {
        let mut sum = Report::default();
        self.streams.iter().filter(|(way, _)| which(*way)).for_each(|(_, report)| sum.add(report.clone()));
        sum
    }

    /// The new connections of all ways.
    pub(super) fn sum_new(&self) -> load::Report {
        let mut sum = load::Report::default();
        for (way, report) in &self.new {
            sum.requests += report.requests;
            sum.failures += report.failures;
            let failure = || report.first_failure.as_ref().map(|failure| format!("{way}: {failure}"));
            sum.first_failure = sum.first_failure.take().or_else(failure);
            sum.latencies.merge(&report.latencies);
        }
        sum
    }

    /// Leaves out the new connections of these ways, which may fail.
    pub(super) fn forgive(&mut self, which: impl Fn(Way) -> bool) {
        self.new.retain(|(way, _)| !which(*way));
    }
}
