//! One fault in one actor under traffic: its cost, the time to notice and repair it, and the readiness of the node.

use std::time::{Duration, Instant};

use rand::{Rng, rngs::SmallRng};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    allowed::{Allowed, ExpectedReadiness, Fault, Kind},
    chaos_mesh::{AnswerCounts, ChaosMesh, SOON, pause, text},
    flow::Flow,
    traffic::{FlowReport, Load},
};
use crate::lab::node::{ActorStatus, Node, wait};

/// The time from the end of a hang or of slowness until the trial inspects the actor.
const AFTER: Duration = Duration::from_millis(250);
/// The time limit for a repair; the trial then counts the actor as not repaired.
const REPAIR_WITHIN: Duration = Duration::from_secs(30);

/// The outcome of a trial.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Outcome {
    /// The kind of the actor, a row of the allowed file.
    pub(super) kind: String,
    /// The fault.
    pub(super) fault: Fault,
    /// The path of the actor.
    pub(super) actor: String,
    /// The number of long-lived streams of all flows.
    pub(super) streams: u64,
    /// The number of streams that ended.
    pub(super) streams_lost: u64,
    /// The number of requests of all flows, each on its own connection.
    pub(super) requests: u64,
    /// The number of requests without an answer.
    pub(super) requests_failed: u64,
    /// The number of answers with wrong bytes.
    pub(super) wrong: u64,
    /// The longest time that a message or a request took.
    #[serde(with = "milliseconds")]
    pub(super) stall: Option<Duration>,
    /// The time from the fault until the supervisor knew; none if nothing had to be noticed.
    #[serde(with = "milliseconds")]
    pub(super) detect: Option<Duration>,
    /// The time from the fault until the whole tree was up again; none if the fault passed by itself.
    #[serde(with = "milliseconds")]
    pub(super) repair: Option<Duration>,
    /// The readiness of the node during the trial.
    pub(super) readiness: String,
    /// The deviations from the allowed cost.
    pub(super) complaints: Vec<String>,
}

/// The reaction of the tree to the fault.
#[derive(Default)]
struct Recovery {
    detect: Option<Duration>,
    repair: Option<Duration>,
    complaint: Option<String>,
}

/// Breaks an actor of this kind in a fresh proxy. Errors: the trial itself could not be run.
pub(super) fn run(
    chaos_mesh: &mut ChaosMesh,
    allowed: &Allowed,
    kind: &Kind,
    fault: Fault,
    rng: &mut SmallRng,
) -> Result<Outcome, String> {
    chaos_mesh.renew()?;
    let one = chaos_mesh.node("one")?;
    let loads = Load::start(chaos_mesh)?;
    let before = one.actors(|_| true)?;
    allowed.check(&before).map_err(text)?;
    let actor = pick(chaos_mesh, kind, &before, rng)?;
    let probe = chaos_mesh.probe()?;
    pause(chaos_mesh.steady);
    let recovery = recovery(&one, kind, fault, &before, &actor)?;
    pause(chaos_mesh.steady);
    let mut complaints: Vec<String> = recovery.complaint.into_iter().collect();
    complaints.extend(Flow::ALL.iter().filter_map(|flow| chaos_mesh.serves(*flow).err()));
    complaints.extend(chaos_mesh.is_ready().err());
    let answers = probe.finish()?;
    let flowed = Load::finish(loads)?;
    complaints.extend(flowed.iter().filter_map(|flowed| flowed.complaint(kind.may_lose(fault, flowed.flow))));
    let readiness = readiness(kind, fault, answers, &mut complaints);
    let sum = |of: fn(&FlowReport) -> u64| flowed.iter().map(of).sum();
    let outcome = Outcome {
        kind: kind.kind.clone(),
        fault,
        actor: actor.path,
        streams: sum(|flowed| flowed.streams.opened),
        streams_lost: sum(|flowed| flowed.streams.broken),
        requests: sum(|flowed| flowed.requests.requests),
        requests_failed: sum(|flowed| flowed.requests.failures),
        wrong: sum(|flowed| flowed.streams.wrong),
        stall: flowed.iter().map(FlowReport::stall).max(),
        detect: recovery.detect,
        repair: recovery.repair,
        readiness,
        complaints,
    };
    Ok(outcome.held_to(allowed))
}

/// Picks an actor of the kind, at random if there are several.
fn pick(
    chaos_mesh: &ChaosMesh,
    kind: &Kind,
    tree: &[ActorStatus],
    rng: &mut SmallRng,
) -> Result<ActorStatus, String> {
    let pod = kind.of.as_deref().map(|pod| chaos_mesh.pod(pod)).transpose()?;
    let peer = kind.to.as_deref().map(|peer| chaos_mesh.pod(peer)).transpose()?;
    let meant = |seen: &&ActorStatus| {
        let of = pod.as_ref().is_none_or(|(uid, _)| seen.path.contains(uid));
        let to = peer.as_ref().is_none_or(|(_, ip)| seen.path.contains(&format!("/{ip}:")));
        kind.covers(&seen.path) && of && to
    };
    let found: Vec<&ActorStatus> = tree.iter().filter(meant).collect();
    let place = rng.random_range(0..found.len().max(1));
    found.get(place).map(|seen| (*seen).clone()).ok_or_else(|| format!("no actor is a {}", kind.kind))
}

