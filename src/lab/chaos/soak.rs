//! Kills one random actor a second, on both nodes, under traffic. Only streams that killed actors own may be lost. No
//! byte may be wrong, every crash must be in the metrics, and nothing may grow.
//!
//! A supervisor gives up, by design, if its children restart more often than it tolerates. The soak therefore kills
//! no supervisor's children more often than that.

use std::{
    collections::BTreeMap,
    fs,
    io::Stdout,
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use serde_json::json;

use super::{
    allowed::{Allowed, Fault},
    args::ChaosArgs,
    chaos_mesh::{ChaosMesh, SOON, pause, text},
    flow::Flow,
    traffic::{Load, STREAMS},
};
use crate::lab::{
    node::{ActorStatus, Node, wait},
    process::Usage,
    show::{Evidence, FactResult, Show, number, seconds},
};

/// The time from one kill to the next.
const TICK: Duration = Duration::from_secs(1);
/// Kills while the same streams live.
const LEG: u32 = 5;
/// The number of kills before the first check of memory and descriptors; caches and pools fill until then.
const WARM: u32 = 60;
/// The length of a soak unless the command line says otherwise.
const USUAL: Duration = Duration::from_secs(60);
/// The time from one line of progress to the next.
const SAY: Duration = Duration::from_secs(60);
/// The share of kills that hit actors that own streams.
const COSTLY: f64 = 0.1;
/// The time after which traffic has ended and its resources have been released.
const QUIET: Duration = Duration::from_secs(3);
/// The most children of one supervisor that are killed in a period: first for the data plane, then for any other.
/// Both kinds of supervisors tolerate more.
const TOLERATED: [(usize, Duration); 2] = [(6, Duration::from_secs(30)), (8, Duration::from_secs(300))];
/// The most kills of one actor in a period. Each restart waits twice as long as the one before: a listener killed
/// nine times within 100 s would be away for 25 s, and clients give up.
const SPACED: (usize, Duration) = (3, Duration::from_secs(100));

const CRASHES: &str = "warren_actor_crashes_total";
const RESTARTS: &str = "warren_actor_restarts_total";
const PANICS: &str = "warren_panics_total";
const NODES: [&str; 2] = ["one", "two"];

/// The kills and their effects.
#[derive(Default)]
struct Tally {
    kills: u64,
    /// The number of kills that also end a sibling: `mesh` ends the stream, `pods` ends the hand-over.
    with_sibling: u64,
    /// The number of kills of supervisors. Children that wait for a restart end with their supervisor.
    supervisors: u64,
    by_kind: BTreeMap<String, u64>,
    /// The times at which each actor was killed, by node and path.
    killed: BTreeMap<(usize, String), Vec<Instant>>,
    /// The times at which each supervisor lost a child, by node and path.
    recent: BTreeMap<(usize, String), Vec<Instant>>,
    answers: u64,
    requests: u64,
    streams: u64,
    streams_lost: u64,
    requests_failed: u64,
    wrong: u64,
    stall: Duration,
    complaints: Vec<String>,
}

/// The resources of a proxy at rest.
#[derive(Clone, Copy)]
struct Rest {
    usage: Usage,
    descriptors: usize,
    crashes: u64,
    restarts: u64,
}

/// Runs for as long as the command line says.
pub(super) fn run(
    chaos_mesh: &mut ChaosMesh,
    args: &ChaosArgs,
    allowed: &Allowed,
    show: &mut Show<Stdout>,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut rng = SmallRng::seed_from_u64(args.seed);
    let duration = args.duration.unwrap_or(USUAL);
    show.section(&format!("One kill a second for {}", seconds(duration)));
    let mut tally = Tally::default();
    let warm = Instant::now() + WARM * TICK;
    tally.go_on(chaos_mesh, allowed, &mut rng, (warm, show))?;
    let before = rest(chaos_mesh)?;
    let warmed = std::mem::take(&mut tally);
    show.note(&format!("warm after {} kills; from here on it counts", warmed.kills));
    // The recent kills stay, because supervisors remember them; the complaints stay too.
    tally = Tally {
        recent: warmed.recent,
        killed: warmed.killed,
        complaints: warmed.complaints,
        ..Tally::default()
    };
    let begun = Instant::now();
    tally.go_on(chaos_mesh, allowed, &mut rng, (begun + duration, show))?;
    let lasted = begun.elapsed();
    let after = rest(chaos_mesh)?;
    let panics: u64 = nodes(chaos_mesh)?
        .iter()
        .map(|node| Ok(node.metrics()?.sum(PANICS, &[])))
        .sum::<Result<_, String>>()?;
    let measured = Measured { lasted, before: &before, after: &after, panics };
    tally.show(measured, show);
    if let Some(path) = &args.json {
        fs::write(path, serde_json::to_vec_pretty(&tally.json(measured))?)?;
    }
    Ok(())
}

fn nodes(chaos_mesh: &ChaosMesh) -> Result<Vec<Node>, String> {
    NODES.into_iter().map(|name| chaos_mesh.node(name)).collect()
}

/// Waits until both proxies serve everything again and are at rest, and returns their resources.
fn rest(chaos_mesh: &mut ChaosMesh) -> Result<Vec<Rest>, String> {
    chaos_mesh.settle()?;
    pause(QUIET);
    let mut found = Vec::new();
    for (name, node) in NODES.into_iter().zip(nodes(chaos_mesh)?) {
        wait(SOON, || match node.actors(|_| true)?.iter().find(|seen| seen.state != "up") {
            None => Ok(()),
            Some(seen) => Err(format!("node {name}: {} is {}", seen.path, seen.state)),
        })?;
        let samples = node.metrics()?;
        let process = chaos_mesh.testbed.proxy(name).map_err(text)?;
        found.push(Rest {
            usage: process.usage().map_err(text)?,
            descriptors: process.descriptors().map_err(text)?,
            crashes: samples.sum(CRASHES, &[]),
            restarts: samples.sum(RESTARTS, &[]),
        });
    }
    Ok(found)
}

/// The flows that a killed actor may end: the flows of its pod, or all flows if the actor is above the pods.
fn touched(chaos_mesh: &ChaosMesh, path: &str) -> Result<Vec<Flow>, String> {
    let Some(rest) = path.strip_prefix("root/dataplane/pods/") else { return Ok(Flow::ALL.to_vec()) };
    let mut flows = Vec::new();
    for flow in Flow::ALL {
        for pod in <[&str; 2]>::from(flow.ends()) {
            if rest.starts_with(&chaos_mesh.pod(pod)?.0) {
                flows.push(flow);
            }
        }
    }
    Ok(flows)
}

/// The measured values that judge a soak, beside its tally.
#[derive(Clone, Copy)]
struct Measured<'a> {
    lasted: Duration,
    /// The nodes at rest, before the kills.
    before: &'a [Rest],
    /// The nodes at rest, after the kills.
    after: &'a [Rest],
    /// Panics of the proxies of all nodes.
    panics: u64,
}

