//! The rows of the matrix.

use super::traffic::Mix;
use crate::lab::apps::lasting::Habit;

/// A row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// The name of the row.
    pub(super) name: &'static str,
    /// What is done.
    pub(super) what: &'static str,
    /// The streams.
    pub(super) mix: Mix,
    /// What is done to the proxies meanwhile.
    pub(super) act: Act,
}

/// What is done to the proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// The nodes are upgraded in turn.
    InTurn,
    /// The nodes are upgraded in turn, and the streams are left alone for a while after that.
    ThenNothing,
    /// The nodes are upgraded in turn, five times or more.
    Often,
    /// Both nodes are upgraded at once.
    Together,
    /// A policy forbids what one way carries, while its proxy hands over.
    Policy,
    /// The old process dies at this step of the hand-over.
    KillOld(&'static str),
    /// The new process dies at this step of the hand-over.
    KillNew(&'static str),
    /// The new process stops answering in the middle, for 3 s.
    Mute,
    /// The new process stands still from before the hand-over on, for 3 s.
    Frozen,
    /// Others hold all links to the new process, for 3 s.
    LinksTaken,
    /// The new process has too few descriptors.
    Descriptors,
}

const fn mix(habits: &'static [(Habit, usize)]) -> Mix {
    Mix { habits, tunnels: false, new: true }
}

/// All habits, most of them calm.
const MIXED: Mix = mix(&[
    (Habit::Idle, 50),
    (Habit::Paced, 38),
    (Habit::Saturated, 1),
    (Habit::ServerStopped, 3),
    (Habit::ClientStopped, 3),
    (Habit::HalfClosed, 5),
]);
const PACED: Mix = mix(&[(Habit::Paced, 100)]);
const CALM: Mix = mix(&[(Habit::Idle, 50), (Habit::Paced, 50)]);
/// Streams whose fate is counted, so that nothing else may be handed over.
const COUNTED: Mix = Mix { habits: &[(Habit::Idle, 50), (Habit::Paced, 50)], tunnels: false, new: false };
const COUNTED_TUNNELS: Mix = Mix { tunnels: true, ..COUNTED };

const fn entry(name: &'static str, what: &'static str, mix: Mix, act: Act) -> Entry {
    Entry { name, what, mix, act }
}

/// All rows.
pub(super) const ALL: &[Entry] = &[
    entry("idle", "idle streams", mix(&[(Habit::Idle, 100)]), Act::InTurn),
    entry("paced", "numbered messages", PACED, Act::InTurn),
    entry("saturated", "as many bytes as there is room for", mix(&[(Habit::Saturated, 100)]), Act::InTurn),
    entry(
        "stopped",
        "readers that have stopped, at either end",
        mix(&[(Habit::ServerStopped, 50), (Habit::ClientStopped, 50)]),
        Act::InTurn,
    ),
    entry("half-closed", "clients that have ended", mix(&[(Habit::HalfClosed, 100)]), Act::InTurn),
    entry("mixed", "all of these", MIXED, Act::InTurn),
    entry("together", "all of these, both nodes at once", MIXED, Act::Together),
    entry("idle-after", "idle streams, left alone afterwards", mix(&[(Habit::Idle, 100)]), Act::ThenNothing),
    entry("bulk", "bulk data over ten upgrades or more", mix(&[(Habit::Saturated, 0)]), Act::Often),
    entry("policy", "a policy withdrawn meanwhile", CALM, Act::Policy),
    entry("kill-old-greeted", "the old one dies before an offer", COUNTED, Act::KillOld("greeted")),
    entry(
        "kill-old-still",
        "the old one dies while a connection stands still",
        COUNTED,
        Act::KillOld("still@5"),
    ),
    entry("kill-old-offered", "the old one dies with an offer under way", COUNTED, Act::KillOld("offered@5")),
    entry(
        "kill-old-answered",
        "the old one dies with an answer at hand",
        COUNTED,
        Act::KillOld("answered@5"),
    ),
    entry("kill-new-greeted", "the new one dies before an offer", COUNTED, Act::KillNew("greeted")),
    entry("kill-new-received", "the new one dies with an offer at hand", COUNTED, Act::KillNew("received@5")),
    entry("kill-new-prepared", "the new one dies before its answer", COUNTED, Act::KillNew("prepared@5")),
    entry("kill-new-answered", "the new one dies after its answer", COUNTED, Act::KillNew("answered@5")),
    entry("kill-new-begun", "the new one dies with a connection begun", COUNTED, Act::KillNew("begun@5")),
    entry("kill-old-still-tunnel", "the same with tunnels", COUNTED_TUNNELS, Act::KillOld("still")),
    entry("kill-old-offered-tunnel", "the same with tunnels", COUNTED_TUNNELS, Act::KillOld("offered")),
    entry("kill-old-answered-tunnel", "the same with tunnels", COUNTED_TUNNELS, Act::KillOld("answered")),
    entry("kill-new-received-tunnel", "the same with tunnels", COUNTED_TUNNELS, Act::KillNew("received")),
    entry("kill-new-prepared-tunnel", "the same with tunnels", COUNTED_TUNNELS, Act::KillNew("prepared")),
    entry("kill-new-answered-tunnel", "the same with tunnels", COUNTED_TUNNELS, Act::KillNew("answered")),
    entry("mute", "the new one does not answer for 3 s", CALM, Act::Mute),
    entry("frozen", "the new one stands still for 3 s", CALM, Act::Frozen),
    entry("links-taken", "others hold all links for 3 s", CALM, Act::LinksTaken),
    entry("descriptors", "the new one has too few descriptors", CALM, Act::Descriptors),
];
