//! One attack beside a victim: what the victim notices, what the proxy uses, and how soon all of it is over.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{
    arena::{ATTACKED, Arena, ECHO, WEB},
    catalogue::{Assault, Entry, Who},
    ceilings::Ceilings,
};
use crate::lab::{
    apps::{Background, echo, load},
    node::wait,
    process::Usage,
    testbed::readiness,
};

/// The time from one message of the victim's stream to its next.
const PACE: Duration = Duration::from_millis(20);
/// The time from one new connection to the victim to the next.
const INTERVAL: Duration = Duration::from_millis(50);
/// The time after which an unanswered message is lost. It exceeds every ceiling, so that stalls are measured.
const LOST: Duration = Duration::from_secs(20);
/// How long the victim's traffic lasts at most.
const TRAFFIC: Duration = Duration::from_secs(300);
/// The time from one look at the proxy to the next.
const LOOK: Duration = Duration::from_millis(100);
/// How long the victim's traffic runs before the attack, so that it measures what it is used to.
const BEFORE: Duration = Duration::from_millis(300);
/// How many descriptors may be left over.
const LEFT_DESCRIPTORS: usize = 10;
/// How much memory may be left over, in bytes.
const LEFT_BYTES: u64 = 64 << 20;

const PANICS: &str = "warren_panics_total";
const CRASHES: &str = "warren_actor_crashes_total";

/// What an attack has cost.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Outcome {
    /// The attack.
    pub(super) name: &'static str,
    /// Who attacked.
    pub(super) who: &'static str,
    /// What was done.
    pub(super) what: &'static str,
    /// The number of blows: frames, connections, datagrams or requests.
    pub(super) blows: u64,
    /// The slowest answer to a message of the victim's streams, in milliseconds.
    pub(super) slowest_ms: u64,
    /// The slowest request to the victim on a new connection, in milliseconds.
    pub(super) slowest_new_ms: u64,
    /// The number of the victim's streams and requests that were lost.
    pub(super) lost: u64,
    /// By how many bytes the proxy's memory grew at most.
    pub(super) grown_bytes: u64,
    /// By how many the proxy's descriptors grew at most.
    pub(super) grown_descriptors: usize,
    /// The time from the attack's end until memory and descriptors were those of before, in milliseconds; none if they
    /// never were.
    pub(super) recovered_ms: Option<u64>,
    /// The ceilings that were passed.
    pub(super) complaints: Vec<String>,
}

/// What the proxy uses at a moment.
#[derive(Clone, Copy, Debug, Default)]
struct Use {
    bytes: u64,
    descriptors: usize,
}

/// The traffic of the victim.
struct Traffic {
    streams: echo::Pacing,
    requests: Background<load::Report>,
}

/// Makes the attack for `time`. Errors: the trial itself could not be run.
pub(super) fn run(
    arena: &mut Arena,
    entry: &Entry,
    time: Duration,
    ceilings: &Ceilings,
) -> Result<Outcome, String> {
    let before = usage(arena)?;
    let failed_before = failures(arena)?;
    let traffic = Traffic::start(arena)?;
    watch(arena, BEFORE, |_, _| {})?;
    let Assault { attackers, helpers } = entry.begin(arena)?;
    let mut outcome =
        Outcome { name: entry.name, who: entry.who.word(), what: entry.what, ..Outcome::default() };
    let mut unready = 0;
    watch(arena, time, |now, ready| {
        outcome.grown_bytes = outcome.grown_bytes.max(now.bytes.saturating_sub(before.bytes));
        outcome.grown_descriptors =
            outcome.grown_descriptors.max(now.descriptors.saturating_sub(before.descriptors));
        unready += u64::from(!ready);
    })?;
    for attacker in attackers {
        outcome.blows += attacker.finish().map_err(|error| error.to_string())?;
    }
    let over = Instant::now();
    let flowed = traffic.finish()?;
    let recovered = wait(ceilings.recovery, || {
        let now = usage(arena)?;
        if now.descriptors <= before.descriptors + LEFT_DESCRIPTORS && now.bytes <= before.bytes + LEFT_BYTES
        {
            return Ok(());
        }
        thread::park_timeout(LOOK);
        let (bytes, descriptors) = (now.bytes.saturating_sub(before.bytes), now.descriptors);
        Err(format!(
            "{} MiB and {descriptors} descriptors, after {}, are left",
            bytes >> 20,
            before.descriptors
        ))
    });
    drop(helpers);
    match recovered {
        Ok(()) => outcome.recovered_ms = Some(millis(over.elapsed())),
        Err(left) => outcome.complaints.push(left),
    }
    outcome.take(&flowed);
    // A proxy without its agent is not ready (docs/spec/dataplane.md 6).
    if unready > 0 && entry.who != Who::Agent {
        outcome.complaints.push(format!("not ready {unready} times"));
    }
    if outcome.blows == 0 {
        outcome.complaints.push("no blow was dealt".to_owned());
    }
    outcome.complaints.extend(arena.serves().err());
    let failed = failures(arena)?.saturating_sub(failed_before);
    if failed > 0 {
        outcome.complaints.push(format!("{failed} panics and crashes"));
    }
    Ok(outcome.held_to(ceilings))
}

