//! Who is kept out, by which rule, and how fast a new rule takes effect.

use std::{io::Stdout, time::Instant};

use super::{
    live::Live,
    stage::{ECHO, MARKER, Player, SOON, Stage, WEB, text},
};
use crate::lab::{
    apps::capture::Capture,
    control::mesh_file::{Action, Listed, Policy, Rule, Scope, Source, Target},
    node::{field, wait},
    show::{Evidence, Show, Shown, number, seconds},
};

const NO_INTRUDERS: &str = "explicitly denied by: shop/no-intruders";
const STRICT: &str = "explicitly denied by: istio-system/istio_converted_static_strict";
const POLICY_CHANGE: &str = "closed due to policy change";
/// The rule that comes while a connection is live.
const FREEZE: &str = "freeze";

/// Shows it.
pub(super) fn show(stage: &mut Stage, show: &mut Show<Stdout>) {
    show.section("Who is kept out");
    show.doing("trying as the intruder");
    show.fact("intruder denied", intruder(stage));
    show.doing("trying from outside the mesh");
    show.fact("plaintext refused", stranger(stage));
    show.doing("changing the policy under a live connection");
    show.fact("live connection cut", cut(stage));
}

fn intruder(stage: &Stage) -> Shown {
    let (intruder, server) = (&stage.cast.intruder, &stage.cast.servers[0]);
    let rule = refused(stage, intruder, server, NO_INTRUDERS)?;
    Ok(Evidence::new(format!("{} has a valid certificate, and was {rule}", intruder.full_name)))
}

fn stranger(stage: &Stage) -> Shown {
    let (stranger, server) = (&stage.cast.stranger, &stage.cast.servers[0]);
    let capture = Capture::start(&stage.namespace(server)?, MARKER.as_bytes()).map_err(text)?;
    let rule = refused(stage, stranger, server, STRICT);
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

/// Has `from` ask the server, which must not answer; returns what the server's node says of it, from `rule` on.
fn refused(stage: &Stage, from: &Player, server: &Player, rule: &str) -> Result<String, String> {
    let since = stage.two.mark();
    if let Ok(answer) = stage.get(from, server.at(WEB))? {
        return Err(format!("{} got an answer: {} {}", from.name, answer.status, answer.body.trim()));
    }
    let address = format!("{}:", from.ip);
    let line = stage.two.access(since, SOON, |line| {
        field(line, "direction") == "inbound" && field(line, "src.addr").starts_with(&address)
    })?;
    let error = field(&line, "error");
    if error.contains(rule) { Ok(rule.to_owned()) } else { Err(format!("{}: {error}", from.name)) }
}

fn cut(stage: &mut Stage) -> Shown {
    let (client, server) = (stage.cast.client.clone(), stage.cast.servers[0].clone());
    let live = Live::open(&stage.route(&client, server.at(ECHO))?)?;
    let (since, mut frozen) = (stage.two.mark(), stage.mesh.clone());
    frozen.policies.push(freeze());
    let changed = Instant::now();
    stage.serve(frozen)?;
    let ended = live.end();
    let after = while_frozen(stage, &client, &server);
    stage.serve(stage.mesh.clone())?;
    let ended = ended?;
    let Some(at) = ended.at else { return Err(format!("{}: it was not cut", ended.how)) };
    after?;
    let line = stage.two.access(since, SOON, |line| field(line, "error").contains(POLICY_CHANGE))?;
    wait(SOON, || Live::open(&stage.route(&client, server.at(ECHO))?).map(drop))?;
    let time = seconds(at.saturating_duration_since(changed));
    let echoes = number(ended.answered);
    let evidence = Evidence::new(format!("{time} after the control plane got the rule, {echoes} echoes in"))
        .detail(format!("node two: {}", field(&line, "error")))
        .detail("other ports went on being served; with the rule gone, new connections were let in again");
    Ok(evidence)
}

/// The rule holds for what it says, and for nothing else.
fn while_frozen(stage: &mut Stage, client: &Player, server: &Player) -> Result<(), String> {
    stage.settle()?;
    stage.got(client, server.at(WEB))?;
    match Live::open(&stage.route(client, server.at(ECHO))?) {
        Ok(_) => Err("a new connection was let in although the rule forbids it".to_owned()),
        Err(_) => Ok(()),
    }
}

/// Keeps the client from the echo server.
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
