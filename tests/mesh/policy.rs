//! Authorization: who is let in, and what happens to live connections when that changes.

use std::{thread, time::Duration};

use warren::lab::control::resources::ResourceFault;

use crate::{
    logs::{access, line, log},
    metrics::{metrics, metrics_show},
    support::{self, *},
    tunnel::{self, Ask, Said, certificate, id},
};

const REJECTED: &str = "connection closed due to policy rejection: ";

/// A DENY of whatever `account` sends to the pods.
pub(crate) fn deny(name: &str, account: &str, pods: &str) -> String {
    format!(
        "  - {{name: {name}, action: DENY, pods: [{pods}], rules: [{{from: {{serviceAccounts: [default/{account}]}}}}]}}\n"
    )
}

pub(crate) fn turned_away(lab: &Lab, pod: &str, to: &str) {
    let end = support::ask(lab.pod(pod).unwrap(), addr(to));
    assert!(is_turned_away(&end), "{pod} to {to}: {end:?}");
}

pub(crate) fn an_allow_policy_that_does_not_match_is_401_and_closed() {
    let allow = "
policies:
  - {name: only-near, action: ALLOW, pods: [server], rules: [{from: {serviceAccounts: [default/near]}}]}
";
    let mut lab = raise(&format!("{MESH}{allow}"));
    let (server, to) = (id("server"), addr("10.77.2.1:15008"));
    for (name, said) in [("client", Said::Status(401)), ("near", Said::Echoed)] {
        let cert = certificate(&mut lab, &id(name));
        let asked = Ask::new(to, &cert, &server, SERVER);
        assert_eq!(tunnel::ask(lab.pod("bare").unwrap(), &asked), said, "{name}");
    }
    turned_away(&lab, "client", SERVER);
    open(&lab, "near", SERVER).unwrap();
    // Plaintext has no identity that could be allowed.
    turned_away(&lab, "bare", SERVER);

    let why = format!("{REJECTED}allow policies exist, but none allowed");
    let (client, there) = (id("client"), ("direction", "inbound"));
    line(&lab, "two", &[there, ("src.identity", &client), ("src.workload", "client"), ("error", &why)]);
    line(&lab, "two", &[there, ("src.identity", ""), ("src.workload", "bare"), ("error", &why)]);
    let here = line(&lab, "one", &[("direction", "outbound"), ("src.identity", &client)]);
    assert!(here.field("error").starts_with("http status: 401"), "{here:#?}");
    for (node, reporter, flag) in [("two", "destination", "DENY"), ("one", "source", "CONNECT")] {
        metrics_show(&lab, node, &format!("{flag} of {reporter}"), |metrics| {
            let labels = [("reporter", reporter), ("source_workload", "client"), ("response_flags", flag)];
            let sum = |name| metrics.sum(name, &labels);
            sum("istio_tcp_connections_closed_total") == 1.0
                && sum("istio_tcp_connections_failed_total") == 1.0
                && sum("istio_tcp_connections_opened_total") == 0.0
        });
    }
}

pub(crate) fn strict_refuses_plaintext_and_nothing_else() {
    let mut lab = raise(MESH);
    open(&lab, "bare", SERVER).unwrap();
    change(&mut lab, &format!("{MESH}strict: [default]\n"));
    turned_away(&lab, "bare", SERVER);
    turned_away(&lab, "bare", NEAR);
    open(&lab, "client", SERVER).unwrap();
    open(&lab, "client", NEAR).unwrap();
    // The uncaptured pod has no proxy that could refuse.
    open(&lab, "client", BARE).unwrap();
    let why = format!("{REJECTED}explicitly denied by: istio-system/istio_converted_static_strict");
    line(&lab, "two", &[("src.workload", "bare"), ("src.identity", ""), ("error", &why)]);
    change(&mut lab, MESH);
    open(&lab, "bare", SERVER).unwrap();
}

