//! Explanations: what they say in each case, and that they say what connections get.

mod decisions;

use std::{net::SocketAddr, sync::Arc};

use rand::{SeedableRng, rngs::SmallRng};

use super::*;
use crate::protocols::{
    addr::OrigDst,
    config::ListenConfig,
    identity::Identity,
    mesh::{
        Mesh, PolicyTable, Workload,
        fixtures::{NAMESPACE, TestMesh, pod, service},
        policy::{Policy, PolicyChange},
    },
    pb::{
        security::{self as pb, string_match::MatchType},
        workload::load_balancing::{Mode, Scope},
    },
    route::Suspicion,
};

/// A proxy that serves the pods of its node, of which one has tunnels.
struct Node(Mesh);

impl Here for Node {
    fn pods(&self) -> Vec<String> {
        vec!["ns1/client".into(), "ns1/near".into()]
    }

    fn serves(&self, workload: &Workload) -> bool {
        self.0.local().node.as_deref() == Some(workload.node())
    }

    fn tunnels(&self, client: &Workload, _: SocketAddr) -> Option<usize> {
        self.serves(client).then_some(2)
    }

    fn lacks_certificate(&self, identity: &Identity) -> Option<String> {
        (identity.service_account() == "sa-bare").then(|| "no authority answers".into())
    }

    fn is_absent(&self, policy: &str) -> bool {
        policy.ends_with("/absent")
    }

