use std::collections::BTreeMap;

use crate::support::*;

/// Restarts that a supervisor tolerates in a minute.
const TOLERATED: usize = 3;

/// Workers whose loss must cost no connection: all but the owners of connections and of tunnels.
fn harmless(lab: &Lab, node: &str) -> Vec<Node> {
    let owns = |actor: &Node| ["conns", "tunnel"].contains(&actor.is.as_str());
    actors(lab, node).into_iter().filter(|actor| actor.kind == "worker" && !owns(actor)).collect()
}

/// The same in rounds, in each of which no supervisor has more to tolerate than it does.
fn rounds(lab: &Lab, node: &str) -> Vec<Vec<Node>> {
    let mut rounds: Vec<Vec<Node>> = Vec::new();
    let mut siblings: BTreeMap<String, usize> = BTreeMap::new();
    for actor in harmless(lab, node) {
        let parent = actor.path.rsplit_once('/').unwrap().0.to_owned();
        let before = siblings.entry(parent).or_default();
        let round = *before / TOLERATED;
        *before += 1;
        if rounds.len() <= round {
            rounds.push(Vec::new());
        }
        rounds[round].push(actor);
    }
    rounds
}

fn break_all(how: &str, said: impl Fn(&str, &str) -> bool) {
    // These may take long: they are let be, and come back by themselves.
    let may_hang = |actor: &Node| how == "hang" && ["mesh", "policy"].contains(&actor.is.as_str());
    let mut lab = raise();
    wires(&lab);
    let mut broken = 0;
    for round in rounds(&lab, "one") {
        renew(&mut lab, "one");
        let mut wires = wires(&lab);
        for Node { path, is, .. } in round.into_iter().filter(|actor| !may_hang(actor)) {
            let crashes = || counter(&lab, "one", &format!("warren_actor_crashes_total{{kind=\"{is}\"}}"));
            let before = crashes();
            let reason = break_actor(&lab, "one", &path, how);
            assert!(said(&path, &reason), "{path}: {reason}");
            assert_eq!(crashes(), before + 1, "{path}");
            assert_open(&mut wires, &format!("{how} of {path}"));
            broken += 1;
        }
        for wire in wires {
            super::support::wire(&lab, wire.name);
        }
    }
    assert!(broken > 15, "{broken}");
}

pub(crate) fn a_killed_actor_is_restarted_and_costs_no_connection() {
    break_all("kill", |_, reason| reason == "killed");
}

pub(crate) fn a_panicking_actor_is_restarted_and_costs_no_connection() {
    break_all("panic", |path, reason| reason == format!("{path} was told to panic"));
}

pub(crate) fn a_hung_actor_is_found_and_restarted_and_costs_no_connection() {
    break_all("hang", |_, reason| reason.starts_with("hung: no answer for "));
}

pub(crate) fn a_lost_supervisor_comes_back_with_all_that_is_below_it() {
    let mut lab = raise();
    for (path, how, costs) in [
        ("root/admin", "kill", false),
        ("root/meshsup", "panic", false),
        ("root/shards", "kill", false),
        ("root/dataplane/pods", "panic", true),
        ("root/dataplane/pods", "kill", true),
        ("root/dataplane", "kill", true),
    ] {
        renew(&mut lab, "one");
        let mut wires = wires(&lab);
        let before = actors(&lab, "one");
        break_actor(&lab, "one", path, how);
        if costs {
            wires.iter_mut().for_each(Wire::assert_closed);
        } else {
            assert_open(&mut wires, &format!("{how} of {path}"));
        }
        self::wires_again(&lab);
        let after = actors(&lab, "one");
        let missing = before
            .iter()
            .find(|actor| actor.is != "tunnel" && !after.iter().any(|now| now.path == actor.path));
        assert_eq!(missing, None, "{path}");
    }
}

fn wires_again(lab: &Lab) {
    for wire in wires(lab) {
        drop(wire);
    }
}

pub(crate) fn a_lost_tunnel_or_owner_of_connections_costs_its_own_alone() {
    let mut lab = raise();
    let find = |lab: &Lab, is: &str, part: &str| {
        let nodes = actors(lab, "one");
        let found = nodes.iter().find(|actor| actor.is == is && actor.path.contains(part));
        found.unwrap_or_else(|| panic!("no {is} of {part} in {nodes:?}")).path.clone()
    };
    for how in ["kill", "panic"] {
        renew(&mut lab, "one");
        let mut wires = wires(&lab);
        let tunnel = find(&lab, "tunnel", "10.77.2.1:15008");
        break_tunnel(&lab, &tunnel, how);
        wires.remove(0).assert_closed();
        assert_open(&mut wires, &format!("{how} of the tunnel to the server"));

        wires.insert(0, wire(&lab, "client to server"));
        let inbound_only = wires.iter().position(|wire| wire.name == "bare to near").unwrap();
        let mut other_pods = wires.remove(inbound_only);
        let outbound = actors(&lab, "one").into_iter().filter(|actor| actor.is == "conns");
        let owners: Vec<String> = outbound.map(|actor| actor.path).collect();
        let owner_of_client = owners.iter().find(|path| tunnels_below(&lab, path)).unwrap();
        break_actor(&lab, "one", owner_of_client, how);
        wires.iter_mut().for_each(Wire::assert_closed);
        other_pods.echo().unwrap();
        self::wires_again(&lab);
    }
}

/// Whether the pod of this owner of connections has tunnels to peers.
fn tunnels_below(lab: &Lab, conns: &str) -> bool {
    let pod = conns.strip_suffix("/conns").unwrap();
    let prefix = format!("{pod}/tunnels/");
    actors(lab, "one").iter().any(|actor| actor.path.starts_with(&prefix))
}

/// A tunnel's actor may end instead of being restarted, once nothing is left to own.
fn break_tunnel(lab: &Lab, path: &str, how: &str) {
    let before = counter(lab, "one", "warren_actor_crashes_total{kind=\"tunnel\"}");
    chaos(lab, "one", &format!("/actors/{path}/{how}"));
    eventually("crash of the tunnel", || {
        (counter(lab, "one", "warren_actor_crashes_total{kind=\"tunnel\"}") > before).then_some(())
    });
}