// === impl Tally ===

impl Tally {
    /// Kills actors until `end`, leg after leg.
    fn go_on(
        &mut self,
        chaos_mesh: &mut ChaosMesh,
        allowed: &Allowed,
        rng: &mut SmallRng,
        (end, show): (Instant, &mut Show<Stdout>),
    ) -> Result<(), String> {
        let (begun, mut said) = (Instant::now(), Instant::now());
        let mut next = Instant::now();
        while Instant::now() < end {
            chaos_mesh.settle()?;
            let loads = Load::start(chaos_mesh)?;
            let mut may_lose = Vec::new();
            for _ in 0..LEG {
                next += TICK;
                pause(next.saturating_duration_since(Instant::now()));
                may_lose.extend(self.kill(chaos_mesh, allowed, rng)?);
                show.doing(&format!("{} kills, {} so far", self.kills, seconds(begun.elapsed())));
            }
            pause(TICK);
            for flowed in Load::finish(loads)? {
                if let Some(complaint) = flowed.complaint(may_lose.contains(&flowed.flow)) {
                    // The complaint is shown at once, because a soak may last an hour.
                    show.note(&format!("{}: {complaint}", seconds(begun.elapsed())));
                    self.complaints.push(complaint);
                }
                self.answers += flowed.streams.answered;
                self.requests += flowed.requests.requests;
                self.streams += flowed.streams.opened;
                self.streams_lost += flowed.streams.broken;
                self.requests_failed += flowed.requests.failures;
                self.wrong += flowed.streams.wrong;
                self.stall = self.stall.max(flowed.stall());
            }
            // The next kills make up for the time that a leg's beginning took, within a bound.
            next = next.max(Instant::now().checked_sub(TICK * LEG).unwrap_or(next));
            if said.elapsed() >= SAY {
                said = Instant::now();
                show.note(&self.progress(begun.elapsed()));
            }
        }
        Ok(())
    }

