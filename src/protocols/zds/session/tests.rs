//! Every row of the behaviour table, then random sequences against a model.

use proptest::prelude::*;

use super::*;

type Core = Session<u32>;

fn netns(n: u32) -> Netns<u32> {
    Netns { id: NetnsId { dev: 4, ino: n.into() }, handle: n }
}

fn info(uid: &str) -> PodInfo {
    PodInfo { name: uid.into(), namespace: "shop".into(), service_account: "web".into() }
}

fn add(uid: &str, n: u32) -> Event<u32> {
    Event::Asked(Ask::Add(uid.into(), Some(info(uid)), netns(n)))
}

fn keep(uid: &str) -> Event<u32> {
    Event::Asked(Ask::Keep(uid.into()))
}

fn del(uid: &str) -> Event<u32> {
    Event::Asked(Ask::Del(uid.into()))
}

fn snapshot() -> Event<u32> {
    Event::Asked(Ask::SnapshotSent)
}

fn started(op: u64, uid: &str) -> Event<u32> {
    Event::PodStarted(op, uid.into(), Ok(()))
}

fn failed(op: u64, uid: &str, why: &str) -> Event<u32> {
    Event::PodStarted(op, uid.into(), Err(why.into()))
}

fn stopped(op: u64, uid: &str) -> Event<u32> {
    Event::PodStopped(op, uid.into())
}

/// Effects as short words: `start web#1@7`, `stop web#2`, `ack`, `nack why`, `nack! why` (hang up), `exit why`.
fn words(effects: Vec<Effect<u32>>) -> Vec<String> {
    let word = |effect| match effect {
        Effect::Start(op, pod) => format!("start {}#{op}@{}", pod.uid, pod.netns.handle),
        Effect::Stop(op, uid) => format!("stop {uid}#{op}"),
        Effect::Answer(Answer::Done, Then::Continue) => "ack".to_owned(),
        Effect::Answer(Answer::Refused(why), Then::Continue) => format!("nack {why}"),
        Effect::Answer(Answer::Refused(why), Then::Disconnect) => format!("nack! {why}"),
        Effect::Answer(Answer::Refused(_), Then::Exit(why)) => format!("exit {why}"),
        Effect::Answer(Answer::Done, then) => format!("ack and {then:?}"),
    };
    effects.into_iter().map(word).collect()
}

/// A core with what it was told and when.
struct Case {
    core: Core,
    now: Instant,
}

impl Case {
    fn new(running: &[(&str, u32)]) -> Self {
        let running = running.iter().map(|(uid, n)| (Arc::from(*uid), netns(*n).id));
        let mut case = Self { core: Core::new(running, Counts::default()), now: Instant::now() };
        assert!(!case.core.status().ready);
        case.expect(Event::Connected, &[]);
        case
    }

    /// Connected, an empty snapshot complete.
    fn live(running: &[(&str, u32)]) -> Self {
        let mut case = Self::new(running);
        for (uid, _) in running {
            case.expect(keep(uid), &["ack"]);
        }
        case.expect(snapshot(), &["ack"]);
        case
    }

    #[track_caller]
    fn expect(&mut self, event: Event<u32>, want: &[&str]) -> &mut Self {
        let shown = format!("{event:?}");
        assert_eq!(words(self.core.on(self.now, event)), want, "after {shown}");
        self
    }

    #[track_caller]
    fn after(&mut self, wait: Duration, want: &[&str]) -> &mut Self {
        self.now += wait;
        self.expect(Event::Tick, want)
    }

    #[track_caller]
    fn ready(&mut self, want: bool) -> &mut Self {
        assert_eq!(self.core.status().ready, want, "{:?}", self.core.status());
        assert_eq!(self.core.status().detail().is_none(), want);
        self
    }

    #[track_caller]
    fn counts(&mut self, active: u64, pending: u64, started: u64, stopped: u64) -> &mut Self {
        assert_eq!(self.core.status().counts, Counts { active, pending, started, stopped });
        self
    }
}

#[test]
fn a_pod_is_acknowledged_only_once_it_is_served() {
    let mut case = Case::new(&[]);
    case.expect(add("web", 1), &["start web#1@1"]).counts(0, 0, 0, 0);
    case.expect(started(1, "web"), &["ack"]).counts(1, 0, 1, 0).ready(false);
    case.expect(snapshot(), &["ack"]).ready(true);
    assert_eq!(case.core.next_wake(), None);
}

