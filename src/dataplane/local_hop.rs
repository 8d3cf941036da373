//! Connections between two pods of this process. No tunnel carries the bytes. The destination's half passes the same
//! checks and gets the same reports as a stream of a tunnel.

use std::{
    cell::RefCell,
    net::SocketAddr,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use foldhash::HashMap;
use rustls_pki_types::UnixTime;

use super::{
    application::{self, Refused},
    certificates::Certificates,
    inbound_context::InboundContext,
    movable::Facts,
    outbound_context::OutboundContext,
    pod::{
        conns::{Carried, ConnInfo},
        departure::Departure,
        network::Network,
    },
    report::{ConnMeta, ConnReport},
    stream::AppStream,
    tracked_hop::TrackedHop,
    tunnel::dialer::TunnelKey,
};
use crate::{
    protocols::{
        addr::{ClientAddr, HboneAddr},
        handover::record::{Kind, Side},
        identity::Identity,
        labels::Reporter,
        mesh::{Service, Workload},
        outcome::{Cause, Failure},
        relay::Meter,
        route::{
            Inbound, InboundHbone, Sans, Source, failover::AttemptError, inbound_hbone, inbound_service,
            is_between_pods,
        },
        tls::{PeerChain, WorkloadCert},
    },
    runtime::{
        conns::{Conn, ConnSet},
        shard::Shard,
    },
    telemetry::{
        access,
        trace::span::{SpanKind, Spans, Step},
    },
};

/// How long a verification of two certificates against each other stays valid. A tunnel lasts longer.
/// Limit: memory of two certificates that were held against each other: 60 s; past it: they are verified again.
const VERIFIED_FOR: Duration = Duration::from_secs(60);
/// The number of pod pairs whose verification a shard remembers.
/// Limit: pairs of certificates that a shard remembers as verified: 1024; past it: all are forgotten.
const MAX_VERIFIED: usize = 1024;

/// The pairs of pods whose certificates this shard has verified against each other.
#[derive(Default)]
struct VerifiedPairs(RefCell<HashMap<Pair, VerifiedPair>>);

/// The serial numbers of a client's pod and a server's pod, and the server identities that the client accepts.
#[derive(PartialEq, Eq, Hash)]
struct Pair {
    client: u64,
    server: u64,
    sans: Sans,
}

/// The result of a verification. Certificates that have been replaced are verified anew.
struct VerifiedPair {
    client: Weak<WorkloadCert>,
    server: Weak<WorkloadCert>,
    at: Instant,
    /// The revocation lists that were in force.
    revocations: u64,
    identity: Identity,
}

/// A hop that ends at a pod of this process.
pub(crate) struct LocalHop<'a, N: Network> {
    there: Arc<InboundContext<N>>,
    workload: Arc<Workload>,
    client: ClientAddr,
    /// The client's identity, as the destination sees the client.
    identity: Identity,
    to: SocketAddr,
    authority: &'a HboneAddr,
    /// The client's side's metadata of the connection.
    meta: &'a ConnMeta,
    /// The set of tracked hops and both sides' certificates, if revocation lists are configured.
    tracked: Option<(ConnSet<TrackedHop>, [Box<PeerChain>; 2])>,
}

/// The destination's half of a connection.
pub(crate) struct LocalPeer<S: AppStream> {
    /// The connection's place in the destination's set.
    pub(crate) conn: Conn<ConnInfo>,
    /// The report of the destination's side.
    pub(crate) report: Box<ConnReport>,
    /// The application.
    pub(crate) app: S,
    /// The uid of the destination's pod.
    pub(crate) uid: Arc<str>,
    /// The entry by which a revocation list cuts the hop, if revocation lists are configured.
    pub(crate) tracked: Option<Conn<TrackedHop>>,
}