fn recovery(
    one: &Node,
    kind: &Kind,
    fault: Fault,
    before: &[ActorStatus],
    actor: &ActorStatus,
) -> Result<Recovery, String> {
    let (wall, begun) = (OffsetDateTime::now_utc(), Instant::now());
    for request in fault.requests() {
        one.harm(&actor.path, &request)?;
    }
    if !kind.ends(fault) {
        let time = if fault == Fault::Slow { Fault::SLOW } else { Fault::HANG };
        pause(time + AFTER);
        let is_same = || match one.actor(|path| path == actor.path)? {
            now if now.restarts == actor.restarts && now.state == "up" => Ok(()),
            now => Err(format!("{} is {} after {} restarts", now.path, now.state, now.restarts)),
        };
        return Ok(Recovery { complaint: wait(SOON, is_same).err(), ..Recovery::default() });
    }
    let mut recovery = Recovery::default();
    let repaired = wait(REPAIR_WITHIN, || {
        let now = one.actors(|_| true)?;
        if recovery.detect.is_none() {
            recovery.detect = detected(&now, actor, fault, wall);
        }
        is_repaired(&now, before, actor)
    });
    match repaired {
        Ok(()) => recovery.repair = Some(begun.elapsed()),
        Err(error) => recovery.complaint = Some(error),
    }
    Ok(recovery)
}

/// The time from `since` until the supervisor learned of the actor's end; none if the reason of a later failed start
/// hides it.
fn detected(
    now: &[ActorStatus],
    actor: &ActorStatus,
    fault: Fault,
    since: OffsetDateTime,
) -> Option<Duration> {
    let seen = now.iter().find(|seen| seen.path == actor.path)?;
    let (at, reason) = seen.last_exit.as_ref().filter(|_| seen.last_exit != actor.last_exit)?;
    let hidden = fault == Fault::Start && reason != "killed";
    (!hidden).then(|| (*at - since).try_into().unwrap_or_default())
}

/// Whether the actor was started again, and all earlier actors are up. A tunnel may have ended for want of users.
fn is_repaired(now: &[ActorStatus], before: &[ActorStatus], actor: &ActorStatus) -> Result<(), String> {
    for was in before {
        let found = now.iter().find(|seen| seen.path == was.path);
        match found {
            None if was.is == "tunnel" => {}
            None => return Err(format!("{} is gone", was.path)),
            Some(is) if is.state != "up" => return Err(format!("{} is {}", is.path, is.state)),
            Some(is) if is.path == actor.path && is.restarts <= actor.restarts => {
                return Err(format!("{} was not restarted", is.path));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// A word for the observed readiness. Adds a complaint if the readiness differs from the expected one.
fn readiness(kind: &Kind, fault: Fault, answers: AnswerCounts, complaints: &mut Vec<String>) -> String {
    let AnswerCounts { ready, not_ready, silence } = answers;
    let expected = if kind.ends(fault) { kind.readiness } else { ExpectedReadiness::Stays };
    let (holds, word) = match expected {
        ExpectedReadiness::Stays => (not_ready == 0 && silence == 0, "ready"),
        ExpectedReadiness::Says => (not_ready > 0, "says so"),
        ExpectedReadiness::Away => (not_ready == 0, "away"),
    };
    if holds && ready > 0 {
        return word.to_owned();
    }
    complaints
        .push(format!("readiness: {ready} times ready, {not_ready} times not, {silence} times no answer"));
    "WRONG".to_owned()
}

// === impl Outcome ===

impl Outcome {
    /// Whether the trial has no complaint.
    pub(super) fn holds(&self) -> bool {
        self.complaints.is_empty()
    }

    fn held_to(mut self, allowed: &Allowed) -> Self {
        let measured = [
            ("noticed", self.detect, allowed.detect(self.fault)),
            ("repaired", self.repair, allowed.repair(self.fault)),
            ("stalled", self.stall, allowed.stall(self.fault)),
        ];
        for (what, time, limit) in measured {
            if let Some((time, limit)) = time.zip(limit).filter(|(time, limit)| time > limit) {
                self.complaints.push(format!("{what} after {time:?}, more than {limit:?}"));
            }
        }
        self
    }
}

/// Serializes times in results as milliseconds.
mod milliseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        time: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        time.map(|time| time.as_secs_f64() * 1e3).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(source: D) -> Result<Option<Duration>, D::Error> {
        let time = Option::<f64>::deserialize(source)?;
        time.map(|ms| Duration::try_from_secs_f64(ms / 1e3).map_err(serde::de::Error::custom)).transpose()
    }
}
