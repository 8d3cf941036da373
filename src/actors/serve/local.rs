//! Connections between two pods of this process: the destination's half is decided here, after the same checks and with
//! the same words as behind a tunnel, and no tunnel carries the bytes.

use std::{
    net::SocketAddr,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use foldhash::HashMap;
use rustls_pki_types::UnixTime;
use tokio::net::TcpStream;

use super::{
    inbound::{announce, application},
    report::{Facts, Report},
};
use crate::{
    actors::{
        pods::pod::{ConnInfo, Pod},
        shard::Shard,
        telemetry::{
            access,
            trace::span::{Kind, Spans, Step},
        },
        tunnel::TunnelKey,
    },
    protocols::{
        addr::{ClientAddr, HboneAddr},
        identity::Identity,
        labels::Reporter,
        mesh::{Service, Workload},
        outcome::{Failure, Outcome},
        relay::Meter,
        route::{Inbound, InboundHbone, Sans, Source, inbound_hbone, inbound_service, is_between_pods},
        tls::WorkloadCert,
    },
    supervisor::Conn,
};

/// How long two certificates that were held against each other need not be again: a tunnel lasts longer.
/// Limit: memory of two certificates that were held against each other: 60 s; past it: they are verified again.
const VERIFIED_FOR: Duration = Duration::from_secs(60);
/// Pairs of pods whose certificates a shard remembers to have verified.
/// Limit: pairs of certificates that a shard remembers as verified: 1024; past it: all are forgotten.
const MAX_VERIFIED: usize = 1024;

/// Pairs of pods whose certificates have been held against each other on this shard.
#[derive(Default)]
pub struct Verified(HashMap<(u64, u64, Sans), Seen>);

/// What came of it. Certificates that have been replaced are verified anew.
struct Seen {
    client: Weak<WorkloadCert>,
    server: Weak<WorkloadCert>,
    at: Instant,
    identity: Identity,
}

/// A hop that ends at a pod of this process.
pub struct Join<'a> {
    there: Arc<Pod>,
    workload: Arc<Workload>,
    client: ClientAddr,
    /// Who the client is to the destination.
    identity: Identity,
    to: SocketAddr,
    authority: &'a HboneAddr,
    /// What the client's side knows.
    facts: &'a Facts,
}

/// The destination's half of a connection.
pub struct Joined {
    /// Its place in the destination's set.
    pub conn: Conn<ConnInfo>,
    /// What the destination's side says of it.
    pub report: Box<Report>,
    /// The application.
    pub app: TcpStream,
}

/// Counts what moves for both sides.
pub struct Both<'a>(pub &'a Report, pub &'a Report);

// === impl Verified ===

impl Verified {
    /// Who the client is to the server, if each would accept the other in a handshake now.
    fn identity(&mut self, client: &Pod, server: &Pod, own: &Identity, key: &TunnelKey) -> Option<Identity> {
        let certs = &client.node.certs;
        let (ours, theirs) = (certs.current(&key.identity)?, certs.current(own)?);
        let pair = (client.serial, server.serial, key.sans.clone());
        if let Some(seen) = self.0.get(&pair)
            && seen.at.elapsed() < VERIFIED_FOR
            && std::ptr::eq(seen.client.as_ptr(), Arc::as_ptr(&ours))
            && std::ptr::eq(seen.server.as_ptr(), Arc::as_ptr(&theirs))
        {
            return Some(seen.identity.clone());
        }
        let identity = ours.seen_by(&theirs, &key.sans.to_vec(), UnixTime::now()).ok()??;
        if self.0.len() >= MAX_VERIFIED {
            self.0.clear();
        }
        let seen = Seen {
            client: Arc::downgrade(&ours),
            server: Arc::downgrade(&theirs),
            at: Instant::now(),
            identity: identity.clone(),
        };
        self.0.insert(pair, seen);
        Some(identity)
    }
}

// === impl Join ===