#[test]
fn an_add_of_the_same_namespace_changes_nothing() {
    let mut case = Case::live(&[("web", 1)]);
    case.expect(add("web", 1), &["ack"]).counts(1, 0, 0, 0).ready(true);
}

#[test]
fn an_add_of_another_namespace_stops_the_old_and_starts_the_newest() {
    let mut case = Case::live(&[("web", 1)]);
    case.expect(add("web", 2), &["stop web#1"]);
    case.expect(stopped(1, "web"), &["start web#2@2"]);
    case.expect(started(2, "web"), &["ack"]).counts(1, 0, 1, 1).ready(true);
    case.expect(add("web", 2), &["ack"]);
    case.expect(add("web", 3), &["stop web#3"]);
    case.expect(Event::Disconnected, &[]).expect(Event::Connected, &[]);
    case.expect(add("web", 4), &[]);
    case.expect(stopped(3, "web"), &["start web#4@4"]);
    case.expect(started(4, "web"), &["ack"]).counts(1, 0, 2, 2);
}

#[test]
fn a_start_that_fails_is_refused_pending_and_retried_every_5_s() {
    let mut case = Case::live(&[]);
    case.expect(add("bad", 1), &["start bad#1@1"]);
    case.expect(failed(1, "bad", "port taken"), &["nack port taken"]).ready(false).counts(0, 1, 0, 0);
    assert_eq!(case.core.status().detail().unwrap(), "pod shop/bad (bad): port taken");
    // Another pod is not concerned.
    case.expect(add("good", 2), &["start good#2@2"]).expect(started(2, "good"), &["ack"]).ready(false);
    case.after(POD_RETRY_INTERVAL - Duration::from_millis(1), &[]);
    case.after(Duration::from_millis(1), &["start bad#3@1"]).ready(false);
    case.expect(failed(3, "bad", "still taken"), &[]).ready(false);
    assert_eq!(case.core.status().detail().unwrap(), "pod shop/bad (bad): still taken");
    case.after(POD_RETRY_INTERVAL, &["start bad#4@1"]);
    case.expect(started(4, "bad"), &[]).ready(true).counts(2, 0, 2, 0);
    assert_eq!(case.core.next_wake(), None);
}

#[test]
fn a_pending_pod_added_again_starts_at_once_with_the_new_namespace() {
    let mut case = Case::live(&[]);
    case.expect(add("web", 1), &["start web#1@1"]).expect(failed(1, "web", "gone"), &["nack gone"]);
    case.expect(add("web", 2), &["start web#2@2"]).ready(false);
    case.expect(started(2, "web"), &["ack"]).ready(true);
    case.after(POD_RETRY_INTERVAL, &[]).counts(1, 0, 1, 0);
}

#[test]
fn a_pending_pod_that_is_deleted_is_not_retried() {
    let mut case = Case::live(&[]);
    case.expect(add("web", 1), &["start web#1@1"]).expect(failed(1, "web", "no"), &["nack no"]).ready(false);
    case.expect(del("web"), &["ack"]).ready(true).counts(0, 0, 0, 0);
    case.after(POD_RETRY_INTERVAL, &[]);
}

#[test]
fn a_start_that_hangs_is_refused_in_time_and_counts_when_it_ends() {
    let mut case = Case::live(&[]);
    case.expect(add("slow", 1), &["start slow#1@1"]).ready(true);
    assert_eq!(case.core.next_wake(), Some(case.now + ZDS_ANSWER_WITHIN));
    let nack = "nack its proxy has not started within 4 s";
    case.after(ZDS_ANSWER_WITHIN, &[nack]).ready(false).counts(0, 1, 0, 0);
    // The agent asks again; the start under way is waited for, no second one begins.
    case.expect(add("slow", 1), &[]).after(ZDS_ANSWER_WITHIN, &[nack]);
    case.expect(add("slow", 1), &[]).expect(started(1, "slow"), &["ack"]).ready(true).counts(1, 0, 1, 0);
}