pub(crate) fn a_policy_change_cuts_live_connections() {
    let mut lab = raise(MESH);
    let mut denied = open(&lab, "client", SERVER).unwrap();
    let mut others = ["near", "bare"].map(|pod| open(&lab, pod, SERVER).unwrap());
    change(&mut lab, &format!("{MESH}policies:\n{}", deny("no-client", "client", "server")));
    let end = end_of(&mut denied);
    assert!(is_turned_away(&end), "{end:?}");
    let why = "connection closed due to policy change";
    line(&lab, "two", &[("direction", "inbound"), ("src.workload", "client"), ("error", why)]);
    metrics_show(&lab, "two", "DENY of the connection that was cut", |metrics| {
        let labels = [("source_workload", "client"), ("response_flags", "DENY")];
        metrics.sum("istio_tcp_connections_closed_total", &labels) == 1.0
    });
    turned_away(&lab, "client", SERVER);
    for other in &mut others {
        echo(other, b"still here").unwrap();
    }
    // Plaintext connections are cut just so.
    change(&mut lab, &format!("{MESH}strict: [default]\n"));
    let [near, bare] = &mut others;
    assert!(is_turned_away(&end_of(bare)));
    echo(near, b"still here").unwrap();
    line(&lab, "two", &[("direction", "inbound"), ("src.workload", "bare"), ("error", why)]);
    // A policy that is gone lets in again.
    change(&mut lab, MESH);
    open(&lab, "client", SERVER).unwrap();
}

pub(crate) fn a_policy_bound_by_a_workload_change_cuts_live_connections() {
    let bound = |pods: &str| format!("{MESH}policies:\n{}", deny("no-client", "client", pods));
    // Bound to another pod, the policy itself is known already and will not be sent again.
    let mut lab = raise(&bound("near"));
    let mut denied = open(&lab, "client", SERVER).unwrap();
    let mut other = open(&lab, "near", SERVER).unwrap();
    let mut plain = open(&lab, "bare", SERVER).unwrap();
    turned_away(&lab, "client", NEAR);
    change(&mut lab, &bound("near, server"));
    let end = end_of(&mut denied);
    assert!(is_turned_away(&end), "{end:?}");
    let why = "connection closed due to policy change";
    line(&lab, "two", &[("direction", "inbound"), ("src.workload", "client"), ("error", why)]);
    for stream in [&mut other, &mut plain] {
        echo(stream, b"still here").unwrap();
    }
    turned_away(&lab, "client", SERVER);
    change(&mut lab, &bound("near"));
    open(&lab, "client", SERVER).unwrap();
}

pub(crate) fn an_unknown_policy_keeps_everybody_out_until_it_arrives() {
    let settings = [("WARREN_WORKLOAD_TIMEOUT", "1s"), ("WARREN_MISSING_POLICY", "deny")];
    let mut lab = raise_with(MESH, &settings, Default::default());
    let mut live = open(&lab, "near", SERVER).unwrap();
    lab.services().control().unwrap().inject("default/no-client", Some(ResourceFault::Hidden));
    change(&mut lab, &format!("{MESH}policies:\n{}", deny("no-client", "client", "server")));
    // What is live is given up a second after the change; who comes in between still has a second of its own.
    thread::park_timeout(Duration::from_millis(400));
    // What it would say is not known: nobody is let in, in the end, with its name as the reason.
    for pod in ["near", "client", "bare"] {
        turned_away(&lab, pod, SERVER);
    }
    let end = end_of(&mut live);
    assert!(is_turned_away(&end), "{end:?}");
    for (pod, node) in [("near", "two"), ("client", "two"), ("bare", "two")] {
        eventually("a line that names the policy", || {
            let names = |line: &crate::logs::Line| {
                line.has(&[("src.workload", pod)]) && line.field("error").contains("default/no-client")
            };
            access(&lab, node).into_iter().find(names)
        });
    }
    // Other pods are not concerned.
    open(&lab, "client", NEAR).unwrap();
    lab.services().control().unwrap().inject("default/no-client", None);
    lab.services().settle(LIMIT).unwrap();
    open(&lab, "near", SERVER).unwrap();
    open(&lab, "bare", SERVER).unwrap();
    turned_away(&lab, "client", SERVER);
}