impl<'a> Join<'a> {
    /// The hop of a connection of `pod` for which a tunnel to `key` would do, if it ends at a pod of this process and
    /// the two would accept each other. Whatever is missing or wrong shows in the tunnel that is taken then.
    pub fn find(
        pod: &Pod,
        shard: &Shard,
        client: ClientAddr,
        key: &TunnelKey,
        facts: &'a Facts,
    ) -> Option<Self> {
        let node = &pod.node;
        let (Some(source), Some(destination)) = (&facts.source, &facts.destination) else { return None };
        let authority = facts.authority.as_ref()?;
        let source = Source { workload: source, client: client.ip() };
        if !node.settings.options.local_join || !is_between_pods(&source, destination, key.to, authority) {
            return None;
        }
        let there = node.neighbours.find(destination)?;
        let workload = there.workload_now().filter(|workload| workload.uid() == destination.uid())?;
        if !there.addresses.include(&there, key.to.ip()) {
            return None;
        }
        let own = there.identity(&workload).ok()?;
        let identity = shard.verified.borrow_mut().identity(pod, &there, &own, key)?;
        Some(Self { there, workload, client, identity, to: key.to, authority, facts })
    }

    /// The destination's half: its application, if its policies allow.
    ///
    /// # Errors
    /// How the connection ends for the client's side, and whether another endpoint may be tried, as if the
    /// destination's proxy had answered by a status.
    pub async fn reach(self, shard: &Shard, near: &Conn<ConnInfo>) -> Result<Box<Joined>, (Outcome, bool)> {
        let status = |status: u16| (Failure::Status(status).into(), status == 503);
        let settings = &self.there.node.settings;
        let request = InboundHbone {
            local: &self.workload,
            dst: self.to,
            authority: self.authority,
            localhost_app_tunnel: settings.options.localhost_app_tunnel,
        };
        let inbound = inbound_hbone(&self.there.node.mesh, &request, &settings.illegal_ports);
        let inbound = inbound.map_err(|error| {
            let outcome = Failure::Dial(error.to_string().into()).into();
            access::refused(self.client.addr(), self.to, Reporter::Destination, &outcome);
            status(error.status())
        })?;
        let info = ConnInfo {
            reporter: Reporter::Destination,
            tunnelled: true,
            src: self.client.addr(),
            identity: Some(self.identity.clone()),
            dst: inbound.target,
            waits: false.into(),
        };
        // Registered before policies are asked, so that a change in between is not missed.
        let conn = self.there.conns.admit(shard.index(), info).map_err(|_| status(401))?;
        // The destination's side has a span of its own, as if its proxy were another.
        let step = Step::new("join", Kind::Client);
        let spans = Spans::new(tracing::Span::none(), "inbound", step.trace_parent());
        match conn.guard(spans.around(self.deliver(&conn, near, inbound))).await {
            Ok(Ok((report, app))) => Ok(Box::new(Joined { conn, report, app })),
            Ok(Err(refused)) => Err(status(refused)),
            Err(_) => Err((Failure::H2("the destination's side was cut".into()).into(), true)),
        }
    }

    async fn deliver(
        &self,
        conn: &Conn<ConnInfo>,
        near: &Conn<ConnInfo>,
        inbound: Inbound,
    ) -> Result<(Box<Report>, TcpStream), u16> {
        let mut report = Report::open(&self.there, conn, self.to, self.their_facts(&inbound));
        report.beside(near);
        let reached = async {
            let mut app = application(&self.there, conn.info(), &inbound).await?;
            announce(&mut app, conn.info(), &inbound).await?;
            Ok(app)
        };
        match reached.await {
            Ok(app) => Ok((report, app)),
            Err((status, outcome)) => {
                let status: http::StatusCode = status;
                report.end(outcome);
                Err(status.as_u16())
            }
        }
    }

    /// What the destination's proxy would learn.
    fn their_facts(&self, inbound: &Inbound) -> Facts {
        let node = &self.there.node;
        let source = node.mesh.workload_by_ip(&node.settings.network, self.client.ip());
        let named = self.facts.service.as_deref().map(Service::hostname);
        let service = inbound.service.clone();
        Facts {
            source: source.or_else(|| self.facts.source.clone()),
            source_identity: Some(self.identity.clone()),
            service: service
                .or_else(|| inbound_service(&node.mesh, &self.workload, named, inbound.target.port())),
            destination_identity: Some(self.workload.identity().clone()),
            destination: Some(self.workload.clone()),
            authority: Some(self.authority.clone()),
            mtls: true,
            ..Facts::default()
        }
    }
}

impl Meter for Both<'_> {
    fn forward(&self, n: usize) {
        self.0.forward(n);
        self.1.forward(n);
    }

    fn backward(&self, n: usize) {
        self.0.backward(n);
        self.1.backward(n);
    }
}