/// Counts the relayed bytes in the reports of both sides.
pub(crate) struct BothReports<'a>(
    pub(crate) &'a ConnReport,
    pub(crate) &'a ConnReport,
    /// The uid of the server's pod.
    pub(crate) &'a str,
);

// === impl VerifiedPairs ===

impl VerifiedPairs {
    /// The client's identity as the server sees it, if the two would accept each other in a handshake now.
    /// The identities `client` and `server` select the two certificates.
    fn identity(
        &self,
        certs: &dyn Certificates,
        pair: Pair,
        client: &Identity,
        server: &Identity,
    ) -> Option<Identity> {
        let mut seen = self.0.borrow_mut();
        let (ours, theirs) = (certs.current(client)?, certs.current(server)?);
        if let Some(seen) = seen.get(&pair)
            && seen.at.elapsed() < VERIFIED_FOR
            && seen.revocations == ours.revocation_generation()
            && std::ptr::eq(seen.client.as_ptr(), Arc::as_ptr(&ours))
            && std::ptr::eq(seen.server.as_ptr(), Arc::as_ptr(&theirs))
        {
            return Some(seen.identity.clone());
        }
        // The number is read first: lists that come during the verification make it stale.
        let revocations = ours.revocation_generation();
        let identity = ours.seen_by(&theirs, &pair.sans.to_vec(), UnixTime::now()).ok()?;
        if seen.len() >= MAX_VERIFIED {
            seen.clear();
        }
        let verified = VerifiedPair {
            client: Arc::downgrade(&ours),
            server: Arc::downgrade(&theirs),
            at: Instant::now(),
            revocations,
            identity: identity.clone(),
        };
        seen.insert(pair, verified);
        Some(identity)
    }
}

// === impl LocalHop ===

impl<'a, N: Network> LocalHop<'a, N> {
    /// The local hop that replaces a tunnel to `key`. The result is `None` if the connection ends elsewhere, or if the
    /// two pods would not accept each other. The caller then takes a tunnel, and any error shows in the tunnel.
    ///
    /// Certificates that are not there yet are waited for, as a tunnel would. The first connections of a new pod
    /// often last longest, and in a tunnel they could not move to another process.
    ///
    /// # Errors
    /// The client's certificate does not come.
    pub(crate) async fn find(
        ctx: &OutboundContext<N>,
        shard: &Shard,
        client: ClientAddr,
        key: &TunnelKey,
        meta: &'a ConnMeta,
    ) -> Result<Option<Self>, AttemptError> {
        let Some((there, workload, own)) = Self::neighbour(ctx, client, key, meta) else { return Ok(None) };
        let (certs, within) = (&*ctx.hops.certs, ctx.config.timeouts.certificate);
        if certs.current(&key.identity).is_none() {
            let held = certs.hold(&key.identity, within).await;
            held.map_err(|error| AttemptError::NoTunnel(Failure::Identity(Cause::of(error))))?;
        }
        if certs.current(&own).is_none() && certs.hold(&own, within).await.is_err() {
            return Ok(None);
        }
        let pair = Pair { client: ctx.pod.id.serial, server: there.pod.id.serial, sans: key.sans.clone() };
        let verified = shard.local::<VerifiedPairs>();
        let Some(identity) = verified.identity(certs, pair, &key.identity, &own) else { return Ok(None) };
        let Some(authority) = meta.authority.as_ref() else { return Ok(None) };
        let chains = chains(certs, &key.identity, &own);
        let tracked = chains.map(|chains| (ctx.hops.joined.clone(), chains));
        Ok(Some(Self { there, workload, client, identity, to: key.to, authority, meta, tracked }))
    }