#[test]
fn a_hanging_start_is_given_up_for_a_deletion_or_another_namespace() {
    let mut case = Case::live(&[]);
    case.expect(add("slow", 1), &["start slow#1@1"]);
    case.after(ZDS_ANSWER_WITHIN, &["nack its proxy has not started within 4 s"]);
    case.expect(add("slow", 2), &["stop slow#2"]).expect(started(1, "slow"), &[]).ready(false);
    case.expect(stopped(2, "slow"), &["start slow#3@2"]);
    case.after(ZDS_ANSWER_WITHIN, &["nack its proxy has not started within 4 s"]);
    case.expect(del("slow"), &["stop slow#4", "ack"]).ready(true);
    case.expect(stopped(4, "slow"), &[]).counts(0, 0, 0, 0);
}

#[test]
fn a_deletion_after_the_snapshot_stops_at_once_and_unknown_pods_are_fine() {
    let mut case = Case::live(&[("web", 1)]);
    case.expect(del("web"), &["stop web#1", "ack"]).counts(0, 0, 0, 1);
    case.expect(del("web"), &["ack"])
        .expect(stopped(1, "web"), &[])
        .expect(del("nobody"), &["ack"])
        .ready(true);
}

#[test]
fn add_del_add_ends_with_one_proxy() {
    let mut case = Case::live(&[]);
    case.expect(add("web", 1), &["start web#1@1"]).expect(started(1, "web"), &["ack"]);
    case.expect(del("web"), &["stop web#2", "ack"]).expect(add("web", 1), &[]);
    case.expect(stopped(2, "web"), &["start web#3@1"]).expect(started(3, "web"), &["ack"]).counts(1, 0, 2, 1);
}

#[test]
fn a_deletion_before_the_snapshot_takes_effect_at_its_end() {
    let mut case = Case::new(&[("old", 1)]);
    case.expect(keep("old"), &["ack"]).expect(del("old"), &["ack"]).counts(1, 0, 0, 0);
    case.expect(add("bad", 2), &["start bad#1@2"]).expect(failed(1, "bad", "no"), &["nack no"]);
    case.expect(del("bad"), &["ack"]).counts(1, 0, 0, 0);
    case.expect(snapshot(), &["stop old#2", "ack"]).ready(true).counts(0, 0, 0, 1);
}

#[test]
fn the_end_of_a_snapshot_stops_every_pod_it_did_not_name() {
    let mut case = Case::new(&[("kept", 1), ("added", 2), ("gone", 3)]);
    case.expect(keep("kept"), &["ack"]).expect(add("added", 2), &["ack"]);
    case.expect(snapshot(), &["stop gone#1", "ack"]).ready(true).counts(2, 0, 0, 1);
    // The next connection's snapshot again speaks for itself.
    case.expect(Event::Disconnected, &[]).ready(false).expect(Event::Connected, &[]);
    case.expect(keep("kept"), &["ack"]).expect(snapshot(), &["stop added#2", "ack"]).counts(1, 0, 0, 2);
}

#[test]
fn a_start_under_way_that_the_next_snapshot_does_not_name_is_given_up() {
    let mut case = Case::live(&[]);
    case.expect(add("web", 1), &["start web#1@1"]).expect(Event::Disconnected, &[]);
    case.expect(Event::Connected, &[]).expect(snapshot(), &["stop web#2", "ack"]);
    case.expect(started(1, "web"), &[]).expect(stopped(2, "web"), &[]).counts(0, 0, 0, 0);
}

#[test]
fn a_lost_connection_keeps_every_pod_and_clears_what_was_pending() {
    let mut case = Case::live(&[("web", 1)]);
    case.expect(add("bad", 2), &["start bad#1@2"]).expect(failed(1, "bad", "no"), &["nack no"]);
    case.expect(Event::Disconnected, &[]).ready(false).counts(1, 1, 0, 0);
    case.expect(Event::Connected, &[]).counts(1, 0, 0, 0);
    case.expect(add("web", 1), &["ack"])
        .expect(snapshot(), &["ack"])
        .ready(true)
        .after(POD_RETRY_INTERVAL, &[]);
}

#[test]
fn an_answer_whose_connection_is_gone_goes_nowhere() {
    let mut case = Case::live(&[]);
    case.expect(add("web", 1), &["start web#1@1"]).expect(Event::Disconnected, &[]);
    case.expect(started(1, "web"), &[]).after(ZDS_ANSWER_WITHIN, &[]).counts(1, 0, 1, 0);
}

