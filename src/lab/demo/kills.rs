//! Kills actors while streams are live and new connections come, and shows the cost of each kill and the time of
//! recovery.

use std::{
    io::Stdout,
    time::{Duration, Instant},
};

use super::demo_mesh::{DemoMesh, DemoPod, ECHO, SOON, WEB, text};
use crate::lab::{
    apps::{
        Background,
        echo::{self, Pacing},
        load,
    },
    control::mesh_file::Policy,
    node::{ActorStatus, wait},
    show::{Evidence, FactResult, Show, number, seconds},
};

/// The number of live streams to each server.
const STREAMS: usize = 8;
/// The number of clients per server that open a connection for each request.
const CLIENTS: usize = 2;
const PACE: Duration = Duration::from_millis(5);
/// The running time of a load, longer than any step here takes.
const LOAD_TIME: Duration = Duration::from_secs(30);
/// The number of requests that a load still completes after an actor is back.
const AFTERWARDS: usize = 50;

/// Live streams to a server, and short-lived connections.
struct Load {
    streams: Pacing,
    connections: Background<load::Report>,
}

/// The result of a load.
#[derive(Debug)]
struct Outcome {
    streams: echo::Report,
    connections: load::Report,
}

/// The effects of a kill.
#[derive(Debug)]
struct Killed {
    before: ActorStatus,
    after: ActorStatus,
    /// The time until a new connection was answered.
    served: Duration,
    /// The number of new connections that failed before that.
    refused: usize,
    /// The time until the actor ran again.
    back: Duration,
}

/// Shows the kills.
pub(super) fn show(demo_mesh: &mut DemoMesh, show: &mut Show<Stdout>) {
    show.section(&format!(
        "Actors of node one killed, with {STREAMS} live streams and new connections to each server"
    ));
    show.doing("killing the tunnel actor of server-1");
    show.fact("tunnel actor", tunnel(demo_mesh));
    show.doing("killing the xDS actor");
    show.fact("xDS actor", xds(demo_mesh));
    show.doing("killing the capture actor of the client");
    show.fact("capture actor", capture(demo_mesh));
}

fn tunnel(demo_mesh: &mut DemoMesh) -> FactResult {
    let [peer, other] = demo_mesh.cast.servers.clone();
    let (first, second) = (Load::start(demo_mesh, &peer)?, Load::start(demo_mesh, &other)?);
    let to = format!("{}/tunnels/{}:", demo_mesh.cast.client.uid, peer.ip);
    let killed = kill(demo_mesh, &peer, |path| path.contains(&to));
    let (hit, spared) = (first.finish()?, second.finish()?);
    let killed = killed?;
    spared.is_whole(&other)?;
    let (broken, lost) = (hit.streams.broken as usize, hit.connections.failures as usize);
    // Each client may lose one connection as well, because the connection was a stream of the killed tunnel.
    if broken != STREAMS || hit.streams.wrong > 0 || lost > CLIENTS {
        return Err(format!("{broken} streams to {} ended, {lost} connections failed\n{hit:?}", peer.name));
    }
    let (lost, tried) = (lost + killed.refused, hit.connections.requests + killed.refused as u64);
    let text = format!("{broken} of {STREAMS} streams through it ended, as well as {lost} of ");
    let text = format!("{text}{} short connections", number(tried));
    Ok(Evidence::new(text)
        .detail(format!("to {} nothing was lost: {STREAMS} streams, {}", other.name, spared.numbers()))
        .detail(killed.line("a new tunnel carried a request")))
}

fn xds(demo_mesh: &mut DemoMesh) -> FactResult {
    let servers = demo_mesh.cast.servers.clone();
    let loads = [Load::start(demo_mesh, &servers[0])?, Load::start(demo_mesh, &servers[1])?];
    let (before, begun) = (demo_mesh.discovery_streams()?, Instant::now());
    let killed = kill(demo_mesh, &servers[0], |path| path.ends_with("/xds"));
    let again = wait(SOON, || match demo_mesh.discovery_streams()? {
        now if now > before => Ok(()),
        _ => Err("the proxy did not come back to the control plane".to_owned()),
    });
    let heard = again.and_then(|()| push(demo_mesh)).map(|()| begun.elapsed());
    finish_whole(loads, &servers).and_then(|whole| {
        let killed = killed?.lossless()?;
        let heard = seconds(heard?);
        Ok(Evidence::new(format!("nothing lost: {whole}"))
            .detail(killed.line("a new connection was served"))
            .detail(format!(
                "the new one has subscribed again, and had acknowledged another push after {heard}"
            )))
    })
}

/// Pushes a change that both proxies must acknowledge: a rule without effect is added and removed.
fn push(demo_mesh: &mut DemoMesh) -> Result<(), String> {
    let mut more = demo_mesh.mesh.clone();
    let twin = more.policies.first().cloned();
    more.policies.extend(twin.map(|twin| Policy { name: "no-change".to_owned(), dry_run: true, ..twin }));
    demo_mesh.serve(more)?;
    demo_mesh.settle()?;
    demo_mesh.serve(demo_mesh.mesh.clone())?;
    demo_mesh.settle()
}

