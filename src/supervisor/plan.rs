//! What a supervisor decides: which children to stop, in which order, and which to start again. Pure.
//!
//! The plan is told what happened ([`Input`]) and answers with what to do ([`Action`]). It keeps a phase for each child,
//! and a fate for each child that has to go. After every input it looks at all children once. It stops those with a fate,
//! in reverse order, and starts those whose turn has come, in order. So a crash during a restart, a stop during a start,
//! and a first start are one code path.
//!
//! ```text
//! Down -> Starting -> Up -> Stopping -> (fate: Again) Down | (fate: Never) Done
//!            |         |
//!            `-> BackingOff <'      then Down
//! ```

use std::{collections::BTreeMap, time::Instant};

use rand::Rng;

use super::restart::{Backoff, Delays, Intensity, Restart, Strategy, Window};

/// A child's place in the start order. A supervisor uses none twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Slot(u32);

/// What kind of family the children are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Family {
    /// A fixed list, started in order; past the intensity the supervisor gives up.
    Static(Strategy),
    /// Children come and go, and the failure of one means nothing to the others. One past its intensity is retried as
    /// `quarantine` says.
    Dynamic {
        /// Delays between retries in quarantine.
        quarantine: Backoff,
    },
}

/// The rules of one supervisor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) family: Family,
    /// It counts the failures of the whole family if that is static, and of each child if it is dynamic.
    pub(super) intensity: Intensity,
    pub(super) backoff: Backoff,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// Children were added, and may be started.
    Added,
    /// A start succeeded.
    Started(Slot),
    /// A start failed or took too long.
    StartFailed(Slot),
    /// A child that was up is gone: by itself, or because it was stopped.
    Exited {
        slot: Slot,
        /// It ended of its own accord, without an error.
        normal: bool,
    },
    /// A back-off asked for by [`Action::Wake`] is over.
    Woke(Slot),
    /// Stop this child for good.
    Remove(Slot),
    /// Stop all children, then exit.
    Shutdown,
}

/// What to do about it, in order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Action {
    /// Start this child and answer with `Started` or `StartFailed`.
    Start(Slot),
    /// Stop this child and answer with `Exited`.
    Stop(Slot),
    /// Answer with `Woke` after this back-off.
    Wake { slot: Slot, after: std::time::Duration, quarantined: bool },
    /// A dynamic child is gone for good.
    Forget(Slot),
    /// Every child has been started once.
    Ready,
    /// No child is left: exit.
    Exit(Ending),
}

/// Why a supervisor exits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// It was asked to.
    Asked,
    /// This child's very first start failed.
    StartFailed(Slot),
    /// This child failed once more than the intensity allows.
    GaveUp(Slot),
}

/// The state of one family.
#[derive(Debug)]
pub(super) struct Plan {
    rules: Rules,
    children: BTreeMap<Slot, Child>,
    next: u32,
    window: Window,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Not every child has been started once.
    Starting,
    Running,
    Ending(Ending),
    Ended,
}

#[derive(Debug)]
struct Child {
    restart: Restart,
    phase: Phase,
    /// What becomes of it when it is gone; `None` unless it has to go.
    fate: Option<Fate>,
    /// It was up at least once.
    was_up: bool,
    window: Window,
    backoff: Delays,
    quarantine: Delays,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Down,
    BackingOff,
    Starting,
    Up { since: Instant },
    Stopping,
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Again,
    Never,
}

/// How a child came to be gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Departure {
    StartFailed,
    Exited { normal: bool },
}

// === impl Plan ===

impl Plan {
    pub(super) fn new(rules: Rules) -> Self {
        let window = Window::new(rules.intensity);
        Self { rules, children: BTreeMap::new(), next: 0, window, stage: Stage::Starting }
    }

    /// Adds a child after the others. It is started at the next [`Input::Added`].
    pub(super) fn add(&mut self, restart: Restart) -> Slot {
        let slot = Slot(self.next);
        self.next = self.next.wrapping_add(1);
        let quarantine = match self.rules.family {
            Family::Static(_) => self.rules.backoff,
            Family::Dynamic { quarantine } => quarantine,
        };
        let child = Child {
            restart,
            phase: Phase::Down,
            fate: None,
            was_up: false,
            window: Window::new(self.rules.intensity),
            backoff: Delays::new(self.rules.backoff),
            quarantine: Delays::new(quarantine),
        };
        self.children.insert(slot, child);
        slot
    }

