use prost_types::Any;

use super::*;
use crate::{
    actors::control::certs::{
        CertsConfig,
        issuer::{Issuer, Issuing},
    },
    protocols::{ca::IssueError, config::TlsConfig, identity::Identity, mesh::LocalNode},
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
    assert_eq!(tables.mesh.policies().len(), 1, "the rest is applied");
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