    /// The pod of this process at the end of a tunnel to `key`, with its workload and identity, if there is such a pod.
    fn neighbour(
        ctx: &OutboundContext<N>,
        client: ClientAddr,
        key: &TunnelKey,
        meta: &ConnMeta,
    ) -> Option<(Arc<InboundContext<N>>, Arc<Workload>, Identity)> {
        let (Some(source), Some(destination)) = (&meta.source, &meta.destination) else { return None };
        let source = Source { workload: source, client: client.ip() };
        let join = ctx.config.tunnel.join.enabled;
        if !join || !is_between_pods(&source, destination, key.to, meta.authority.as_ref()?) {
            return None;
        }
        let there = ctx.hops.directory.find(destination)?;
        let workload = there.pod.now().filter(|workload| workload.uid() == destination.uid())?;
        if !there.network.owns(key.to.ip(), there.pod.mesh.version()) {
            return None;
        }
        let own = there.pod.identity(&workload).ok()?;
        Some((there, workload, own))
    }

    /// Connects to the destination's application, if the destination's policies allow. `near` is the client's half.
    ///
    /// # Errors
    /// The attempt failed as if the destination's proxy had refused the CONNECT by a status, or the connection was cut.
    pub(crate) async fn reach(
        mut self,
        shard: &Shard,
        near: &Conn<ConnInfo>,
    ) -> Result<Box<LocalPeer<N::Stream>>, AttemptError> {
        let inbound = self.route()?;
        let info = ConnInfo {
            reporter: Reporter::Destination,
            src: self.client.addr(),
            identity: Some(self.identity.clone()),
            dst: inbound.target,
            waits: false.into(),
            host: None,
            next_hop: None.into(),
            departure: Departure::default(),
            carried: Carried::locally(),
        };
        // The connection is registered before policies are asked, so that a policy change in between is not missed.
        let admitted = self.there.conns.live.admit(shard.index(), info);
        let conn = admitted.map_err(|_| AttemptError::Refused(401))?;
        let tracked = self.track(shard, &conn)?;
        // The destination's side has a span of its own, as if another proxy served the destination.
        let step = Step::new("join", SpanKind::Client);
        let spans = Spans::new(tracing::Span::none(), "inbound", step.trace_parent());
        match conn.guard(spans.around(self.deliver(&conn, near, inbound))).await {
            Ok(Ok((report, app))) => {
                let uid = self.there.pod.id.uid.clone();
                Ok(Box::new(LocalPeer { conn, report, app, uid, tracked }))
            }
            Ok(Err(status)) => Err(AttemptError::Refused(status)),
            Err(_) => Err(AttemptError::Cut),
        }
    }

    /// Has a revocation list cut the hop. A list that came since the hop was found has the hop refused.
    fn track(
        &mut self,
        shard: &Shard,
        conn: &Conn<ConnInfo>,
    ) -> Result<Option<Conn<TrackedHop>>, AttemptError> {
        let Some((joined, chains)) = self.tracked.take() else { return Ok(None) };
        let hop = TrackedHop::new(chains, conn);
        let hop = joined.admit(shard.index(), hop).map_err(|_| AttemptError::Cut)?;
        if hop.info().is_revoked() { Err(AttemptError::Cut) } else { Ok(Some(hop)) }
    }

    /// The address and port of the destination's application.
    fn route(&self) -> Result<Inbound, AttemptError> {
        let config = &self.there.config;
        let request = InboundHbone {
            local: &self.workload,
            dst: self.to,
            authority: self.authority,
            localhost_app_tunnel: config.listen.localhost_app_tunnel,
        };
        let inbound = inbound_hbone(self.there.pod.mesh.tables(), &request, &config.listen.ports);
        inbound.map_err(|error| {
            let status = error.status();
            let outcome = Failure::Dial(Cause::of(error)).into();
            let ends = (self.client.addr(), self.to);
            access::refused(&self.there.metrics.refusals, Reporter::Destination, ends, &outcome);
            AttemptError::Refused(status)
        })
    }