    /// Whether the exit of this child would be no news, because it has to go anyway.
    pub(super) fn expects_exit(&self, slot: Slot) -> bool {
        self.children.get(&slot).is_none_or(|child| child.fate.is_some())
    }

    /// Whether a start is under way.
    pub(super) fn is_starting(&self) -> bool {
        self.children.values().any(|child| child.phase == Phase::Starting)
    }

    /// Whether the supervisor is ending.
    pub(super) fn is_ending(&self) -> bool {
        matches!(self.stage, Stage::Ending(_) | Stage::Ended)
    }

    /// Takes in what happened and says what to do.
    pub(super) fn on(&mut self, now: Instant, rng: &mut impl Rng, input: Input) -> Vec<Action> {
        let mut actions = Vec::new();
        match input {
            Input::Added => {}
            Input::Started(slot) => {
                if let Some(child) = self.children.get_mut(&slot) {
                    child.phase = Phase::Up { since: now };
                    child.was_up = true;
                }
            }
            Input::StartFailed(slot) => actions.extend(self.departed(now, rng, slot, Departure::StartFailed)),
            Input::Exited { slot, normal } => {
                actions.extend(self.departed(now, rng, slot, Departure::Exited { normal }))
            }
            Input::Woke(slot) => {
                if let Some(child) = self.children.get_mut(&slot)
                    && child.phase == Phase::BackingOff
                {
                    child.phase = Phase::Down;
                }
            }
            Input::Remove(slot) => {
                if let Some(child) = self.children.get_mut(&slot) {
                    child.give_fate(Fate::Never);
                }
            }
            Input::Shutdown => self.end(Ending::Asked),
        }
        self.stop_fated(&mut actions);
        self.start_due(&mut actions);
        self.conclude(&mut actions);
        actions
    }

    fn departed(&mut self, now: Instant, rng: &mut impl Rng, slot: Slot, how: Departure) -> Option<Action> {
        let child = self.children.get_mut(&slot)?;
        let since = match child.phase {
            Phase::Up { since } => Some(since),
            _ => None,
        };
        if let Some(fate) = child.fate.take() {
            child.phase = fate.phase();
            return None;
        }
        match (how, self.rules.family) {
            (Departure::StartFailed, Family::Static(_)) if !child.was_up => {
                child.phase = Phase::Done;
                self.end(Ending::StartFailed(slot));
                None
            }
            (Departure::StartFailed, Family::Dynamic { .. }) if !child.was_up => {
                child.phase = Phase::Done;
                None
            }
            (Departure::Exited { normal }, _) if !child.restart.applies(normal) => {
                child.phase = Phase::Done;
                None
            }
            _ => self.failed(now, rng, slot, since),
        }
    }

    /// A failure that asks for a restart: after a back-off, or never if it is one too many.
    fn failed(
        &mut self,
        now: Instant,
        rng: &mut impl Rng,
        slot: Slot,
        since: Option<Instant>,
    ) -> Option<Action> {
        let child = self.children.get_mut(&slot)?;
        if since.is_some_and(|since| now.saturating_duration_since(since) >= self.rules.intensity.within) {
            child.forgive();
        }
        child.phase = Phase::BackingOff;
        match self.rules.family {
            Family::Static(strategy) => {
                if !self.window.admits(now) {
                    child.phase = Phase::Done;
                    self.end(Ending::GaveUp(slot));
                    return None;
                }
                let after = child.backoff.next(rng);
                self.restart_relatives(strategy, slot);
                Some(Action::Wake { slot, after, quarantined: false })
            }
            Family::Dynamic { .. } => {
                let quarantined = child.quarantine.started() || !child.window.admits(now);
                let delays = if quarantined { &mut child.quarantine } else { &mut child.backoff };
                Some(Action::Wake { slot, after: delays.next(rng), quarantined })
            }
        }
    }

    fn restart_relatives(&mut self, strategy: Strategy, failed: Slot) {
        for (slot, child) in &mut self.children {
            if !strategy.relates(failed, *slot) {
                continue;
            }
            match child.restart {
                Restart::Temporary => child.give_fate(Fate::Never),
                Restart::Transient if child.phase == Phase::Done => child.phase = Phase::Down,
                Restart::Transient | Restart::Permanent => child.give_fate(Fate::Again),
            }
        }
    }