#[test]
fn what_leaves_the_set_of_pods_in_doubt_ends_the_process() {
    let no_info = Event::Asked(Ask::Add("web".into(), None, netns(1)));
    Case::live(&[]).expect(no_info, &["exit add of pod web without workload info"]).ready(false);
    Case::live(&[]).expect(keep("web"), &["exit keep of pod web after the snapshot"]).ready(false);
    Case::live(&[]).expect(snapshot(), &["exit a second end of the snapshot"]).ready(false);
}

#[test]
fn packets_with_the_wrong_descriptors_are_refused_and_hung_up_on() {
    let request = |r: &Request| super::super::codec::encode_request(r);
    let uid = || "web".to_owned();
    let add = request(&Request::Add { uid: uid(), info: Some(info("web")) });
    for (packet, fds, bad) in [
        (&add, 0, Some("add of pod web came with 0 file descriptors, not with one")),
        (&add, 1, None),
        (&add, 2, Some("add of pod web came with 2 file descriptors, not with one")),
        (&request(&Request::Del { uid: uid() }), 0, None),
        (
            &request(&Request::Del { uid: uid() }),
            1,
            Some("1 file descriptors came with a message that takes none"),
        ),
        (
            &request(&Request::Keep { uid: uid() }),
            2,
            Some("2 file descriptors came with a message that takes none"),
        ),
        (&request(&Request::SnapshotSent), 1, Some("1 file descriptors came with a message that takes none")),
        (&vec![0x22, 0], 0, Some("the message holds no payload this proxy knows")),
    ] {
        let ask = Ask::decode(packet, (0..fds).map(netns).collect());
        match (&ask, bad) {
            (Ask::Bad(why), Some(want)) => assert_eq!(why, want),
            (Ask::Bad(why), None) => panic!("{why}"),
            (_, want) => assert_eq!(want, None, "{ask:?}"),
        }
        if let Some(want) = bad {
            Case::live(&[("web", 1)])
                .expect(Event::Asked(ask), &[&format!("nack! {want}")])
                .counts(1, 0, 0, 0);
        }
    }
}

#[test]
fn the_table_of_pods_is_bounded() {
    let mut case = Case::new(&[]);
    for n in 0..MAX_SESSION_PODS {
        case.expect(keep(&format!("p{n}")), &["ack"]);
    }
    let full = "nack this node has 4096 pods already, the most this proxy serves";
    case.expect(keep("more"), &[full]).expect(add("more", 1), &[full]).expect(keep("p7"), &["ack"]);
}

// === random sequences ===

/// A step of the world around the core.
#[derive(Clone, Debug)]
enum Step {
    Add(usize, u32),
    Keep(usize),
    Del(usize),
    Snapshot,
    Reconnect,
    /// Ends the oldest operation; a start with this result.
    Finish(bool),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4usize, 0..3u32).prop_map(|(uid, n)| Step::Add(uid, n)),
        1 => (0..4usize).prop_map(Step::Keep),
        2 => (0..4usize).prop_map(Step::Del),
        2 => Just(Step::Snapshot),
        1 => Just(Step::Reconnect),
        6 => any::<bool>().prop_map(Step::Finish),
        2 => (1..6000u64).prop_map(Step::Wait),
    ]
}

const UIDS: [&str; 4] = ["a", "b", "c", "d"];

/// The outside: operations under way, what really runs, what the agent wants, and the unanswered request.
#[derive(Default)]
struct World {
    ops: Vec<(u64, String, Option<u32>)>,
    runs: BTreeMap<String, u32>,
    wanted: BTreeMap<String, Option<u32>>,
    live: bool,
    asked_at: Option<Instant>,
}

impl World {
    fn perform(&mut self, effects: Vec<Effect<u32>>, now: Instant) {
        for effect in effects {
            match effect {
                Effect::Start(op, pod) => {
                    assert!(!self.ops.iter().any(|o| o.1 == *pod.uid), "two operations on {}", pod.uid);
                    assert!(!self.runs.contains_key(&*pod.uid), "{} runs already", pod.uid);
                    self.ops.push((op, pod.uid.to_string(), Some(pod.netns.handle)));
                }
                Effect::Stop(op, uid) => {
                    self.ops.retain(|o| o.1 != *uid || o.2.is_none());
                    assert!(!self.ops.iter().any(|o| o.1 == *uid), "{uid} is being stopped already");
                    self.ops.push((op, uid.to_string(), None));
                }
                Effect::Answer(_, then) => {
                    assert_eq!(then, Then::Continue);
                    let asked = self.asked_at.take().expect("an answer to no request");
                    assert!(now - asked <= ZDS_ANSWER_WITHIN, "late answer");
                }
            }
        }
    }

