//! Tests of the subscriber alone; the tests of `ControlPlane` cover the server over TLS.

use prost::Message;

use super::{super::mesh_file::Mesh, *};

fn resources(pods: &[&str]) -> Resources {
    let pods: Vec<String> = pods.iter().map(|name| format!("{{name: {name}}}")).collect();
    Resources::of(&Mesh::parse(&format!("nodes: {{n: }}\npods: [{}]", pods.join(", "))).unwrap())
}

fn first(type_url: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { type_url: type_url.into(), ..Default::default() }
}

fn answer(response: &DeltaDiscoveryResponse, error: Option<&str>) -> DeltaDiscoveryRequest {
    let error_detail = error.map(|text| ads::Status { message: text.into(), ..Default::default() });
    let (type_url, response_nonce) = (response.type_url.clone(), response.nonce.clone());
    DeltaDiscoveryRequest { type_url, response_nonce, error_detail, ..Default::default() }
}

fn uid(name: &str) -> String {
    format!("Kubernetes//Pod/default/{name}")
}

/// The names in the only response.
fn names(responses: &[DeltaDiscoveryResponse]) -> (Vec<String>, Vec<String>) {
    let [response] = responses else { panic!("{} responses", responses.len()) };
    let name = |r: &ads::Resource| r.name.rsplit('/').next().unwrap().to_owned();
    (response.resources.iter().map(name).collect(), response.removed_resources.clone())
}

#[test]
fn the_first_request_gets_everything_even_if_it_is_nothing() {
    let mut subscriber = Subscriber::default();
    let (verdict, sent) = subscriber.on_request(&first(ADDRESS), &resources(&["a", "b"]));
    assert_eq!((verdict, names(&sent)), (Verdict::None, (vec!["a".into(), "b".into()], vec![])));
    let (_, sent) = subscriber.on_request(&first(AUTHORIZATION), &resources(&["a", "b"]));
    assert_eq!(names(&sent), (vec![], vec![]));
    assert_eq!(subscriber.unanswered.len(), 2);
}

#[test]
fn a_change_sends_only_what_differs() {
    let mut subscriber = Subscriber::default();
    subscriber.on_request(&first(ADDRESS), &resources(&["a", "b"]));
    assert!(subscriber.on_change(&resources(&["a", "b"])).is_empty());
    let sent = subscriber.on_change(&resources(&["b", "c"]));
    assert_eq!(names(&sent), (vec!["c".into()], vec![uid("a")]));
    assert!(subscriber.on_change(&resources(&["b", "c"])).is_empty());
}

#[test]
fn acknowledgements_and_refusals_are_told_apart_and_counted_once() {
    let mut subscriber = Subscriber::default();
    let snapshot = resources(&["a"]);
    let (_, sent) = subscriber.on_request(&first(ADDRESS), &snapshot);
    assert_eq!(subscriber.on_request(&answer(&sent[0], None), &snapshot), (Verdict::Ack, vec![]));
    assert_eq!(subscriber.on_request(&answer(&sent[0], None), &snapshot), (Verdict::None, vec![]));
    let sent = subscriber.on_change(&resources(&["b"]));
    let (verdict, more) = subscriber.on_request(&answer(&sent[0], Some("b: bad")), &snapshot);
    assert_eq!((verdict, more), (Verdict::Nack("b: bad".into()), vec![]));
}

#[test]
fn a_client_that_comes_back_gets_the_difference_to_what_it_holds() {
    let (before, now) = (resources(&["a", "b", "c"]), resources(&["b", "c", "d"]));
    let version =
        |snapshot: &Resources, name: &str| snapshot.of_type(ADDRESS).unwrap()[&uid(name)].version.clone();
    let mut request = first(ADDRESS);
    request.initial_resource_versions = HashMap::from([
        (uid("a"), version(&before, "a")),
        (uid("b"), version(&before, "b")),
        (uid("c"), "0123".into()),
        ("default/gone".into(), String::new()),
    ]);
    let (_, sent) = Subscriber::default().on_request(&request, &now);
    let (mut changed, removed) = names(&sent);
    changed.sort();
    assert_eq!((changed, removed), (vec!["c".into(), "d".into()], vec![uid("a"), "default/gone".into()]));
}

#[test]
fn policies_have_no_version_and_are_sent_again() {
    let mesh = "policies: [{name: p, action: DENY}]";
    let snapshot = Resources::of(&Mesh::parse(mesh).unwrap());
    let mut request = first(AUTHORIZATION);
    request.initial_resource_versions = HashMap::from([("default/p".into(), String::new())]);
    let mut subscriber = Subscriber::default();
    let (_, sent) = subscriber.on_request(&request, &snapshot);
    assert_eq!(names(&sent).0, ["p"]);
    assert!(subscriber.on_change(&snapshot).is_empty());
}

#[test]
fn on_demand_names_are_answered_by_name_and_alias_and_followed() {
    let mut subscriber = Subscriber::default();
    let snapshot = resources(&["a", "b"]);
    let nothing = DeltaDiscoveryRequest {
        resource_names_subscribe: vec!["*".into()],
        resource_names_unsubscribe: vec!["*".into()],
        ..first(ADDRESS)
    };
    assert_eq!(names(&subscriber.on_request(&nothing, &snapshot).1), (vec![], vec![]));
    let alias = snapshot.of_type(ADDRESS).unwrap()[&uid("b")].aliases[0].clone();
    let ask =
        |name: &str| DeltaDiscoveryRequest { resource_names_subscribe: vec![name.into()], ..first(ADDRESS) };
    assert_eq!(names(&subscriber.on_request(&ask(&alias), &snapshot).1).0, ["b"]);
    assert!(subscriber.on_request(&ask(&alias), &snapshot).1.is_empty(), "it is subscribed to already");
    assert_eq!(names(&subscriber.on_request(&ask(&uid("x")), &snapshot).1).1, [uid("x")]);
    assert_eq!(names(&subscriber.on_change(&resources(&["x"]))), (vec!["x".into()], vec![uid("b")]));
}

#[test]
fn large_answers_come_in_pieces_below_4_mib() {
    let mut snapshot = Resources::default();
    snapshot.add_bulk(60_000);
    let mut subscriber = Subscriber::default();
    let (_, sent) = subscriber.on_request(&first(ADDRESS), &snapshot);
    assert!(sent.len() > 1);
    assert!(sent.iter().all(|response| response.encoded_len() <= 4 * 1024 * 1024));
    let total: usize = sent.iter().map(|response| response.resources.len()).sum();
    assert_eq!(total, snapshot.of_type(ADDRESS).unwrap().len());
    let removals = subscriber.on_change(&Resources::default());
    assert!(removals.iter().all(|response| response.encoded_len() <= 4 * 1024 * 1024));
    assert_eq!(removals.iter().map(|response| response.removed_resources.len()).sum::<usize>(), total);
}

#[test]
fn a_type_there_is_not_gets_no_answer() {
    assert_eq!(Subscriber::default().on_request(&first("type.googleapis.com/x"), &resources(&[])).1, []);
}