pub(crate) fn a_bad_policy_is_refused_by_name_while_the_rest_applies() {
    /// `action`, field 4 of Authorization, with a value that is not defined.
    const NO_ACTION: [u8; 2] = [4 << 3, 77];
    let policies = |more: &str| format!("{MESH}policies:\n{}{more}", deny("changing", "near", "server"));
    let mut lab = raise(&policies(""));
    turned_away(&lab, "near", SERVER);
    open(&lab, "client", SERVER).unwrap();
    for name in ["default/changing", "default/new"] {
        lab.services().control().unwrap().inject(name, Some(ResourceFault::Extended(NO_ACTION.to_vec())));
    }
    let more = format!("{}{}", deny("another", "client", "server"), deny("new", "bare", "near"));
    change(&mut lab, &policies(&more));
    let refused = |lab: &mut Lab, name: &str| {
        let seen = lab.services().control().unwrap().seen();
        let seen = seen.borrow();
        seen.latest_nacks.iter().filter(|nack| nack.message.contains(name)).count()
    };
    for name in ["default/changing", "default/new"] {
        eventually(&format!("refusal of {name}"), || (refused(&mut lab, name) > 0).then_some(()));
        for node in ["one", "two"] {
            eventually(&format!("{name} in the log of {node}"), || {
                log(&lab, node).contains(name).then_some(())
            });
        }
    }
    assert_eq!(refused(&mut lab, "default/another"), 0);
    // The rest of the push applies, and so does what is known of the refused ones: whom they are about.
    turned_away(&lab, "client", SERVER);
    turned_away(&lab, "near", SERVER);
    open(&lab, "client", NEAR).unwrap();
    for name in ["default/changing", "default/new"] {
        lab.services().control().unwrap().inject(name, None);
    }
    lab.services().settle(LIMIT).unwrap();
    open(&lab, "client", NEAR).unwrap();
    turned_away(&lab, "near", SERVER);
}

pub(crate) fn a_namespace_policy_with_an_unknown_value_denies_also_at_the_start_and_the_node_serves() {
    /// A rule, field 5 of Authorization, whose only pattern sets no kind of match.
    const UNSURE: [u8; 8] = [0x2a, 6, 0x0a, 4, 0x12, 2, 0x0a, 0];
    let rule = "rules: [{from: {namespaces: [nowhere]}}]";
    let with = |scope: &str| {
        format!("{MESH}policies:\n  - {{name: unsure, scope: {scope}, action: DENY, {rule}}}\n")
    };
    let mut lab = raise(&with("namespace"));
    open(&lab, "client", SERVER).unwrap();
    lab.services()
        .control()
        .unwrap()
        .inject("default/unsure", Some(ResourceFault::Extended(UNSURE.to_vec())));
    lab.services().settle(LIMIT).unwrap();
    turned_away(&lab, "client", SERVER);
    turned_away(&lab, "bare", SERVER);
    let why = format!("{REJECTED}explicitly denied by: default/unsure (a value could not be decoded)");
    line(&lab, "two", &[("direction", "inbound"), ("src.workload", "client"), ("error", &why)]);

    // A proxy that finds the policy there at its start becomes ready all the same.
    drop(lab.take_proxy("two").unwrap());
    let mut again = lab.launch("two", &launch()).unwrap();
    lab.wait_ready_of("two", &mut again).unwrap();
    turned_away(&lab, "client", SERVER);
    lab.services().control().unwrap().inject("default/unsure", None);
    open_at_last(&lab, "client", SERVER);
}

/// Names a policy that the control plane does not have.
fn name_a_policy_that_is_not_there(lab: &mut Lab) {
    lab.services().control().unwrap().inject("default/no-client", Some(ResourceFault::Hidden));
    change(lab, &format!("{MESH}policies:\n{}", deny("no-client", "client", "server")));
}

