use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::{Just, any, prop, prop_assert, prop_oneof, proptest};
use rand::{SeedableRng, rngs::SmallRng};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A family whose actors are make-believe: it takes the plan's actions at their word and checks that they make sense.
struct Play {
    plan: Plan,
    rng: SmallRng,
    now: Instant,
    actors: BTreeMap<Slot, Actor>,
    ended: Option<Ending>,
    ready: bool,
    wakes: Vec<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Actor {
    Idle,
    Starting,
    Up,
    Stopping,
    Held,
    Finished,
}

impl Play {
    fn new(family: Family, intensity: Intensity, children: &[Restart]) -> (Self, Vec<Slot>) {
        let backoff = Backoff { first: SECOND, cap: 4 * SECOND, jitter: 0.0 };
        let mut play = Self {
            plan: Plan::new(Rules { family, intensity, backoff }),
            rng: SmallRng::seed_from_u64(7),
            now: Instant::now(),
            actors: BTreeMap::new(),
            ended: None,
            ready: false,
            wakes: vec![],
        };
        let slots: Vec<_> = children.iter().map(|restart| play.plan.add(*restart)).collect();
        play.actors = slots.iter().map(|slot| (*slot, Actor::Idle)).collect();
        play.on(Input::Added);
        (play, slots)
    }

    /// A static family that is up.
    fn up(strategy: Strategy, restarts: u32, children: &[Restart]) -> (Self, Vec<Slot>) {
        let intensity = Intensity { restarts, within: 100 * SECOND };
        let (mut play, slots) = Self::new(Family::Static(strategy), intensity, children);
        for slot in &slots {
            play.on(Input::Started(*slot));
        }
        assert!(play.ready);
        (play, slots)
    }

    fn is(&self, slot: Slot) -> Actor {
        self.actors.get(&slot).copied().unwrap_or(Actor::Finished)
    }

    fn on(&mut self, input: Input) -> Vec<Action> {
        match input {
            Input::Started(slot) => drop(self.actors.insert(slot, Actor::Up)),
            Input::StartFailed(slot) | Input::Exited { slot, .. } => {
                self.actors.insert(slot, Actor::Idle);
            }
            Input::Woke(slot) => drop(self.actors.insert(slot, Actor::Idle)),
            Input::Added | Input::Remove(_) | Input::Shutdown => {}
        }
        let actions = self.plan.on(self.now, &mut self.rng, input);
        for action in &actions {
            self.perform(*action);
        }
        actions
    }

    fn perform(&mut self, action: Action) {
        assert_eq!(self.ended, None, "{action:?} after the end");
        match action {
            Action::Start(slot) => {
                assert_eq!(self.is(slot), Actor::Idle, "started while it is something else");
                if let Family::Static(Strategy::OneForAll | Strategy::RestForOne) = self.plan.rules.family {
                    let lower = self.actors.range(..slot).map(|(_, actor)| *actor);
                    assert!(lower.into_iter().all(|a| matches!(a, Actor::Up | Actor::Idle)), "out of order");
                    assert!(
                        !self.actors.values().any(|a| *a == Actor::Stopping),
                        "started before all had stopped"
                    );
                }
                self.actors.insert(slot, Actor::Starting);
            }
            Action::Stop(slot) => {
                assert_eq!(self.is(slot), Actor::Up, "stopped while it is something else");
                if let Family::Static(strategy) = self.plan.rules.family
                    && (strategy != Strategy::OneForOne || self.plan.is_ending())
                {
                    let above = self.actors.range(slot..).skip(1).map(|(_, actor)| *actor);
                    let stopping = |a| a == Actor::Stopping || (self.plan.is_ending() && a == Actor::Up);
                    assert!(!above.into_iter().any(stopping), "stopped before what builds on it");
                }
                self.actors.insert(slot, Actor::Stopping);
            }
            Action::Wake { slot, quarantined, .. } => {
                assert_eq!(self.is(slot), Actor::Idle);
                self.actors.insert(slot, Actor::Held);
                if !quarantined {
                    self.wakes.push(self.now);
                }
            }
            Action::Forget(slot) => assert!(self.actors.remove(&slot).is_some(), "forgotten twice"),
            Action::Ready => assert!(!std::mem::replace(&mut self.ready, true), "ready twice"),
            Action::Exit(ending) => {
                let alive = |a: &Actor| matches!(a, Actor::Starting | Actor::Up | Actor::Stopping);
                assert!(!self.actors.values().any(alive), "left a child behind");
                self.ended = Some(ending);
            }
        }
    }

