//! The core against tables, and against a control plane and tables that are models.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Instant,
};

use proptest::prelude::*;
use prost_types::Any;
use tonic::Code;

use super::{
    Demanded, Later, Rejected, ResourceType, XdsState,
    backoff::End,
    delta::{Apply, DeltaStream, NACK_BYTES_MAX, Pending, Step, nack_text},
};
use crate::protocols::pb::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Resource};

fn open(state: &XdsState, on_demand: bool) -> (DeltaStream, Vec<DeltaDiscoveryRequest>) {
    let node = Node { id: "me".into(), ..Node::default() };
    DeltaStream::open(state.clone(), &node, on_demand, Instant::now())
}

fn resource(name: &str, version: &str) -> Resource {
    Resource {
        name: name.into(),
        version: version.into(),
        resource: Some(Any { value: version.into(), ..Any::default() }),
        ..Resource::default()
    }
}

fn response(
    kind: ResourceType,
    nonce: &str,
    named: &[(&str, &str)],
    removed: &[&str],
) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: kind.type_url().into(),
        nonce: nonce.into(),
        resources: named.iter().map(|(name, version)| resource(name, version)).collect(),
        removed_resources: removed.iter().map(|n| (*n).to_owned()).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

fn receive(stream: &mut DeltaStream, response: DeltaDiscoveryResponse) -> (Apply, Pending) {
    match stream.received(response) {
        Step::Apply(apply, pending) => (apply, pending),
        Step::Answer(answer) => panic!("answered at once: {answer:?}"),
    }
}

fn rejected(names: &[&str]) -> Vec<Rejected> {
    names
        .iter()
        .map(|n| Rejected { name: (*n).into(), reason: "bad".into(), applied: false, later: None })
        .collect()
}

fn push(stream: &mut DeltaStream, response: DeltaDiscoveryResponse, bad: &[&str]) -> DeltaDiscoveryRequest {
    let (_, pending) = receive(stream, response);
    stream.applied(pending, &rejected(bad), Instant::now())
}

fn announced(state: &XdsState, kind: ResourceType) -> BTreeMap<String, String> {
    let (_, hello) = open(state, false);
    hello
        .into_iter()
        .find(|r| r.type_url == kind.type_url())
        .unwrap()
        .initial_resource_versions
        .into_iter()
        .collect()
}