    fn progress(&self, lasted: Duration) -> String {
        let (answers, requests) = (number(self.answers), number(self.requests));
        format!(
            "{}: {} kills, {answers} echoes, {requests} requests, {} streams lost, {} complaints",
            seconds(lasted),
            self.kills,
            self.streams_lost,
            self.complaints.len()
        )
    }

    /// Kills one actor whose supervisor tolerates one more loss. Returns the flows that the kill may end.
    fn kill(
        &mut self,
        chaos_mesh: &ChaosMesh,
        allowed: &Allowed,
        rng: &mut SmallRng,
    ) -> Result<Vec<Flow>, String> {
        let costly = rng.random_bool(COSTLY);
        let mut able: Vec<(usize, Node, ActorStatus)> = Vec::new();
        for (index, node) in nodes(chaos_mesh)?.into_iter().enumerate() {
            // If the admin port has just been killed, the next kill asks it again.
            for seen in node.actors(|_| true).unwrap_or_default() {
                let Some(row) = allowed.row_of(&seen.path) else {
                    return Err(format!("{} is in no row: add one for its kind", seen.path));
                };
                let costs = Flow::ALL.iter().any(|flow| row.may_lose(Fault::Kill, *flow));
                let fits = row.spared.is_none() && costs == costly && seen.state == "up";
                if fits && self.is_tolerated(index, &seen.path) {
                    able.push((index, node.clone(), seen));
                }
            }
        }
        let Some((index, node, seen)) = able.choose(rng) else { return Ok(Vec::new()) };
        // The actor may have ended meanwhile; the kill does not count then.
        if node.harm(&seen.path, "kill").is_err() {
            return Ok(Vec::new());
        }
        self.kills += 1;
        let kind = allowed.row_of(&seen.path).map_or("", |row| row.kind.as_str());
        *self.by_kind.entry(kind.to_owned()).or_default() += 1;
        self.with_sibling += u64::from(["mesh", "pods"].contains(&kind));
        self.supervisors += u64::from(["supervisor", "dynamic"].contains(&seen.is.as_str()));
        let parent = parent(&seen.path).to_owned();
        self.recent.entry((*index, parent)).or_default().push(Instant::now());
        self.killed.entry((*index, seen.path.clone())).or_default().push(Instant::now());
        if costly { touched(chaos_mesh, &seen.path) } else { Ok(Vec::new()) }
    }

    fn is_tolerated(&self, node: usize, path: &str) -> bool {
        let parent = parent(path);
        let [inner, outer] = TOLERATED;
        let (most, within) = if parent.starts_with("root/dataplane") { inner } else { outer };
        let fewer = |times: Option<&Vec<Instant>>, (most, within): (usize, Duration)| {
            times.is_none_or(|times| times.iter().filter(|at| at.elapsed() < within).count() < most)
        };
        fewer(self.recent.get(&(node, parent.to_owned())), (most, within))
            && fewer(self.killed.get(&(node, path.to_owned())), SPACED)
    }

