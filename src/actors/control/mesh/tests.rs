use prost_types::Any;

use super::*;
use crate::{
    actors::control::certs::{
        CertsConfig,
        issuer::{Issuer, Issuing},
    },
    protocols::{
        ca::IssueError,
        config::TlsConfig,
        identity::Identity,
        mesh::{
            LocalNode,
            policy::{Action, Scope},
        },
        pb::security::Authorization,
    },
    supervisor::{Fault, Strategy, SupervisorSpec, Tree, faults},
};

struct NoAuthority;

impl Issuer for NoAuthority {
    fn issue<'a>(&'a self, _: &'a Identity, _: String, after: Duration) -> Issuing<'a> {
        Box::pin(async move { Err(IssueError::PeerSilent { after }) })
    }
}

async fn start() -> (MeshTables, Tree) {
    let local =
        LocalNode { network: "".into(), node: Some("n".into()), cluster_domain: "cluster.local".into() };
    let config = CertsConfig::new(Duration::from_secs(3600), TlsConfig::default());
    let tables = MeshTables::new(
        Mesh::new(local),
        Certs::new(config, Arc::new(NoAuthority), Quarantine::default()),
        Quarantine::default(),
    );
    let tree = Tree::start(SupervisorSpec::new("root", Strategy::OneForOne).child(tables.child()));
    (tables, tree.await.unwrap())
}

fn garbled(name: &str) -> Resource {
    Resource { resource: Some(Any { value: vec![0xff; 9], ..Any::default() }), ..policy(name) }
}

#[tokio::test(start_paused = true)]
async fn a_policy_with_an_unknown_value_is_refused_by_name_and_applied_all_the_same() {
    let (tables, tree) = start().await;
    let url = ResourceType::Authorization.type_url();
    let wire =
        Authorization { name: "p".into(), namespace: "ns".into(), action: 77, ..Authorization::default() };
    let any = Any { value: wire.encode_to_vec(), ..Any::default() };
    let push = vec![Resource { resource: Some(any), ..policy("ns/p") }, policy("ns/q")];
    let rejected = tables.apply(url, push, Vec::new()).await.unwrap();
    let reason = "action: unknown value 77".to_owned();
    assert_eq!(rejected, [Rejected { name: "ns/p".into(), reason, applied: true, later: None }]);
    let policies = tables.mesh.policies();
    assert_eq!((policies.get("ns/p").unwrap().action(), policies.len()), (Action::Deny, 2));
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_no_policy_leave_the_last_good_version_or_let_nobody_in() {
    let (tables, tree) = start().await;
    let url = ResourceType::Authorization.type_url();
    assert_eq!(tables.apply(url, vec![policy("ns/good")], Vec::new()).await.unwrap(), []);
    let empty = Resource { resource: None, ..policy("ns/empty") };
    let push = vec![garbled("ns/good"), garbled("ns/new"), empty];
    let rejected = tables.apply(url, push, Vec::new()).await.unwrap();
    let applied: Vec<_> = rejected.iter().map(|r| (r.name.as_str(), r.applied)).collect();
    assert_eq!(applied, [("ns/good", false), ("ns/new", true), ("ns/empty", true)]);
    let policies = tables.mesh.policies();
    let scope = |key| policies.get(key).map(|policy| policy.scope());
    assert_eq!(
        ["ns/good", "ns/new", "ns/empty"].map(scope),
        [Some(Scope::Global), Some(Scope::Unknown), Some(Scope::Unknown)]
    );
    // A removal takes the stand-in away as well.
    assert_eq!(tables.apply(url, Vec::new(), vec!["ns/new".into()]).await.unwrap(), []);
    assert!(tables.mesh.policies().get("ns/new").is_none());
    tree.stop().await;
}

fn policy(name: &str) -> Resource {
    let (namespace, short) = name.split_once('/').unwrap();
    let authorization =
        Authorization { name: short.into(), namespace: namespace.into(), ..Authorization::default() };
    let any = Any { value: authorization.encode_to_vec(), ..Any::default() };
    Resource { name: name.into(), resource: Some(any), ..Resource::default() }
}

#[tokio::test(start_paused = true)]
async fn a_resource_that_crashed_the_actor_twice_says_when_it_may_be_tried_again_and_then_is_applied() {
    let (tables, tree) = start().await;
    let url = ResourceType::Authorization.type_url();
    faults::arm("cursed/policy", 2).unwrap();
    for _ in 0..2 {
        let lost = tables.apply(url, vec![policy("cursed/policy")], Vec::new()).await;
        assert!(lost.is_err(), "{lost:?}");
    }
    let push = vec![policy("cursed/policy"), policy("sound/policy")];
    let [rejected] = tables.apply(url, push, Vec::new()).await.unwrap().try_into().unwrap();
    assert_eq!(rejected.name, "cursed/policy");
    let Later { resource, after } = *rejected.later.unwrap();
    assert!(after <= Duration::from_secs(36) && after > Duration::from_secs(20), "{after:?}");
    let policies = tables.mesh.policies();
    assert!(policies.get("sound/policy").is_some(), "the rest is applied");
    // Nothing of it is known, so it lets nobody in where it may apply.
    assert_eq!(policies.get("cursed/policy").unwrap().scope(), Scope::Unknown);
    assert!(rejected.applied);
    tokio::time::advance(after).await;
    assert_eq!(tables.apply(url, vec![resource], Vec::new()).await.unwrap(), []);
    assert_eq!((tables.mesh.policies().len(), tables.quarantine.list()), (2, vec![]));
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn pushes_wait_for_their_turn_outside_the_mailbox() {
    let (tables, tree) = start().await;
    tree.handle().inject("root/mesh", Fault::Hang(Duration::from_secs(10))).unwrap();
    let url = ResourceType::Address.type_url();
    let mut pushes: Vec<_> =
        (0..50).map(|_| Box::pin(tables.apply(url, Vec::new(), vec!["gone".to_owned()]))).collect();
    for push in &mut pushes {
        let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(push.as_mut().poll(cx))).await;
        assert!(polled.is_pending());
    }
    assert_eq!(tree.handle().find("root/mesh").unwrap().load.depth, 1);
    // A stream that is given up leaves its push and the permit behind.
    drop(pushes);
    assert_eq!(tree.handle().find("root/mesh").unwrap().load.depth, 1);
    assert_eq!(tables.apply(url, Vec::new(), Vec::new()).await.unwrap().len(), 0);
    assert_eq!(*tables.changed().borrow(), 2, "the one left behind, and the last");
    tree.stop().await;
}
