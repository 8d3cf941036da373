use super::*;
use crate::protocols::{
    mesh::{
        fixtures::{NAMESPACE, TestMesh, pod},
        policy::{PolicyChange, PolicyTable},
    },
    pb::security as pb,
};

fn change(key: &str, scope: pb::Scope, dry_run: bool) -> PolicyChange {
    let (namespace, name) = key.split_once('/').unwrap();
    let wire = pb::Authorization {
        name: name.into(),
        namespace: namespace.into(),
        scope: scope.into(),
        dry_run,
        ..Default::default()
    };
    PolicyChange::Upsert(Authorization::decode(key, wire).0)
}

#[test]
fn only_what_decides_about_a_pod_has_its_connections_checked_again() {
    let bound =
        pod("server", "10.0.0.2").local().edit(|pb| pb.authorization_policies = vec!["x/bound".into()]);
    let mut bed = TestMesh::new().with(bound);
    let mesh = bed.mesh.clone();
    let uid = mesh.all_workloads()[0].uid().to_owned();
    let basis = || Basis::of(&mesh.workload(&uid).unwrap(), &mesh);
    let mut table = PolicyTable::default();
    let mut writer = mesh.writer();
    let mut set = |changes: Vec<PolicyChange>| {
        table = table.with(changes);
        writer.set_policies(Arc::new(table.clone()));
    };
    let (own, other) = (format!("{NAMESPACE}/own"), "elsewhere/other");
    let mut last = basis();
    for (what, changes, concerned) in [
        ("a policy of another namespace", vec![change(other, pb::Scope::Namespace, false)], false),
        ("a policy that others name", vec![change("x/else", pb::Scope::WorkloadSelector, false)], false),
        ("a policy of the namespace", vec![change(&own, pb::Scope::Namespace, false)], true),
        ("the same once more", vec![change(&own, pb::Scope::Namespace, false)], false),
        ("another version", vec![change(&own, pb::Scope::Namespace, true)], true),
        ("one that the workload names", vec![change("x/bound", pb::Scope::WorkloadSelector, false)], true),
        ("one of the mesh", vec![change("root/all", pb::Scope::Global, false)], true),
        ("a removal elsewhere", vec![PolicyChange::Remove(other.into())], false),
        ("a removal", vec![PolicyChange::Remove(own.clone())], true),
        ("the removal of one that is named", vec![PolicyChange::Remove("x/bound".into())], true),
    ] {
        set(changes);
        let now = basis();
        assert_eq!(!last.is(&now), concerned, "{what}");
        last = now;
    }
    // A change of the workload counts if it changes its policies.
    let edited = |keys: &[&str], cluster: &str| {
        pod("server", "10.0.0.2").local().edit(|pb| {
            pb.authorization_policies = keys.iter().map(|key| (*key).into()).collect();
            pb.cluster_id = cluster.into();
        })
    };
    for (keys, cluster, concerned) in
        [(&["x/bound"][..], "other", false), (&["x/bound", "x/else"], "other", true), (&[], "other", true)]
    {
        bed.put(edited(keys, cluster));
        let now = basis();
        assert_eq!(!last.is(&now), concerned, "{keys:?} {cluster}");
        last = now;
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_holds_until_a_policy_is_due() {
    let due = Instant::now() + std::time::Duration::from_secs(5);
    let checked = |due| Checked { basis: Basis::default(), due };
    assert!(checked(None).holds(&Basis::default()) && checked(Some(due)).holds(&Basis::default()));
    tokio::time::advance(std::time::Duration::from_secs(5)).await;
    assert!(checked(None).holds(&Basis::default()) && !checked(Some(due)).holds(&Basis::default()));
}