    fn show(&self, measured: Measured<'_>, show: &mut Show<Stdout>) {
        let kinds: Vec<String> = self.by_kind.iter().map(|(kind, kills)| format!("{kind} {kills}")).collect();
        let text = format!("{} in {} on both nodes", number(self.kills), seconds(measured.lasted));
        let kills = Evidence::new(text).detail(kinds.join(", "));
        show.fact("kills", if self.kills > 0 { Ok(kills) } else { Err("none".to_owned()) });
        show.fact("traffic", self.traffic());
        show.fact("restarts", self.restarts(measured));
        for (place, name) in NODES.into_iter().enumerate() {
            let Some((before, after)) = measured.before.get(place).zip(measured.after.get(place)) else {
                continue;
            };
            let (was, is) = (before.usage.resident_bytes, after.usage.resident_bytes);
            let text =
                format!("{} KiB at the start, {} KiB at the end", number(was / 1024), number(is / 1024));
            show.fact(&format!("memory of {name}"), within_a_tenth(was, is, text));
            let (was, is) = (before.descriptors as u64, after.descriptors as u64);
            let text = format!("{was} at the start, {is} at the end");
            show.fact(&format!("descriptors of {name}"), within_a_tenth(was, is, text));
        }
    }

    fn traffic(&self) -> FactResult {
        let (answers, requests) = (number(self.answers), number(self.requests));
        let text = format!("{answers} echoes and {requests} requests, {} wrong", self.wrong);
        let (lost, streams) = (number(self.streams_lost), number(self.streams));
        let failed = number(self.requests_failed);
        let lost = format!("{lost} of {streams} streams and {failed} requests lost with their owners");
        let stall =
            format!("longest stall {}; {STREAMS} streams for each of four flows", seconds(self.stall));
        match self.complaints.len() {
            0 if self.wrong == 0 => Ok(Evidence::new(text).detail(lost).detail(stall)),
            count => Err(format!("{count} complaints; {text}\n{lost}\n{}", self.complaints.join("\n"))),
        }
    }

    /// Checks that each kill is a crash in the metrics, and each crash a restart, unless the supervisor ended
    /// meanwhile.
    fn restarts(&self, Measured { before, after, panics, .. }: Measured<'_>) -> FactResult {
        let more = |of: fn(&Rest) -> u64| -> u64 {
            after.iter().map(of).sum::<u64>().saturating_sub(before.iter().map(of).sum())
        };
        let (crashes, restarts) = (more(|rest| rest.crashes), more(|rest| rest.restarts));
        let most = self.kills + self.with_sibling;
        let text = format!(
            "{} kills, {crashes} crashes, {restarts} restarts: with {} siblings, and at most {} children of killed \
             supervisors fewer; {panics} panics",
            self.kills, self.with_sibling, self.supervisors
        );
        let accounted = crashes == self.kills && restarts <= most && restarts + 2 * self.supervisors >= most;
        if accounted && panics == 0 { Ok(Evidence::new(text)) } else { Err(text) }
    }

    fn json(&self, Measured { lasted, before, after, .. }: Measured<'_>) -> serde_json::Value {
        let rest = |rests: &[Rest]| -> Vec<serde_json::Value> {
            let one = |rest: &Rest| {
                json!({
                    "residentBytes": rest.usage.resident_bytes, "descriptors": rest.descriptors,
                    "crashes": rest.crashes, "restarts": rest.restarts,
                })
            };
            rests.iter().map(one).collect()
        };
        json!({
            "seconds": lasted.as_secs_f64(), "kills": self.kills, "byKind": self.by_kind, "echoes": self.answers,
            "requests": self.requests, "streams": self.streams, "streamsLost": self.streams_lost,
            "requestsFailed": self.requests_failed, "wrong": self.wrong, "stallMs": self.stall.as_secs_f64() * 1e3,
            "before": rest(before), "after": rest(after), "complaints": self.complaints,
        })
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Checks that a value has not grown by more than a tenth; a smaller value is fine.
fn within_a_tenth(was: u64, is: u64, text: String) -> FactResult {
    if is <= was + was / 10 { Ok(Evidence::new(text)) } else { Err(text) }
}