    async fn deliver(
        &self,
        conn: &Conn<ConnInfo>,
        near: &Conn<ConnInfo>,
        inbound: Inbound,
    ) -> Result<(Box<ConnReport>, N::Stream), u16> {
        let mut report = ConnReport::open(&self.there.metrics, conn, self.to, self.their_meta(&inbound));
        report.beside(near);
        let reached = async {
            let mut app = application::connect(&self.there, &report, &inbound).await?;
            application::announce(&mut app, conn.info(), &inbound).await?;
            Ok(app)
        };
        match reached.await {
            Ok(app) => Ok((report, app)),
            Err(Refused { status, outcome }) => {
                report.end(outcome);
                Err(status.as_u16())
            }
        }
    }

    /// The metadata that the destination's proxy would learn from a stream of a tunnel.
    fn their_meta(&self, inbound: &Inbound) -> ConnMeta {
        let mesh = self.there.pod.mesh.tables();
        let source = mesh.workload_by_ip(&self.there.config.network, self.client.ip());
        let named = self.meta.service.as_deref().map(Service::hostname);
        let service = inbound.service.clone();
        ConnMeta {
            source: source.or_else(|| self.meta.source.clone()),
            source_identity: Some(self.identity.clone()),
            service: service.or_else(|| inbound_service(mesh, &self.workload, named, inbound.target.port())),
            destination_identity: Some(self.workload.identity().clone()),
            destination: Some(self.workload.clone()),
            authority: Some(self.authority.clone()),
            mtls: true,
            ..ConnMeta::default()
        }
    }
}

/// What revocation lists may name of a hop between the holders of the certificates `client` and `server`.
fn chains(certs: &dyn Certificates, client: &Identity, server: &Identity) -> Option<[Box<PeerChain>; 2]> {
    certs.current(client)?.chains_with(&*certs.current(server)?, UnixTime::now())
}

impl Meter for BothReports<'_> {
    fn forward(&self, n: usize) {
        self.0.forward(n);
        self.1.forward(n);
    }

    fn backward(&self, n: usize) {
        self.0.backward(n);
        self.1.backward(n);
    }
}

impl Facts for BothReports<'_> {
    fn facts(&self) -> (Kind, Side, Option<Side>) {
        let mut beside = self.1.facts();
        beside.pod.uid = self.2.to_owned();
        (Kind::Local, self.0.facts(), Some(beside))
    }
}

/// Finds out whether the two pods of a hop that another process began accept each other as of now, as they would in a
/// handshake. `from` is the client's and `there` the server's pod. Returns what revocation lists may name.
///
/// # Errors
/// A certificate does not come, or the pods do not accept each other as the pods that they were.
pub(crate) async fn verify_again(
    shard: &Shard,
    from: &OutboundContext,
    there: &InboundContext,
    (client, server): (&Side, &Side),
    within: Duration,
) -> Result<Option<[Box<PeerChain>; 2]>, Failure> {
    let changed = || Failure::Tls("the two pods do not accept each other any more".into());
    let (Ok(source), Ok(destination)) = (from.pod.wait().await, there.pod.wait().await) else {
        return Err(changed());
    };
    let own = from.pod.identity(&source).map_err(|error| Failure::Identity(Cause::of(error)))?;
    let theirs = there.pod.identity(&destination).map_err(|error| Failure::Identity(Cause::of(error)))?;
    if server.identity.as_ref() != Some(&own) || client.destination_identity.as_ref() != Some(&theirs) {
        return Err(changed());
    }
    let certs = &*from.hops.certs;
    for identity in [&own, &theirs] {
        let held = certs.hold(identity, within).await;
        held.map_err(|error| Failure::Identity(Cause::of(error)))?;
    }
    let pair =
        Pair { client: from.pod.id.serial, server: there.pod.id.serial, sans: Sans::only(theirs.clone()) };
    let seen = shard.local::<VerifiedPairs>().identity(certs, pair, &own, &theirs);
    if seen.as_ref() != Some(&own) {
        return Err(changed());
    }
    Ok(chains(certs, &own, &theirs))
}

#[cfg(test)]
mod tests;