fn versions(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn a_first_stream_asks_for_everything_address_first() {
    let (_, hello) = open(&XdsState::new(), false);
    let expected = ResourceType::ALL.map(|kind| DeltaDiscoveryRequest {
        node: Some(Node { id: "me".into(), ..Node::default() }),
        type_url: kind.type_url().into(),
        ..DeltaDiscoveryRequest::default()
    });
    assert_eq!(hello, expected);
    assert_eq!(hello[0].type_url, "type.googleapis.com/istio.workload.Address");
    assert_eq!(hello[1].type_url, "type.googleapis.com/istio.security.Authorization");
}

#[test]
fn an_answer_carries_type_and_nonce_and_the_rejected_if_any() {
    let state = XdsState::new();
    let (mut stream, _) = open(&state, false);
    let ack = push(&mut stream, response(ResourceType::Authorization, "n1", &[("a", "")], &[]), &[]);
    let bare = |kind: ResourceType, nonce: &str| DeltaDiscoveryRequest {
        type_url: kind.type_url().into(),
        response_nonce: nonce.into(),
        ..DeltaDiscoveryRequest::default()
    };
    assert_eq!(ack, bare(ResourceType::Authorization, "n1"));

    let empty = push(&mut stream, response(ResourceType::Address, "n2", &[], &[]), &[]);
    assert_eq!(empty, bare(ResourceType::Address, "n2"));

    let pair = [("a", "1"), ("b", "2")];
    let mut nack = push(&mut stream, response(ResourceType::Address, "n3", &pair, &[]), &["a", "b"]);
    let status = nack.error_detail.take().unwrap();
    assert_eq!((status.code, status.message.as_str()), (0, "a: bad; b: bad"));
    assert_eq!(nack, bare(ResourceType::Address, "n3"));
}

#[test]
fn an_unknown_type_is_acked_and_not_applied() {
    let state = XdsState::new();
    let (mut stream, _) = open(&state, false);
    let mut strange = response(ResourceType::Address, "n", &[("a", "1")], &[]);
    strange.type_url = "type.googleapis.com/else".into();
    let Step::Answer(ack) = stream.received(strange) else { panic!("applied") };
    assert_eq!((ack.type_url.as_str(), ack.response_nonce.as_str()), ("type.googleapis.com/else", "n"));
    assert_eq!(ack.error_detail, None);
    assert!(ResourceType::ALL.into_iter().all(|kind| state.len(kind) == 0));
}

#[test]
fn versions_survive_a_reconnect_without_rejected_and_removed_names() {
    let state = XdsState::new();
    let (mut stream, _) = open(&state, false);
    let first = [("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")];
    push(&mut stream, response(ResourceType::Address, "1", &first, &[]), &["b"]);
    push(
        &mut stream,
        response(ResourceType::Address, "2", &[("a", "2"), ("c", "2")], &["d", "never-held"]),
        &["c"],
    );
    push(&mut stream, response(ResourceType::Authorization, "3", &[("ns/p", "")], &[]), &[]);
    drop(stream);
    // The last good version of `c` is still held, and that is what is said.
    assert_eq!(announced(&state, ResourceType::Address), versions(&[("a", "2"), ("c", "1")]));
    assert_eq!(announced(&state, ResourceType::Authorization), versions(&[("ns/p", "")]));
}

#[test]
fn a_push_cut_half_way_leaves_names_without_versions() {
    let state = XdsState::new();
    let (mut stream, _) = open(&state, false);
    push(&mut stream, response(ResourceType::Address, "1", &[("a", "1"), ("b", "1"), ("c", "1")], &[]), &[]);
    let (apply, pending) =
        receive(&mut stream, response(ResourceType::Address, "2", &[("a", "2"), ("new", "2")], &["b"]));
    assert_eq!(apply.removed, ["b"]);
    drop((apply, pending, stream));
    let doubtful = [("a", ""), ("b", ""), ("c", "1"), ("new", "")];
    assert_eq!(announced(&state, ResourceType::Address), versions(&doubtful));
}

#[test]
fn what_a_response_brings_and_removes_is_still_announced() {
    let state = XdsState::new();
    let (mut stream, _) = open(&state, false);
    push(&mut stream, response(ResourceType::Address, "1", &[("a", "1"), ("b", "1")], &["a", "c"]), &[]);
    assert_eq!(announced(&state, ResourceType::Address), versions(&[("a", "1"), ("b", "1")]));
}

#[test]
fn a_name_sent_twice_and_rejected_is_in_doubt() {
    let state = XdsState::new();
    let (mut stream, _) = open(&state, false);
    push(&mut stream, response(ResourceType::Address, "1", &[("a", "1")], &[]), &[]);
    push(&mut stream, response(ResourceType::Address, "2", &[("a", "2"), ("a", "3")], &[]), &["a"]);
    assert_eq!(announced(&state, ResourceType::Address), versions(&[("a", "")]));
    push(&mut stream, response(ResourceType::Address, "3", &[("a", "4"), ("a", "5")], &[]), &[]);
    assert_eq!(announced(&state, ResourceType::Address), versions(&[("a", "5")]));
}

#[test]
fn a_refused_resource_that_is_applied_all_the_same_is_announced_in_doubt() {
    let state = XdsState::new();
    let (mut stream, _) = open(&state, false);
    let (_, pending) =
        receive(&mut stream, response(ResourceType::Authorization, "1", &[("new", "1"), ("not", "1")], &[]));
    let refused = rejected(&["new", "not"]).into_iter();
    let refused: Vec<_> = refused.map(|r| Rejected { applied: r.name == "new", ..r }).collect();
    let answer = stream.applied(pending, &refused, Instant::now());
    assert_eq!(answer.error_detail.unwrap().message, "new: bad; not: bad");
    assert_eq!(announced(&state, ResourceType::Authorization), versions(&[("new", "")]));
}

#[test]
fn synced_after_an_applied_response_of_each_type_and_for_good() {
    let state = XdsState::new();
    let (mut stream, _) = open(&state, false);
    push(&mut stream, response(ResourceType::Authorization, "2", &[("p", "1")], &[]), &["p"]);
    assert!(!state.is_synced(false), "no response for addresses");
    assert!(
        state.is_synced(true),
        "types asked for on demand are not awaited, and a refused resource does not count"
    );
    let (_, pending) = receive(&mut stream, response(ResourceType::Address, "3", &[], &[]));
    assert!(!state.is_synced(false), "not yet applied");
    stream.applied(pending, &[], Instant::now());
    assert!(state.is_synced(false));
    push(&mut stream, response(ResourceType::Address, "4", &[("a", "2")], &[]), &["a"]);
    assert!(state.is_synced(false));
}

fn demand(state: &XdsState, name: &str) -> Demanded {
    state.demand(name, Instant::now(), true).unwrap()
}

fn requests(stream: &mut DeltaStream) -> Vec<DeltaDiscoveryRequest> {
    stream.demanded(Instant::now()).collect()
}

fn subscription(names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: ResourceType::Address.type_url().into(),
        resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

#[test]
fn on_demand_subscribes_to_nothing_and_then_to_names_once() {
    let state = XdsState::new();
    demand(&state, "early");
    let (mut stream, hello) = open(&state, true);
    assert_eq!(hello[0].resource_names_subscribe, ["*"]);
    assert_eq!(hello[0].resource_names_unsubscribe, ["*"]);
    assert_eq!(hello[0].initial_resource_versions, HashMap::from([("early".into(), String::new())]));
    assert!(hello[1].resource_names_subscribe.is_empty() && hello[1].resource_names_unsubscribe.is_empty());

    assert_eq!(requests(&mut stream), []);
    for name in ["net/10.0.0.1", "early", "net/10.0.0.1"] {
        demand(&state, name);
    }
    assert_eq!(requests(&mut stream), [subscription(&["net/10.0.0.1"])]);
    push(&mut stream, response(ResourceType::Address, "1", &[("early", "1")], &["net/10.0.0.1"]), &[]);
    assert_eq!(
        open(&state, true).1[0].initial_resource_versions,
        HashMap::from([("early".into(), "1".into())])
    );
}

#[test]
fn who_waits_is_woken_by_name_alias_and_removal_and_only_after_the_response_is_applied() {
    let state = XdsState::new();
    let (mut stream, _) = open(&state, true);
    let waiting: Vec<_> = ["by/name", "by/alias", "by/removal", "by/refusal", "by/none"]
        .iter()
        .map(|name| match demand(&state, name) {
            Demanded::Asked(answer) => answer,
            Demanded::Answered => panic!("{name}"),
        })
        .collect();
    assert_eq!(requests(&mut stream)[0].resource_names_subscribe.len(), 5);
    let woken = || waiting.iter().map(|answer| *answer.borrow()).collect::<Vec<_>>();
    let named = [("by/name", "1"), ("a-uid", "1"), ("bad", "1")];
    let mut answer = response(ResourceType::Address, "1", &named, &["by/removal"]);
    answer.resources[1].aliases = vec!["by/alias".into()];
    answer.resources[2].aliases = vec!["by/refusal".into()];
    let (_, pending) = receive(&mut stream, answer);
    assert_eq!(woken(), [false; 5]);
    stream.applied(pending, &rejected(&["bad"]), Instant::now());
    assert_eq!(woken(), [true, true, true, true, false]);
    // Aliases are no resources: only what is held, and what is still asked for, is announced.
    let announced: BTreeSet<String> =
        open(&state, true).1[0].initial_resource_versions.keys().cloned().collect();
    assert_eq!(announced, ["a-uid", "by/name", "by/none"].map(str::to_owned).into());
}

#[test]
fn what_is_tried_again_is_held_without_a_version_and_a_newer_one_takes_its_place() {
    let (state, now) = (XdsState::new(), Instant::now());
    let after = std::time::Duration::from_secs(30);
    let (mut stream, _) = open(&state, false);
    let pushed = response(ResourceType::Address, "1", &[("new", "v1"), ("old", "v1"), ("gone", "v1")], &[]);
    let (apply, pending) = receive(&mut stream, pushed);
    let later = |resource: &Resource| {
        let later = Some(Box::new(Later { resource: resource.clone(), after }));
        Rejected { name: resource.name.clone(), reason: "not now".into(), applied: false, later }
    };
    let refused: Vec<Rejected> = apply.resources.iter().map(later).collect();
    stream.applied(pending, &refused, Instant::now());
    stream.put_aside(now, ResourceType::Address, refused);
    assert_eq!(announced(&state, ResourceType::Address), versions(&[]), "none is held");
    push(&mut stream, response(ResourceType::Address, "2", &[("old", "v2")], &["gone"]), &[]);
    assert_eq!((stream.next_retry(), stream.retry(now).is_some()), (Some(now + after), false));

    let (apply, retry) = stream.retry(now + after).unwrap();
    let names: Vec<_> = apply.resources.iter().map(|resource| resource.name.as_str()).collect();
    assert_eq!((apply.kind, names, apply.removed.is_empty()), (ResourceType::Address, vec!["new"], true));
    stream.retried(retry, &[]);
    // Held, so that its removal is told; at a version nobody kept.
    assert_eq!(announced(&state, ResourceType::Address), versions(&[("new", ""), ("old", "v2")]));
    assert!(stream.retry(now + after).is_none() && stream.next_retry().is_none());
}

#[test]
fn refusal_text_is_bounded_and_counts_what_it_leaves_out() {
    let long = |i: usize, reason: &str| Rejected {
        name: format!("n{i}"),
        reason: reason.into(),
        applied: false,
        later: None,
    };
    assert_eq!(nack_text(&[long(1, "x"), long(2, "y; z")]), "n1: x; n2: y; z");

    let many: Vec<Rejected> = (0..100_000).map(|i| long(i, "unknown protocol")).collect();
    let text = nack_text(&many);
    assert!(text.len() <= NACK_BYTES_MAX && text.len() > NACK_BYTES_MAX - 100, "{}", text.len());
    let (listed, count) = text.rsplit_once("; and ").unwrap();
    let count: usize = count.strip_suffix(" more").unwrap().parse().unwrap();
    assert_eq!(listed.split("; ").count() + count, many.len());

    let huge = "\u{20ac}".repeat(NACK_BYTES_MAX);
    assert!(nack_text(&[long(1, &huge)]).len() <= NACK_BYTES_MAX);
    let text = nack_text(&[long(1, &huge), long(2, "y")]);
    assert!(text.len() <= NACK_BYTES_MAX && text.ends_with("\u{20ac}; and 1 more"));
}

#[test]
fn an_announcement_the_server_found_too_large_is_replaced_by_asking_for_all() {
    let state = XdsState::new();
    let (mut stream, _) = open(&state, false);
    let names: Vec<String> =
        (0..20_000).map(|i| format!("cluster//Pod/some-namespace/a-pod-name-{i}")).collect();
    let named: Vec<(&str, &str)> = names.iter().map(|n| (n.as_str(), "0123456789abcdef")).collect();
    push(&mut stream, response(ResourceType::Address, "1", &named, &[]), &[]);
    push(&mut stream, response(ResourceType::Authorization, "2", &[("p", "")], &[]), &[]);
    let too_large = End::Refused { code: Some(Code::ResourceExhausted), error: String::new() };
    // Nothing was announced, so that was not it.
    stream.ended(&too_large);
    let (mut stream, hello) = open(&state, false);
    assert_eq!(hello[0].initial_resource_versions.len(), 20_000);
    // What was answered was not too large to ask.
    push(&mut stream, response(ResourceType::Address, "2", &[], &[]), &[]);
    stream.ended(&too_large);

    let (stream, hello) = open(&state, false);
    assert_eq!(hello[0].initial_resource_versions.len(), 20_000);
    stream.ended(&too_large);
    let (mut stream, hello) = open(&state, false);
    assert!(hello[0].initial_resource_versions.is_empty() && hello[0].resource_names_subscribe.is_empty());
    assert_eq!(hello[1].initial_resource_versions.len(), 1, "policies are never concluded to be gone");

    // What it knows no more is missing from the first response only.
    let (apply, pending) = receive(&mut stream, response(ResourceType::Address, "3", &named[1..], &[]));
    assert_eq!(apply.removed, [names[0].as_str()]);
    stream.applied(pending, &[], Instant::now());
    let (apply, pending) = receive(&mut stream, response(ResourceType::Address, "4", &named[..1], &[]));
    assert!(apply.removed.is_empty());
    stream.applied(pending, &[], Instant::now());
    assert_eq!(state.len(ResourceType::Address), 20_000);

    // Still too large, so still all; once less is held, versions are announced again.
    let (mut stream, hello) = open(&state, false);
    assert!(hello[0].initial_resource_versions.is_empty());
    push(&mut stream, response(ResourceType::Address, "5", &named[..10], &[]), &[]);
    assert_eq!(announced(&state, ResourceType::Address).len(), 10);
}

/// What a random run does next.
#[derive(Clone, Debug)]
enum Op {
    Write { name: u8, bad: bool },
    Delete(u8),
    Push(Cut),
    Reconnect,
}

/// How far a push gets.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cut {
    /// The sink applies this many of its changes and is gone, and the stream with it.
    Applied(usize),
    /// All is applied, the stream is gone before that is noted.
    Unnoted,
    /// All goes well.
    Done,
}

/// A control plane with one client, and that client's tables.
#[derive(Default)]
struct World {
    state: XdsState,
    stream: Option<DeltaStream>,
    clock: u32,
    truth: BTreeMap<String, (String, bool)>,
    /// What the server has sent or was told, as it believes.
    told: BTreeMap<String, String>,
    tables: BTreeMap<String, String>,
}

impl World {
    fn reconnect(&mut self) {
        let (stream, hello) = open(&self.state, false);
        self.stream = Some(stream);
        self.told = hello[0].initial_resource_versions.clone().into_iter().collect();
    }

    fn push(&mut self, cut: Cut) {
        let changed: Vec<Resource> = self
            .truth
            .iter()
            .filter(|(name, (version, _))| self.told.get(*name) != Some(version))
            .map(|(name, (version, _))| resource(name, version))
            .collect();
        let gone: Vec<String> = self.told.keys().filter(|n| !self.truth.contains_key(*n)).cloned().collect();
        self.told = self.truth.iter().map(|(n, (v, _))| (n.clone(), v.clone())).collect();
        let mut message = response(ResourceType::Address, "n", &[], &[]);
        message.resources = changed;
        message.removed_resources = gone;
        let (apply, pending) = receive(self.stream.as_mut().unwrap(), message);

        let total = apply.resources.len() + apply.removed.len();
        let steps = if let Cut::Applied(n) = cut { n.min(total) } else { total };
        let mut bad = BTreeSet::new();
        for r in apply.resources.iter().take(steps) {
            let version = String::from_utf8(r.resource.as_ref().unwrap().value.clone()).unwrap();
            if self.truth[&r.name].1 {
                bad.insert(r.name.as_str());
            } else {
                self.tables.insert(r.name.clone(), version);
            }
        }
        for name in apply.removed.iter().take(steps.saturating_sub(apply.resources.len())) {
            self.tables.remove(name);
        }
        if cut == Cut::Done {
            let names: Vec<&str> = bad.into_iter().collect();
            self.stream.as_mut().unwrap().applied(pending, &rejected(&names), Instant::now());
        } else {
            drop(pending);
            self.reconnect();
        }
    }

    fn run(&mut self, op: &Op) {
        match op {
            Op::Write { name, bad } => {
                self.clock += 1;
                // Some versions come back, as they do when content does.
                let version = format!("v{}", self.clock % 3);
                self.truth.insert(format!("r{name}"), (version, *bad));
            }
            Op::Delete(name) => _ = self.truth.remove(&format!("r{name}")),
            Op::Push(cut) => self.push(*cut),
            Op::Reconnect => self.reconnect(),
        }
    }
}

fn op() -> impl Strategy<Value = Op> {
    let cut = prop_oneof![
        (0usize..6).prop_map(Cut::Applied),
        Just(Cut::Unnoted),
        Just(Cut::Done),
        Just(Cut::Done),
    ];
    prop_oneof![
        4 => (0u8..6, prop::bool::weighted(0.2)).prop_map(|(name, bad)| Op::Write { name, bad }),
        2 => (0u8..6).prop_map(Op::Delete),
        4 => cut.prop_map(Op::Push),
        1 => Just(Op::Reconnect),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_what_is_announced_covers_and_matches_the_tables(ops in prop::collection::vec(op(), 1..60)) {
        let mut world = World::default();
        world.reconnect();
        for op in &ops {
            world.run(op);
            let announced = announced(&world.state, ResourceType::Address);
            for (name, version) in &world.tables {
                let said = announced.get(name);
                prop_assert!(said.is_some(), "{name} is held and not announced");
                prop_assert!(said == Some(version) || said.is_some_and(String::is_empty), "{name}: {said:?}, holds {version}");
            }
            for (name, version) in announced.iter().filter(|(_, v)| !v.is_empty()) {
                prop_assert_eq!(world.tables.get(name), Some(version));
            }
        }
        // Once all is valid, one reconnect brings the tables to the truth, whatever went before.
        for (_, bad) in world.truth.values_mut() {
            *bad = false;
        }
        world.reconnect();
        world.push(Cut::Done);
        let truth: BTreeMap<String, String> = world.truth.iter().map(|(n, (v, _))| (n.clone(), v.clone())).collect();
        prop_assert_eq!(&world.tables, &truth);
        prop_assert_eq!(announced(&world.state, ResourceType::Address), truth);
    }
}