/// Looks at the proxy for `time`: what it uses, and whether it says that it is ready.
fn watch(arena: &mut Arena, time: Duration, mut seen: impl FnMut(Use, bool)) -> Result<(), String> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        let now = usage(arena)?;
        let ready = readiness(arena.node_namespace()?).is_ok_and(|answer| answer.status == 200);
        seen(now, ready);
        thread::park_timeout(LOOK.min(end.saturating_duration_since(Instant::now())));
    }
    Ok(())
}

fn usage(arena: &mut Arena) -> Result<Use, String> {
    let process = arena.testbed.proxy(ATTACKED).map_err(|error| error.to_string())?;
    let Usage { resident_bytes, .. } = process.usage().map_err(|error| error.to_string())?;
    let descriptors = process.descriptors().map_err(|error| error.to_string())?;
    Ok(Use { bytes: resident_bytes, descriptors })
}

fn failures(arena: &Arena) -> Result<u64, String> {
    let samples = arena.node()?.metrics()?;
    Ok(samples.sum(PANICS, &[]) + samples.sum(CRASHES, &[]))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

// === impl Traffic ===

impl Traffic {
    /// Starts to call the victim: by streams that last, and by new connections.
    fn start(arena: &Arena) -> Result<Self, String> {
        let text = |error: crate::lab::apps::AppError| error.to_string();
        let plan = echo::Plan { connections: 2, interval: PACE, time: TRAFFIC, limit: LOST };
        let mut streams = echo::pace(&arena.route("client", "victim", ECHO)?, plan).map_err(text)?;
        let plan = load::Plan {
            host: "victim".to_owned(),
            clients: 1,
            keep_alive: false,
            requests: u64::MAX,
            time: TRAFFIC,
            limit: LOST,
            interval: INTERVAL,
        };
        let requests = load::start(&arena.route("client", "victim", WEB)?, plan).map_err(text)?;
        streams.wait_until_open();
        Ok(Self { streams, requests })
    }

    fn finish(self) -> Result<(echo::Report, load::Report), String> {
        let text = |error: crate::lab::apps::AppError| error.to_string();
        Ok((self.streams.finish().map_err(text)?, self.requests.finish().map_err(text)?))
    }
}

// === impl Outcome ===

impl Outcome {
    /// Whether no ceiling was passed.
    pub(super) fn holds(&self) -> bool {
        self.complaints.is_empty()
    }

    fn take(&mut self, (streams, requests): &(echo::Report, load::Report)) {
        self.slowest_ms = millis(streams.latencies.slowest());
        self.slowest_new_ms = millis(requests.latencies.slowest());
        self.lost = streams.broken + streams.wrong + requests.failures;
        let first = streams.first_problem.as_ref().or(requests.first_failure.as_ref());
        self.complaints.extend(first.map(|problem| format!("{} lost: {problem}", self.lost)));
    }

    fn held_to(mut self, ceilings: &Ceilings) -> Self {
        let measured = [
            ("ms for an echo", self.slowest_ms, ceilings.echo_ms),
            ("ms for a new connection", self.slowest_new_ms, ceilings.new_ms),
            ("MiB more", self.grown_bytes >> 20, ceilings.grown_mib),
            ("descriptors more", self.grown_descriptors as u64, ceilings.grown_descriptors),
        ];
        for (what, seen, most) in measured {
            if seen > most {
                self.complaints.push(format!("{seen} {what}, over {most}"));
            }
        }
        self
    }
}