    fn finish(&mut self, works: bool) -> Option<Event<u32>> {
        if self.ops.is_empty() {
            return None;
        }
        let (op, uid, netns) = self.ops.remove(0);
        Some(match netns {
            None => {
                self.runs.remove(&uid);
                stopped(op, &uid)
            }
            Some(netns) if works => {
                self.runs.insert(uid.clone(), netns);
                started(op, &uid)
            }
            Some(_) => failed(op, &uid, "failed"),
        })
    }
}

fn event(step: &Step, world: &mut World) -> Option<Event<u32>> {
    let idle = world.asked_at.is_none();
    match step {
        Step::Add(uid, n) if idle => {
            world.wanted.insert(UIDS[*uid].into(), Some(*n));
            Some(add(UIDS[*uid], *n))
        }
        Step::Keep(uid) if idle && !world.live => {
            // With an operation under way the last wish stands, which the model does not remember.
            let calm = !world.ops.iter().any(|op| op.1 == UIDS[*uid]);
            let running = world.runs.get(UIDS[*uid]).copied().filter(|_| calm);
            world.wanted.entry(UIDS[*uid].into()).or_insert(running);
            Some(keep(UIDS[*uid]))
        }
        Step::Del(uid) if idle => {
            world.wanted.remove(UIDS[*uid]);
            Some(del(UIDS[*uid]))
        }
        Step::Snapshot if idle && !world.live => {
            world.live = true;
            Some(snapshot())
        }
        Step::Finish(works) => world.finish(*works),
        _ => None,
    }
}

proptest! {
    #[test]
    fn whatever_happens_each_request_has_one_answer_and_the_newest_wish_wins(
        steps in proptest::collection::vec(step(), 0..60)
    ) {
        let (mut core, mut world, mut now) = (Core::new([], Counts::default()), World::default(), Instant::now());
        core.on(now, Event::Connected);
        // Then the agent completes its snapshot, and everything works.
        let calm = [Step::Wait(9000), Step::Finish(true), Step::Finish(true), Step::Finish(true), Step::Finish(true)];
        let tail = std::iter::once(Step::Snapshot).chain(calm.into_iter().cycle().take(40));
        let settle = std::iter::repeat_n(Step::Finish(true), 8).chain([Step::Wait(9000)]).chain(tail);
        for step in steps.into_iter().chain(settle) {
            if let Step::Wait(ms) = step {
                let until = now + Duration::from_millis(ms);
                while let Some(at) = core.next_wake().filter(|at| *at <= until) {
                    now = now.max(at);
                    let effects = core.on(now, Event::Tick);
                    world.perform(effects, now);
                }
                now = until;
                continue;
            }
            if let Step::Reconnect = step {
                world.asked_at = None;
                world.live = false;
                world.wanted.clear();
                prop_assert!(core.on(now, Event::Disconnected).is_empty());
                prop_assert!(core.on(now, Event::Connected).is_empty());
                continue;
            }
            let Some(event) = event(&step, &mut world) else { continue };
            if matches!(event, Event::Asked(_)) {
                world.asked_at = Some(now);
            }
            let effects = core.on(now, event);
            world.perform(effects, now);
        }
        prop_assert!(world.asked_at.is_none(), "every request was answered");
        prop_assert!(world.ops.is_empty());
        prop_assert!(core.status().ready, "{:?}", core.status());
        for (uid, netns) in &world.wanted {
            if let Some(netns) = netns {
                prop_assert_eq!(world.runs.get(uid), Some(netns), "{} runs in its newest namespace", uid);
            }
        }
        for uid in world.runs.keys() {
            prop_assert!(world.wanted.contains_key(uid), "{} should have been stopped", uid);
        }
        prop_assert_eq!(core.status().counts.active, world.runs.len() as u64);
    }
}