fn capture(demo_mesh: &mut DemoMesh) -> FactResult {
    let servers = demo_mesh.cast.servers.clone();
    let loads = [Load::start(demo_mesh, &servers[0])?, Load::start(demo_mesh, &servers[1])?];
    let outbound = format!("{}/outbound", demo_mesh.cast.client.uid);
    let killed = kill(demo_mesh, &servers[0], |path| path.ends_with(&outbound));
    finish_whole(loads, &servers).and_then(|whole| {
        let line = killed?.lossless()?.line("a new connection was served");
        Ok(Evidence::new(format!("nothing lost: {whole}")).detail(line))
    })
}

/// Kills the one wanted actor of node one, and waits until a new connection to `server` is served and the actor is
/// back. More connections follow, so that the loads go on for a while.
fn kill(demo_mesh: &DemoMesh, server: &DemoPod, wanted: impl Fn(&str) -> bool) -> Result<Killed, String> {
    let before = demo_mesh.one.actor(wanted)?;
    let client = &demo_mesh.cast.client;
    demo_mesh.one.kill(&before.path)?;
    let begun = Instant::now();
    let mut refused = 0;
    wait(SOON, || demo_mesh.got(client, server.at(WEB)).inspect_err(|_| refused += 1))?;
    let served = begun.elapsed();
    let after = demo_mesh.one.back(&before, SOON)?;
    let back = begun.elapsed();
    for _ in 0..AFTERWARDS {
        demo_mesh.got(client, server.at(WEB))?;
    }
    Ok(Killed { before, after, served, refused, back })
}

/// Ends loads that must not have lost anything, and describes their size.
fn finish_whole(loads: [Load; 2], servers: &[DemoPod; 2]) -> Result<String, String> {
    let mut outcomes = Vec::new();
    for (load, server) in loads.into_iter().zip(servers) {
        outcomes.push((load.finish()?, server));
    }
    let mut all: Option<Outcome> = None;
    for (outcome, server) in outcomes {
        outcome.is_whole(server)?;
        match &mut all {
            Some(all) => all.add(&outcome),
            None => all = Some(outcome),
        }
    }
    let streams = STREAMS * servers.len();
    Ok(format!("{streams} streams, {}", all.map_or_else(String::new, |all| all.numbers())))
}

// === impl Load ===

impl Load {
    /// Starts the load; the streams are open on return.
    fn start(demo_mesh: &DemoMesh, server: &DemoPod) -> Result<Self, String> {
        let client = &demo_mesh.cast.client;
        let plan = echo::Plan { connections: STREAMS, interval: PACE, time: LOAD_TIME, limit: SOON };
        let mut streams = echo::pace(&demo_mesh.route(client, server.at(ECHO))?, plan).map_err(text)?;
        streams.wait_until_open();
        let plan = load::Plan {
            host: "server".to_owned(),
            clients: CLIENTS,
            keep_alive: false,
            requests: u64::MAX,
            time: LOAD_TIME,
            limit: SOON,
            interval: Duration::ZERO,
        };
        let connections = load::start(&demo_mesh.route(client, server.at(WEB))?, plan).map_err(text)?;
        Ok(Self { streams, connections })
    }

    fn finish(self) -> Result<Outcome, String> {
        let (streams, connections) = (self.streams.finish(), self.connections.finish());
        Ok(Outcome { streams: streams.map_err(text)?, connections: connections.map_err(text)? })
    }
}

// === impl Outcome ===

impl Outcome {
    /// Checks that the load lost nothing.
    fn is_whole(&self, server: &DemoPod) -> Result<(), String> {
        let (streams, connections) = (&self.streams, &self.connections);
        let open = streams.opened as usize == STREAMS && streams.sent > 0 && connections.requests > 0;
        if open && streams.is_clean() && connections.failures == 0 {
            return Ok(());
        }
        let first = streams.first_problem.as_ref().or(connections.first_failure.as_ref());
        Err(format!(
            "to {}: {} streams broke, {} of {} connections failed\n{}",
            server.name,
            streams.broken,
            connections.failures,
            connections.requests,
            first.map_or("", String::as_str),
        ))
    }

    fn numbers(&self) -> String {
        let (echoes, connections) = (number(self.streams.answered), number(self.connections.requests));
        format!("{echoes} echoes and {connections} connections whole")
    }

    fn add(&mut self, other: &Self) {
        self.streams.answered += other.streams.answered;
        self.connections.requests += other.connections.requests;
    }
}

// === impl Killed ===

impl Killed {
    /// Checks that no new connection failed.
    fn lossless(self) -> Result<Self, String> {
        match self.refused {
            0 => Ok(self),
            refused => Err(format!("{refused} new connections failed before one was served")),
        }
    }

    fn line(&self, first: &str) -> String {
        let Self { before, after, .. } = self;
        let (served, back) = (seconds(self.served), seconds(self.back));
        let restarts = format!("restarts {} -> {}", before.restarts, after.restarts);
        format!("{first} after {served}; /actors says {}, {restarts}, after {back}", after.state)
    }
}