    fn suspecting(&self, _: &Workload, _: OrigDst, route: &mut dyn FnMut(Option<Suspicion<'_>>)) {
        route(None);
    }
}

fn settings() -> WhySettings {
    WhySettings {
        ports: ListenConfig::default().ports,
        localhost_app_tunnel: true,
        ipv6: true,
        preferred_namespace: None,
        on_demand: false,
    }
}

fn ask(t: &TestMesh, source: &str, destination: &str) -> Result<Explanation, AskedError> {
    let (settings, node) = (settings(), Node(t.mesh.clone()));
    let proxy = Proxy { mesh: &t.mesh, settings: &settings, here: &node };
    explain(proxy, source, destination, &mut SmallRng::seed_from_u64(1))
}

/// All sentences of an explanation, a line each, indented by depth.
fn lines(explained: &Explanation) -> String {
    fn add(sentence: &Sentence, depth: usize, text: &mut String) {
        text.push_str(&format!("{}{}\n", "  ".repeat(depth), sentence.says));
        sentence.because.iter().for_each(|below| add(below, depth + 1, text));
    }
    let mut text = format!("{}\n", explained.verdict);
    explained.named.iter().for_each(|sentence| add(sentence, 0, &mut text));
    let sides = [&explained.outbound, &explained.inbound];
    sides.into_iter().flatten().for_each(|side| add(&side.sentence, 0, &mut text));
    text
}

fn set_policies(t: &mut TestMesh, policies: Vec<pb::Authorization>) {
    let change = |wire: pb::Authorization| {
        PolicyChange::Upsert(Policy::decode(&format!("{}/{}", wire.namespace, wire.name), wire).0)
    };
    let table = PolicyTable::default().with(policies.into_iter().map(change).collect());
    t.writer.set_policies(Arc::new(table));
}

fn policy(name: &str, action: pb::Action, matches: Vec<pb::Match>) -> pb::Authorization {
    pb::Authorization {
        name: name.into(),
        namespace: NAMESPACE.into(),
        scope: pb::Scope::Namespace.into(),
        action: action.into(),
        rules: vec![pb::Rule { clauses: vec![pb::Clause { matches }] }],
        ..Default::default()
    }
}

fn from_namespace(name: &str) -> pb::Match {
    let text = pb::StringMatch { match_type: Some(MatchType::Exact(name.into())) };
    pb::Match { namespaces: vec![text], ..Default::default() }
}

fn to_port(port: u32) -> pb::Match {
    pb::Match { destination_ports: vec![port], ..Default::default() }
}

fn client() -> TestMesh {
    TestMesh::new().with(pod("client", "10.0.0.99").hbone().local())
}

#[test]
fn an_allowed_connection_names_service_endpoints_tunnel_and_policies() {
    let mut t = client()
        .with(service("web.ns1.svc.cluster.local", "10.1.0.1").balancing(Mode::Failover, &[Scope::Node]))
        .with(pod("near", "10.0.0.1").hbone().local().of("web.ns1.svc.cluster.local", &[]))
        .with(pod("far", "10.0.0.2").hbone().of("web.ns1.svc.cluster.local", &[]))
        .with(pod("ill", "10.0.0.3").hbone().unhealthy().of("web.ns1.svc.cluster.local", &[]));
    set_policies(
        &mut t,
        vec![
            policy("no-admin", pb::Action::Deny, vec![to_port(9090)]),
            policy("own", pb::Action::Allow, vec![from_namespace("ns2"), from_namespace("ns1")]),
        ],
    );
    let explained = ask(&t, "ns1/client", "web").unwrap();
    let said = lines(&explained);
    let want = "\
allowed
the name web stands for 10.1.0.1 to this client
the proxy of ns1/client asks for 10.0.0.1:8080 through a tunnel to 10.0.0.1:15008
  the address is one of the service ns1/web.ns1.svc.cluster.local
  the service ns1/web.ns1.svc.cluster.local takes ns1/near of its 3 endpoints, port 8080 for its port 80
    ns1/near at 10.0.0.1:15008 with nearness 1 is taken
    ns1/far at 10.0.0.2:15008 with nearness 0 is passed over: another one is nearer
    ns1/ill is passed over: it is not ready
  the client is spiffe://cluster.local/ns/ns1/sa/sa-client
  the other end has to be spiffe://cluster.local/ns/ns1/sa/sa-near
  this proxy serves both pods, so that no tunnel needs to be dialled
the proxy of ns1/near lets the connection in, as the policy ns1/own allows it
  ns1/near runs on node node-1, and this proxy serves it
  the client is spiffe://cluster.local/ns/ns1/sa/sa-client, by mutual TLS
  the DENY policy ns1/no-admin, of the namespace, does not match
    rule 1 does not match
      the port 8080 is not among 9090
  the ALLOW policy ns1/own, of the namespace, matches by rule 1
    rule 1 matches
      the client's namespace ns1 is among ns1
";
    assert_eq!(said, want);
    assert_eq!(explained.next_hop.unwrap().protocol, "HBONE");
}

#[test]
fn a_refusal_names_the_policy_and_the_rule_or_what_keeps_each_from_allowing() {
    let mut t = client().with(pod("far", "10.0.0.2").hbone());
    let dry = pb::Authorization { dry_run: true, ..policy("dry", pb::Action::Deny, vec![to_port(80)]) };
    set_policies(
        &mut t,
        vec![
            policy("by-port", pb::Action::Deny, vec![to_port(443), to_port(80)]),
            policy("others", pb::Action::Allow, vec![from_namespace("ns2")]),
            dry,
        ],
    );
    let said = lines(&ask(&t, "client", "ns1/far:80").unwrap());
    for part in [
        "denied\nns1/far is the workload Kubernetes//Pod/ns1/far, at 10.0.0.2\n",
        "the address is the workload's own: Kubernetes//Pod/ns1/far\n",
        "2 tunnels are open\n",
        "\nthe proxy of ns1/far denies the connection by rule 1 of the policy ns1/by-port\n",
        "ns1/far runs on node node-2, whose proxy decides by its own tables; these are the tables here\n",
        "the DENY policy ns1/dry, of the namespace, a dry run without effect, matches by rule 1\n",
        "rule 1 matches\n      the port 80 is among 80\n",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let said = lines(&ask(&t, "10.0.0.99", "10.0.0.2:8080").unwrap());
    let want = "\nthe proxy of ns1/far denies the connection, as ALLOW policies apply and none allows it\n";
    assert!(said.starts_with("denied\n") && said.contains(want), "{said}");
    assert!(said.contains("      the client's namespace ns1 is not among ns2\n"), "{said}");
}

#[test]
fn each_way_out_of_this_proxy_has_its_verdict() {
    let t = client()
        .with(pod("bare", "10.0.0.98").hbone().local())
        .with(pod("wp", "10.9.0.1").hbone())
        .with(pod("plain", "10.0.0.4"))
        .with(service("way", "10.1.0.2").waypoint("10.9.0.1"))
        .with(service("empty", "10.1.0.3"))
        .with(service("away", "10.1.0.4"))
        .with(pod("remote", "").hbone().network("n2").network_gateway("10.9.0.2").of("away", &[]))
        .with(pod("gw", "10.9.0.2"))
        .with(pod("behind", "10.0.0.5").hbone().waypoint("10.8.8.8"));
    for (source, destination, want) in [
        (
            "ns1/client",
            "1.2.3.4:443",
            "allowed\nthe proxy of ns1/client sends the connection to 1.2.3.4:443 as plain",
        ),
        ("ns1/client", "ns1/plain:80", "ns1/plain has no proxy in front, so no policy is asked\n"),
        ("ns1/client", "ns1/way", "the waypoint ns1/wp decides then, by policies that are its own\n"),
        ("ns1/client", "ns1/way", "the waypoint /10.9.0.1:15008 is in front of the service ns1/way\n"),
        ("ns1/client", "ns1/away", "through a tunnel inside a tunnel to the gateway 10.9.0.2:15008\n"),
        ("ns1/client", "ns1/away", "ns1/remote is on the network n2, behind the gateway /10.9.0.2:15008\n"),
        (
            "ns1/client",
            "ns1/empty",
            "denied\nns1/empty is the service ns1/empty, at 10.1.0.3\nthe proxy of ns1/client refuses the connection: no healthy upstream: 10.1.0.3:80\n",
        ),
        ("ns1/client", "ns1/empty", "the service ns1/empty has no endpoint for port 80\n"),
        ("ns1/client", "ns1/behind:80", "refuses the connection: unknown waypoint: /10.8.8.8:15008\n"),
        ("ns1/client", "10.0.0.99:15001", "refuses the connection: attempted recursive call to ourselves\n"),
        ("ns1/bare", "10.9.0.1:80", "unknown\nthe proxy of ns1/bare asks for"),
        ("ns1/bare", "10.9.0.1:80", "the client has no certificate: no authority answers\n"),
        ("1.2.3.4", "ns1/client:80", "the client has no identity: the connection comes as plain TCP\n"),
        ("1.2.3.4", "ns1/way", "whose endpoint others choose: ask for a pod\n"),
    ] {
        let explained = ask(&t, source, destination).unwrap();
        let said = lines(&explained);
        assert!(said.contains(want), "{source} {destination}: {said}");
    }
    let verdict = |destination| ask(&t, "ns1/client", destination).unwrap().verdict;
    assert_eq!(verdict("ns1/way"), Verdict::Unknown);
    assert_eq!(verdict("ns1/away"), Verdict::Unknown);
    assert_eq!(verdict("ns1/plain:80"), Verdict::Allowed);
}

#[test]
fn what_does_not_exist_is_answered_with_what_there_is() {
    let t = client()
        .with(service("web", "10.1.0.1").ports(&[(80, 8080), (443, 8443)]))
        .with(service("elsewhere", "n9/10.1.0.2"));
    for (source, destination, want) in [
        ("ns1/nobody", "web:80", "no pod \"ns1/nobody\"; pods of this node: ns1/client, ns1/near"),
        (
            "ns1/client",
            "wob:80",
            "the mesh has no \"wob\", so name servers are asked for it: ask for an address; services: ns1/elsewhere, ns1/web",
        ),
        ("ns1/client", "ns1/wob:80", "the mesh has no \"ns1/wob\", so name"),
        (
            "ns1/client",
            "ns1/web",
            "ns1/web needs a port, as in ns1/web:80; ports of the service ns1/web: 80, 443",
        ),
        (
            "ns1/client",
            "10.1.0.1",
            "10.1.0.1 needs a port, as in 10.1.0.1:80; ports of the service ns1/web: 80, 443",
        ),
        ("ns1/client", "ns1/client", "ns1/client needs a port, as in ns1/client:80; it is no service"),
        ("ns1/client", "ns1/elsewhere:80", "ns1/elsewhere has no address on the client's network"),
    ] {
        let error = ask(&t, source, destination).unwrap_err().to_string();
        assert!(error.starts_with(want), "{source} {destination}: {error}");
    }
}

#[test]
fn an_explanation_survives_its_json() {
    let t = client().with(pod("far", "10.0.0.2").hbone());
    let explained = ask(&t, "ns1/client", "10.0.0.2:80").unwrap();
    let text = serde_json::to_string(&explained).unwrap();
    assert_eq!(serde_json::from_str::<Explanation>(&text).unwrap(), explained);
    assert!(text.contains(r#""authority":"10.0.0.2:80""#), "{text}");
}

#[test]
fn many_endpoints_are_counted_rather_than_listed() {
    let mut t = client().with(service("web", "10.1.0.1"));
    for index in 0..200 {
        let made = pod(&format!("p{index:03}"), &format!("10.2.0.{index}")).of("web", &[]);
        t.put(if index % 2 == 0 { made } else { made.unhealthy() });
    }
    let said = lines(&ask(&t, "ns1/client", "ns1/web").unwrap());
    assert!(
        said.contains("76 more may be used\n") && said.contains("92 more are passed over: it is not ready\n"),
        "{said}"
    );
    assert!(said.lines().count() < 50, "{said}");
}
