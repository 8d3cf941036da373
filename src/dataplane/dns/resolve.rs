//! The addresses that a pod's DNS proxy has for a name, for a connection that names its destination.

use std::net::IpAddr;

use super::{
    context::DnsContext,
    serve::Place,
    upstream::{self, UpstreamError},
};
use crate::protocols::{
    dns::{
        addresses::Addresses,
        lookup::{self, Asker, Family},
        query::Query,
    },
    mesh::Workload,
};

/// The reason why a name has no addresses.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unnamed {
    /// The DNS proxy is off.
    #[error("the DNS proxy is off")]
    Off,
    /// The control plane has not named the pod's workload in time.
    #[error("the pod's workload is unknown")]
    UnknownClient,
    /// Too many queries of the pod wait.
    #[error("too many queries of the pod wait")]
    TooMany,
    /// No name server has answered.
    #[error("{0}")]
    Upstream(#[from] UpstreamError),
    /// A name server's answer is an error.
    #[error("the name servers refuse to answer")]
    Refused,
}

/// Finds the addresses of `host`, which is in lower case. An empty result says that the name exists without an address of
/// the family, or does not exist.
///
/// # Errors
/// See [`Unnamed`].
pub(crate) async fn addresses(ctx: &DnsContext, host: &str, family: Family) -> Result<Vec<IpAddr>, Unnamed> {
    let Some(dns) = &ctx.config.dns else { return Err(Unnamed::Off) };
    let host = host.strip_suffix('.').unwrap_or(host);
    let _place = Place::wait(&ctx.state).ok_or(Unnamed::TooMany)?;
    let workload = ctx.pod.wait().await.map_err(|_| Unnamed::UnknownClient)?;
    if let Some(found) = ctx.asker(&workload).and_then(|asker| known(ctx, &asker, host, family)) {
        return Ok(found);
    }
    let Some(query) = Query::of(host, family) else { return Ok(Vec::new()) };
    let answer = upstream::forward(&ctx.network, &dns.resolvers, &query).await?;
    let found = Addresses::read(&answer).ok().flatten().ok_or(Unnamed::Refused)?;
    Ok(found.ips)
}

fn known(ctx: &DnsContext, asker: &Asker<'_>, host: &str, family: Family) -> Option<Vec<IpAddr>> {
    lookup::find(ctx.pod.mesh.tables(), asker, host, family).map(|found| found.addresses)
}

// === impl DnsContext ===

impl DnsContext {
    /// The pod as the asker of a query; `None` if the DNS proxy is off.
    pub(super) fn asker<'a>(&'a self, workload: &'a Workload) -> Option<Asker<'a>> {
        let dns = self.config.dns.as_ref()?;
        Some(Asker {
            namespace: workload.namespace(),
            network: workload.network(),
            domain: &dns.domain,
            search: dns.search.as_deref(),
            preferred_namespace: dns.dns.preferred_namespace.as_deref(),
            ipv6: self.config.listen.ipv6_enabled,
        })
    }
}