    fn end(&mut self, ending: Ending) {
        if !self.is_ending() {
            self.stage = Stage::Ending(ending);
        }
        for child in self.children.values_mut() {
            child.give_fate(Fate::Never);
        }
    }

    fn stop_fated(&mut self, actions: &mut Vec<Action>) {
        let one_by_one = match self.rules.family {
            Family::Dynamic { .. } => false,
            Family::Static(Strategy::OneForOne) => self.is_ending(),
            Family::Static(_) => true,
        };
        for (slot, child) in self.children.iter_mut().rev() {
            if child.fate.is_none() {
                continue;
            }
            // A child that is starting is let finish (its start is bounded), and stopped then.
            if matches!(child.phase, Phase::Up { .. }) {
                child.phase = Phase::Stopping;
                actions.push(Action::Stop(*slot));
            }
            if one_by_one {
                break;
            }
        }
    }

    fn start_due(&mut self, actions: &mut Vec<Action>) {
        if self.is_ending() {
            return;
        }
        let family = self.rules.family;
        let any = |wanted: fn(&Child) -> bool| self.children.values().any(wanted);
        let waits = match family {
            Family::Dynamic { .. } | Family::Static(Strategy::OneForOne) => false,
            Family::Static(Strategy::RestForOne) => any(|c| c.fate.is_some()),
            Family::Static(Strategy::OneForAll) => any(|c| c.fate.is_some() || c.phase == Phase::BackingOff),
        };
        if waits {
            return;
        }
        for (slot, child) in &mut self.children {
            if child.phase == Phase::Down {
                child.phase = Phase::Starting;
                actions.push(Action::Start(*slot));
            }
            let settled = match family {
                Family::Dynamic { .. } => true,
                // Only the first start is ordered: later these children do not care for each other.
                Family::Static(Strategy::OneForOne) => child.was_up || child.phase == Phase::Done,
                Family::Static(_) => matches!(child.phase, Phase::Up { .. } | Phase::Done),
            };
            if !settled {
                break;
            }
        }
    }

    fn conclude(&mut self, actions: &mut Vec<Action>) {
        let dynamic = matches!(self.rules.family, Family::Dynamic { .. });
        if dynamic {
            self.children.retain(|slot, child| {
                let kept = child.phase != Phase::Done;
                if !kept {
                    actions.push(Action::Forget(*slot));
                }
                kept
            });
        }
        let all = |wanted: fn(&Child) -> bool| self.children.values().all(wanted);
        match self.stage {
            Stage::Starting if dynamic || all(|c| c.was_up || c.phase == Phase::Done) => {
                self.stage = Stage::Running;
                actions.push(Action::Ready);
            }
            Stage::Ending(ending) if all(|c| c.phase == Phase::Done) => {
                self.stage = Stage::Ended;
                actions.push(Action::Exit(ending));
            }
            _ => {}
        }
    }
}

// === impl Child ===

impl Child {
    /// Has it go, or takes note at once if it is not alive.
    fn give_fate(&mut self, fate: Fate) {
        match self.phase {
            Phase::Starting | Phase::Up { .. } | Phase::Stopping => {
                self.fate = Some(self.fate.map_or(fate, |earlier| earlier.max(fate)));
            }
            Phase::Down | Phase::BackingOff if fate == Fate::Never => self.phase = Phase::Done,
            Phase::Down | Phase::BackingOff | Phase::Done => {}
        }
    }

    fn forgive(&mut self) {
        self.window.clear();
        self.backoff.reset();
        self.quarantine.reset();
    }
}

// === impl Fate ===

impl Fate {
    fn phase(self) -> Phase {
        match self {
            Self::Again => Phase::Down,
            Self::Never => Phase::Done,
        }
    }

    fn max(self, other: Self) -> Self {
        if self == Self::Never { self } else { other }
    }
}

// === impl Strategy ===

impl Strategy {
    /// Whether `other` has to be restarted because `failed` is.
    fn relates(self, failed: Slot, other: Slot) -> bool {
        match self {
            Self::OneForOne => false,
            Self::OneForAll => other != failed,
            Self::RestForOne => other > failed,
        }
    }
}

#[cfg(test)]
mod tests;