    /// What can happen next, for each child.
    fn possible(&self) -> Vec<Input> {
        let inputs = |(slot, actor): (&Slot, &Actor)| match actor {
            Actor::Starting => vec![Input::Started(*slot), Input::StartFailed(*slot)],
            Actor::Up => vec![exited(*slot, true), exited(*slot, false)],
            Actor::Stopping => vec![exited(*slot, true), exited(*slot, false)],
            Actor::Held => vec![Input::Woke(*slot)],
            Actor::Idle | Actor::Finished => vec![],
        };
        self.actors.iter().flat_map(inputs).collect()
    }

    /// Lets everything go well from now on, and gives how many steps that took.
    fn calm_down(&mut self) -> usize {
        for step in 0.. {
            let next = self.actors.iter().find_map(|(slot, actor)| match actor {
                Actor::Starting => Some(Input::Started(*slot)),
                Actor::Stopping => Some(exited(*slot, true)),
                Actor::Held => Some(Input::Woke(*slot)),
                Actor::Up | Actor::Idle | Actor::Finished => None,
            });
            let Some(next) = next else { return step };
            if self.ended.is_some() {
                return step;
            }
            self.on(next);
        }
        0
    }
}

fn exited(slot: Slot, normal: bool) -> Input {
    Input::Exited { slot, normal }
}

fn restart() -> impl proptest::strategy::Strategy<Value = Restart> {
    prop_oneof![Just(Restart::Permanent), Just(Restart::Transient), Just(Restart::Temporary)]
}

fn family() -> impl proptest::strategy::Strategy<Value = Family> {
    prop_oneof![
        Just(Family::Static(Strategy::OneForOne)),
        Just(Family::Static(Strategy::OneForAll)),
        Just(Family::Static(Strategy::RestForOne)),
        Just(Family::Dynamic { quarantine: Backoff::default() }),
    ]
}

#[test]
fn children_start_one_after_the_other_and_then_the_family_is_ready() {
    let intensity = Intensity { restarts: 1, within: SECOND };
    for strategy in [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne] {
        let (mut play, s) = Play::new(Family::Static(strategy), intensity, &[Restart::Permanent; 3]);
        assert_eq!((play.is(s[0]), play.is(s[1])), (Actor::Starting, Actor::Idle));
        assert_eq!(play.on(Input::Started(s[0])), [Action::Start(s[1])]);
        assert_eq!(play.on(Input::Started(s[1])), [Action::Start(s[2])]);
        assert_eq!(play.on(Input::Started(s[2])), [Action::Ready]);
    }
}

#[test]
fn a_first_start_that_fails_stops_those_before_in_reverse_and_ends() {
    let intensity = Intensity { restarts: 9, within: SECOND };
    let (mut play, s) = Play::new(Family::Static(Strategy::OneForOne), intensity, &[Restart::Permanent; 4]);
    play.on(Input::Started(s[0]));
    play.on(Input::Started(s[1]));
    assert_eq!(play.on(Input::StartFailed(s[2])), [Action::Stop(s[1])]);
    assert_eq!(play.on(exited(s[1], true)), [Action::Stop(s[0])]);
    assert_eq!(play.on(exited(s[0], true)), [Action::Exit(Ending::StartFailed(s[2]))]);
}

#[test]
fn the_restart_type_and_the_exit_decide_together_whether_to_restart() {
    let table = [
        (Restart::Permanent, true, true),
        (Restart::Permanent, false, true),
        (Restart::Transient, true, false),
        (Restart::Transient, false, true),
        (Restart::Temporary, true, false),
        (Restart::Temporary, false, false),
    ];
    for (restart, normal, restarted) in table {
        let (mut play, s) = Play::up(Strategy::OneForOne, 3, &[restart]);
        let wake = Action::Wake { slot: s[0], after: SECOND, quarantined: false };
        let expected = if restarted { vec![wake] } else { vec![] };
        assert_eq!(play.on(exited(s[0], normal)), expected, "{restart:?}, normal: {normal}");
    }
}

#[test]
fn rest_for_one_stops_the_later_ones_in_reverse_and_starts_all_in_order_after_the_back_off() {
    let (mut play, s) = Play::up(Strategy::RestForOne, 3, &[Restart::Permanent; 4]);
    let wake = Action::Wake { slot: s[1], after: SECOND, quarantined: false };
    assert_eq!(play.on(exited(s[1], false)), [wake, Action::Stop(s[3])]);
    assert_eq!(play.on(exited(s[3], true)), [Action::Stop(s[2])]);
    assert_eq!(play.on(Input::Woke(s[1])), [], "one is still stopping");
    assert_eq!(play.on(exited(s[2], true)), [Action::Start(s[1])]);
    assert_eq!(play.on(Input::Started(s[1])), [Action::Start(s[2])]);
    assert_eq!(play.on(Input::Started(s[2])), [Action::Start(s[3])]);
}

#[test]
fn one_for_all_waits_for_the_back_off_of_the_failed_one_before_it_starts_the_first() {
    let (mut play, s) = Play::up(Strategy::OneForAll, 3, &[Restart::Permanent; 3]);
    play.on(exited(s[1], false));
    play.on(exited(s[2], true));
    assert_eq!(play.on(exited(s[0], true)), []);
    assert_eq!(play.on(Input::Woke(s[1])), [Action::Start(s[0])]);
}

#[test]
fn a_crash_during_a_group_restart_restarts_the_group_again() {
    let (mut play, s) = Play::up(Strategy::OneForAll, 3, &[Restart::Permanent; 3]);
    play.on(exited(s[0], false));
    play.on(exited(s[2], true));
    play.on(exited(s[1], true));
    play.on(Input::Woke(s[0]));
    play.on(Input::Started(s[0]));
    let wake = Action::Wake { slot: s[0], after: 2 * SECOND, quarantined: false };
    assert_eq!(play.on(exited(s[0], false)), [wake], "the second is starting: let it finish");
    assert_eq!(play.on(Input::Started(s[1])), [Action::Stop(s[1])]);
    assert_eq!(play.on(exited(s[1], true)), []);
    assert_eq!(play.on(Input::Woke(s[0])), [Action::Start(s[0])]);
}

#[test]
fn an_exit_of_a_doomed_child_is_expected_and_counts_as_no_failure() {
    let (mut play, s) = Play::up(Strategy::RestForOne, 1, &[Restart::Permanent; 3]);
    play.on(exited(s[0], false));
    assert!(play.plan.expects_exit(s[1]));
    assert_eq!(play.on(exited(s[1], false)), [], "a crash before its turn to be stopped");
    assert_eq!(play.on(exited(s[2], false)), [], "a crash while it was stopping");
    assert_eq!(play.on(Input::Woke(s[0])), [Action::Start(s[0])]);
}

#[test]
fn one_failure_too_many_stops_the_rest_in_reverse_and_gives_up() {
    let (mut play, s) = Play::up(Strategy::OneForOne, 1, &[Restart::Permanent; 3]);
    play.on(exited(s[1], false));
    play.on(Input::Woke(s[1]));
    play.on(Input::Started(s[1]));
    assert_eq!(play.on(exited(s[0], false)), [Action::Stop(s[2])]);
    assert_eq!(play.on(exited(s[2], true)), [Action::Stop(s[1])]);
    assert_eq!(play.on(exited(s[1], true)), [Action::Exit(Ending::GaveUp(s[0]))]);
}

#[test]
fn a_child_that_stayed_up_for_the_span_is_forgiven_its_back_off() {
    let (mut play, s) = Play::up(Strategy::OneForOne, 9, &[Restart::Permanent]);
    for after in [1, 2, 4, 4] {
        let wake = Action::Wake { slot: s[0], after: after * SECOND, quarantined: false };
        assert_eq!(play.on(exited(s[0], false)), [wake]);
        play.on(Input::Woke(s[0]));
        play.on(Input::Started(s[0]));
    }
    play.now += 100 * SECOND;
    let wake = Action::Wake { slot: s[0], after: SECOND, quarantined: false };
    assert_eq!(play.on(exited(s[0], false)), [wake]);
}

#[test]
fn a_removed_child_is_stopped_or_dropped_from_whatever_it_was_doing() {
    let family = Family::Dynamic { quarantine: Backoff::default() };
    let intensity = Intensity { restarts: 3, within: SECOND };
    let (mut play, s) = Play::new(family, intensity, &[Restart::Permanent; 3]);
    play.on(Input::Started(s[0]));
    play.on(Input::Started(s[1]));
    play.on(exited(s[1], false));
    assert_eq!(play.on(Input::Remove(s[0])), [Action::Stop(s[0])]);
    assert_eq!(play.on(Input::Remove(s[1])), [Action::Forget(s[1])]);
    assert_eq!(play.on(Input::Remove(s[2])), [], "its start is let finish");
    assert_eq!(play.on(Input::Started(s[2])), [Action::Stop(s[2])]);
    assert_eq!(play.on(exited(s[0], false)), [Action::Forget(s[0])]);
    assert_eq!(play.on(exited(s[2], true)), [Action::Forget(s[2])]);
    assert_eq!(play.on(Input::Woke(s[1])), [], "a late back-off of nobody");
}

proptest! {
    /// Whatever happens in whatever order, `perform` finds no action that makes no sense, and once things go well
    /// every child that is wanted is up, or the supervisor has ended.
    #[test]
    fn any_history_ends_with_all_up_or_all_down(
        family in family(),
        restarts in 0u32..6,
        children in prop::collection::vec(restart(), 0..6),
        history in prop::collection::vec((any::<prop::sample::Index>(), 0u64..5, 0u8..40), 0..80),
    ) {
        let intensity = Intensity { restarts, within: 20 * SECOND };
        let (mut play, slots) = Play::new(family, intensity, &children);
        for (which, seconds, odd) in history {
            if play.ended.is_some() {
                break;
            }
            play.now += Duration::from_secs(seconds);
            let possible = play.possible();
            let dynamic = matches!(family, Family::Dynamic { .. });
            match odd {
                0 => drop(play.on(Input::Shutdown)),
                1 | 2 if dynamic && !slots.is_empty() => drop(play.on(Input::Remove(*which.get(&slots)))),
                _ if possible.is_empty() => {}
                _ => drop(play.on(*which.get(&possible))),
            }
            let recent = play.wakes.iter().filter(|at| play.now.duration_since(**at) < intensity.within).count();
            if !dynamic {
                prop_assert!(recent <= restarts as usize, "more restarts than the intensity allows");
            }
        }
        prop_assert!(play.calm_down() < 200, "it goes in circles");
        if play.ended.is_some() || play.plan.is_ending() {
            prop_assert!(play.ended.is_some(), "it never ends");
        } else {
            prop_assert!(play.ready);
            for (slot, child) in &play.plan.children {
                let (phase, permanent) = (child.phase, child.restart == Restart::Permanent);
                prop_assert!(matches!(phase, Phase::Up { .. }) || (phase == Phase::Done && !permanent), "{slot:?} {phase:?}");
            }
        }
        play.on(Input::Shutdown);
        if play.ended.is_none() {
            play.calm_down();
        }
        prop_assert!(play.ended.is_some());
    }
}
