//! Breaking things on purpose.

use serde::Serialize;

use super::{reader::Reader, var::Var};

const CHAOS: Var =
    Var::flag("WARREN_CHAOS", "false", "Actors and tasks may be broken on purpose, through the admin port.");
const HANDOVER_FAULT: Var = Var::new(
    "WARREN_HANDOVER_FAULT",
    "fault",
    "",
    "For tests, with `WARREN_CHAOS=true` only: the step of a hand-over of connections at which this process dies, such as \
     `old:offered`. With `@5` it is the fifth time. With `:hang` at the end, the process does not go on for 3 s instead.",
);

/// Whether operators may break things on purpose.
#[derive(Clone, Debug, Serialize)]
pub struct ChaosConfig {
    /// Operators may break things on purpose.
    pub enabled: bool,
    /// Where a hand-over of connections is broken; none unless breaking is enabled.
    pub handover_fault: Option<HandoverFault>,
}

/// Where a hand-over of connections is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HandoverFault {
    /// The step.
    pub step: HandoverStep,
    /// The time of the step that is broken, from 1 on.
    pub time: u32,
    /// The process hangs for a while, in the place of dying.
    pub hangs: bool,
}

/// A step of a hand-over of connections, in the order in which they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum HandoverStep {
    /// The old process has the greeting of the new one.
    OldGreeted,
    /// A connection stands still in the old process, and was not offered yet.
    OldStill,
    /// The old process has sent an offer.
    OldOffered,
    /// The old process has the answer to an offer, and has not acted by it yet.
    OldAnswered,
    /// The new process has greeted the old one.
    NewGreeted,
    /// The new process has received an offer.
    NewReceived,
    /// The new process has made everything ready, and has not answered yet.
    NewPrepared,
    /// The new process has answered that it takes the connection, which has not begun there yet.
    NewAnswered,
    /// The connection has begun in the new process.
    NewBegun,
}

// === impl HandoverStep ===

impl HandoverStep {
    /// All steps, each with its word.
    const WORDS: [(&str, Self); 9] = [
        ("old:greeted", Self::OldGreeted),
        ("old:still", Self::OldStill),
        ("old:offered", Self::OldOffered),
        ("old:answered", Self::OldAnswered),
        ("new:greeted", Self::NewGreeted),
        ("new:received", Self::NewReceived),
        ("new:prepared", Self::NewPrepared),
        ("new:answered", Self::NewAnswered),
        ("new:begun", Self::NewBegun),
    ];
}

// === impl HandoverFault ===

impl HandoverFault {
    fn parse(text: &str) -> Result<Self, String> {
        let (rest, hangs) = text.strip_suffix(":hang").map_or((text, false), |rest| (rest, true));
        let (word, time) = rest.split_once('@').unwrap_or((rest, "1"));
        let step = HandoverStep::WORDS.iter().find(|(known, _)| *known == word).map(|(_, step)| *step);
        let time = time.parse().ok().filter(|time| *time > 0);
        match (step, time) {
            (Some(step), Some(time)) => Ok(Self { step, time, hangs }),
            _ => {
                Err("no step of a hand-over, such as old:offered, new:received@5 or new:received:hang".into())
            }
        }
    }
}

// === impl ChaosConfig ===

impl ChaosConfig {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let enabled = r.boolean(&CHAOS);
        let handover_fault = r.parse(&HANDOVER_FAULT, HandoverFault::parse).filter(|_| enabled);
        Self { enabled, handover_fault }
    }
}

#[cfg(test)]
mod tests;