pub(crate) fn a_policy_that_the_control_plane_does_not_have_does_not_exist_until_it_comes() {
    let settings = [("WARREN_WORKLOAD_TIMEOUT", "1s")];
    let mut lab = raise_with(MESH, &settings, Default::default());
    let missing = |lab: &Lab, count: f64| {
        metrics_show(lab, "two", &format!("{count} missing policies"), |metrics| {
            metrics.sum("warren_policies_missing", &[]) == count
        });
    };
    let mut live = open(&lab, "client", SERVER).unwrap();
    name_a_policy_that_is_not_there(&mut lab);
    open(&lab, "near", SERVER).unwrap();
    let mut client = open(&lab, "client", SERVER).unwrap();
    missing(&lab, 1.0);
    echo(&mut live, b"still here").unwrap();
    // What is remembered lasts while the control plane is away.
    lab.services().control().unwrap().faults().mute_discovery(true);
    lab.services().control().unwrap().faults().cut_connections();
    open(&lab, "bare", SERVER).unwrap();
    lab.services().control().unwrap().faults().mute_discovery(false);
    lab.services().control().unwrap().inject("default/no-client", None);
    for live in [&mut live, &mut client] {
        assert!(is_turned_away(&end_of(live)));
    }
    turned_away(&lab, "client", SERVER);
    open(&lab, "near", SERVER).unwrap();
    missing(&lab, 0.0);
    let said =
        log(&lab, "two").matches("a workload names a policy that the control plane does not have").count();
    assert_eq!(said, 1);
}

pub(crate) fn a_live_connection_gets_the_last_word_on_a_missing_policy_while_pushes_go_on() {
    let settings = [("WARREN_WORKLOAD_TIMEOUT", "2s"), ("WARREN_MISSING_POLICY", "deny")];
    let mut lab = raise_with(MESH, &settings, Default::default());
    let mut live = open(&lab, "near", SERVER).unwrap();
    name_a_policy_that_is_not_there(&mut lab);
    live.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    // Every push is sooner than the time that a policy may take.
    let deadline = std::time::Instant::now() + LIMIT;
    for push in 0.. {
        let more = deny(&format!("other-{}", push % 2), "nobody", "near");
        change(&mut lab, &format!("{MESH}policies:\n{}{more}", deny("no-client", "client", "server")));
        match std::io::Read::read(&mut live, &mut [0]) {
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            _ => break,
        }
        assert!(std::time::Instant::now() < deadline, "{push} pushes, and the connection is still open");
    }
    let why = "connection closed due to policy change";
    line(&lab, "two", &[("direction", "inbound"), ("src.workload", "near"), ("error", why)]);
}

pub(crate) fn a_push_has_only_the_connections_concerned_checked_again_and_no_dry_run_logged_again() {
    let dry = "  - {name: trial, action: DENY, dryRun: true, pods: [server, near], rules: [{from: {namespaces: [default]}}]}\n";
    let mesh = |near: &str, server: &str| {
        format!(
            "{MESH}policies:\n{dry}{}{}",
            deny("of-near", near, "near"),
            deny("of-server", server, "server")
        )
    };
    let settings = [("AUTHZ_POLICY_INFO_LOGGING", "true")];
    let mut lab = raise_with(&mesh("nobody", "nobody"), &settings, Default::default());
    let mut live: Vec<_> = (0..3).map(|_| open(&lab, "client", SERVER).unwrap()).collect();
    live.push(open(&lab, "client", NEAR).unwrap());
    let checks = |lab: &Lab, node: &str| metrics(lab, node).sum("warren_policy_rechecks_total", &[]);
    let dry_runs = |lab: &Lab, node: &str| log(lab, node).matches("dry-run policy").count();
    eventually("dry runs", || (dry_runs(&lab, "two") == 3 && dry_runs(&lab, "one") == 1).then_some(()));
    assert_eq!(["one", "two"].map(|node| checks(&lab, node)), [0.0, 0.0]);
    // The first push since the pods came has everything checked. Then a policy of one pod concerns that pod alone.
    for (near, server, so_many) in
        [("one", "nobody", [1.0, 3.0]), ("two", "nobody", [2.0, 3.0]), ("two", "one", [2.0, 6.0])]
    {
        change(&mut lab, &mesh(near, server));
        eventually(&format!("{so_many:?} checks"), || {
            (["one", "two"].map(|node| checks(&lab, node)) == so_many).then_some(())
        });
    }
    for stream in &mut live {
        echo(stream, b"still here").unwrap();
    }
    assert_eq!((dry_runs(&lab, "one"), dry_runs(&lab, "two")), (1, 3));
}
