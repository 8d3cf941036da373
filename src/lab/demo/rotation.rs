//! Shows that certificates are renewed while requests go on.

use std::{io::Stdout, thread, time::Duration};

use super::demo_mesh::{CERTIFICATE_LIFE, DemoMesh, DemoPod, SOON, WEB, text};
use crate::lab::{
    apps::{
        capture::Capture,
        load::{self, Report},
    },
    node::{Node, wait},
    show::{Evidence, FactResult, Show, number, seconds},
};

/// The number of renewals of each identity to wait for.
const RENEWALS: usize = 2;
/// The number of clients that keep their connection, and of clients that open one for each request.
const CLIENTS: usize = 2;
/// The running time of a load, longer than any step here takes.
const LOAD_TIME: Duration = Duration::from_secs(40);

/// The number of certificates that an identity got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Count {
    all: usize,
    client: usize,
    server: usize,
}

/// Shows the rotation of certificates.
pub(super) fn show(demo_mesh: &mut DemoMesh, show: &mut Show<Stdout>) {
    show.section(&format!("Certificates that live {}, under load", seconds(CERTIFICATE_LIFE)));
    show.doing("waiting for renewals under load, a few seconds");
    show.fact("rotation", rotation(demo_mesh));
}

fn rotation(demo_mesh: &mut DemoMesh) -> FactResult {
    let (client, [busy, quiet]) = (demo_mesh.cast.client.clone(), demo_mesh.cast.servers.clone());
    let capture = Capture::start(&demo_mesh.namespace(&quiet)?, b"none").map_err(text)?;
    let before = Count::of(demo_mesh)?;
    let route = demo_mesh.route(&client, busy.at(WEB))?;
    let kept = load::start(&route, plan(true)).map_err(text)?;
    let fresh = load::start(&route, plan(false)).map_err(text)?;
    let handshakes = renewed(demo_mesh, before, &client, &quiet);
    let (kept, fresh) = (kept.finish().map_err(text)?, fresh.finish().map_err(text)?);
    let handshakes = handshakes?;
    let after = Count::of(demo_mesh)?;
    let captured = capture.finish().map_err(text)?;
    let from_client = captured.between(client.ip, quiet.ip).filter(|flow| flow.from.ip() == client.ip);
    let tunnels = from_client.filter(|flow| flow.is_tls).count();

    let requests = kept.requests + fresh.requests + handshakes;
    let failures = kept.failures + fresh.failures;
    if failures > 0 || kept.requests == 0 || fresh.requests == 0 {
        let first = [first(&kept), first(&fresh)].join("\n");
        return Err(format!("{failures} of {requests} requests failed\n{first}"));
    }
    if tunnels < 2 {
        return Err(format!("only {tunnels} new tunnels were made while certificates were renewed"));
    }
    let (issued, requests) = (after.all - before.all, number(requests));
    let text = format!("{issued} certificates issued ({} -> {}), {requests} requests", before.all, after.all);
    let (clients, servers) = (after.client - before.client, after.server - before.server);
    let who = format!("{clients} of them to front/client and {servers} to shop/server");
    let how = format!("{} on new connections, {tunnels} new tunnels", number(fresh.requests));
    Ok(Evidence::new(format!("{text}, 0 failed")).detail(format!("{who}; {how}")))
}

/// Waits until both ends have new certificates. Meanwhile a client sends a request whenever the tunnel to a server
/// was closed, so that new tunnels use the current certificates. Returns the number of these requests.
fn renewed(
    demo_mesh: &mut DemoMesh,
    before: Count,
    client: &DemoPod,
    quiet: &DemoPod,
) -> Result<u64, String> {
    let to = format!("/tunnels/{}:", quiet.ip);
    let mut requests = 0;
    wait(4 * SOON, || {
        if tunnels(&demo_mesh.one, &to)? == 0 {
            if let Err(error) = demo_mesh.got(client, quiet.at(WEB)) {
                return Ok(Err(format!("a request over a new tunnel failed: {error}")));
            }
            requests += 1;
        }
        // The pause leaves the processors to the loads, which are what counts.
        thread::park_timeout(Duration::from_millis(50));
        let now = Count::of(demo_mesh)?;
        let fewest = (now.client - before.client).min(now.server - before.server);
        if fewest >= RENEWALS && requests > 1 {
            return Ok(Ok(requests));
        }
        Err(format!("{fewest} renewals after {} certificates in all", now.all))
    })?
}

fn tunnels(node: &Node, to: &str) -> Result<usize, String> {
    Ok(node.actors(|path| path.contains(to))?.len())
}

fn plan(keep_alive: bool) -> load::Plan {
    load::Plan {
        host: "server".to_owned(),
        clients: CLIENTS,
        keep_alive,
        requests: u64::MAX,
        time: LOAD_TIME,
        limit: SOON,
        interval: Duration::ZERO,
    }
}

fn first(report: &Report) -> &str {
    report.first_failure.as_deref().unwrap_or("no failure")
}

// === impl Count ===

impl Count {
    fn of(demo_mesh: &mut DemoMesh) -> Result<Self, String> {
        let issued = demo_mesh.issued()?;
        let to = |identity: &str| issued.iter().filter(|issued| issued.identity == identity).count();
        let [server, _] = &demo_mesh.cast.servers;
        Ok(Self {
            all: issued.len(),
            client: to(&demo_mesh.cast.client.identity),
            server: to(&server.identity),
        })
    }
}
