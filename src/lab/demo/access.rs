//! Shows which clients are refused, by which rule, and how fast a new rule takes effect.

use std::{io::Stdout, time::Instant};

use super::{
    demo_mesh::{DemoMesh, DemoPod, ECHO, MARKER, SOON, WEB, text},
    live::Live,
};
use crate::lab::{
    apps::capture::Capture,
    control::mesh_file::{Action, Listed, Policy, Rule, Scope, Source, Target},
    node::{field, wait},
    show::{Evidence, FactResult, Show, number, seconds},
};

const NO_INTRUDERS: &str = "explicitly denied by: shop/no-intruders";
const STRICT: &str = "explicitly denied by: istio-system/istio_converted_static_strict";
const POLICY_CHANGE: &str = "closed due to policy change";
/// The name of the rule that is added while a connection is live.
const FREEZE: &str = "freeze";

/// Shows access control.
pub(super) fn show(demo_mesh: &mut DemoMesh, show: &mut Show<Stdout>) {
    show.section("Who is kept out");
    show.doing("trying as the intruder");
    show.fact("intruder denied", intruder(demo_mesh));
    show.doing("trying from outside the mesh");
    show.fact("plaintext refused", stranger(demo_mesh));
    show.doing("changing the policy under a live connection");
    show.fact("live connection cut", cut(demo_mesh));
}

fn intruder(demo_mesh: &DemoMesh) -> FactResult {
    let (intruder, server) = (&demo_mesh.cast.intruder, &demo_mesh.cast.servers[0]);
    let rule = refused(demo_mesh, intruder, server, NO_INTRUDERS)?;
    Ok(Evidence::new(format!("{} has a valid certificate, and was {rule}", intruder.full_name)))
}

fn stranger(demo_mesh: &DemoMesh) -> FactResult {
    let (stranger, server) = (&demo_mesh.cast.stranger, &demo_mesh.cast.servers[0]);
    let capture = Capture::start(&demo_mesh.namespace(server)?, MARKER.as_bytes()).map_err(text)?;
    let rule = refused(demo_mesh, stranger, server, STRICT);
    let captured = capture.finish().map_err(text)?;
    let rule = rule?;
    if !captured.has_marker() {
        return Err(
            "the capture did not find the marker in a plaintext request: it proves nothing".to_owned()
        );
    }
    let control = format!("the same kind of capture did find {MARKER:?} in this request");
    Ok(Evidence::new(format!("{} was {rule}", stranger.full_name)).detail(control))
}

/// Sends a request from `from` to the server, which must not answer. Returns the access log's text about the refusal,
/// from `rule` on.
fn refused(demo_mesh: &DemoMesh, from: &DemoPod, server: &DemoPod, rule: &str) -> Result<String, String> {
    let since = demo_mesh.two.mark();
    if let Ok(answer) = demo_mesh.get(from, server.at(WEB))? {
        return Err(format!("{} got an answer: {} {}", from.name, answer.status, answer.body.trim()));
    }
    let address = format!("{}:", from.ip);
    let line = demo_mesh.two.access(since, SOON, |line| {
        field(line, "direction") == "inbound" && field(line, "src.addr").starts_with(&address)
    })?;
    let error = field(&line, "error");
    if error.contains(rule) { Ok(rule.to_owned()) } else { Err(format!("{}: {error}", from.name)) }
}

fn cut(demo_mesh: &mut DemoMesh) -> FactResult {
    let (client, server) = (demo_mesh.cast.client.clone(), demo_mesh.cast.servers[0].clone());
    let live = Live::open(&demo_mesh.route(&client, server.at(ECHO))?)?;
    let (since, mut frozen) = (demo_mesh.two.mark(), demo_mesh.mesh.clone());
    frozen.policies.push(freeze());
    let changed = Instant::now();
    demo_mesh.serve(frozen)?;
    let ended = live.end();
    let after = while_frozen(demo_mesh, &client, &server);
    demo_mesh.serve(demo_mesh.mesh.clone())?;
    let ended = ended?;
    let Some(at) = ended.at else { return Err(format!("{}: it was not cut", ended.how)) };
    after?;
    let line = demo_mesh.two.access(since, SOON, |line| field(line, "error").contains(POLICY_CHANGE))?;
    wait(SOON, || Live::open(&demo_mesh.route(&client, server.at(ECHO))?).map(drop))?;
    let time = seconds(at.saturating_duration_since(changed));
    let echoes = number(ended.answered);
    let evidence = Evidence::new(format!("{time} after the control plane got the rule, {echoes} echoes in"))
        .detail(format!("node two: {}", field(&line, "error")))
        .detail("other ports went on being served; with the rule gone, new connections were let in again");
    Ok(evidence)
}

/// Checks that the rule refuses its client, and no other client.
fn while_frozen(demo_mesh: &mut DemoMesh, client: &DemoPod, server: &DemoPod) -> Result<(), String> {
    demo_mesh.settle()?;
    demo_mesh.got(client, server.at(WEB))?;
    match Live::open(&demo_mesh.route(client, server.at(ECHO))?) {
        Ok(_) => Err("a new connection was let in although the rule forbids it".to_owned()),
        Err(_) => Ok(()),
    }
}

/// The rule that keeps the client from the echo server.
fn freeze() -> Policy {
    let client = Listed { any: vec![("front".to_owned(), "client".to_owned())], none: Vec::new() };
    let from = vec![Source { service_accounts: client, ..Source::default() }];
    let ports = Listed { any: vec![ECHO], none: Vec::new() };
    let to = vec![Target { ports, ..Target::default() }];
    Policy {
        name: FREEZE.to_owned(),
        namespace: "shop".to_owned(),
        scope: Scope::Namespace,
        action: Action::Deny,
        dry_run: false,
        pods: Vec::new(),
        rules: vec![Rule { from, to }],
    }
}
