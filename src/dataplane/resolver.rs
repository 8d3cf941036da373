//! The resolver for next hops that have only a name (docs/spec/dataplane.md 3.3).
//!
//! A connection that needs a name looks the name up itself, and all others that need the name wait for that lookup. A
//! lookup whose connection is cut is begun anew by one of those that wait.

use std::{
    fs,
    io::{self, Read as _},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use foldhash::HashMap;
use parking_lot::Mutex;
use rand::Rng;
use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

use super::{
    dns::upstream::{self, UpstreamError},
    pod::network::PodNetwork,
};
use crate::protocols::dns::{
    addresses::Addresses,
    cache::{LONGEST_LIFE, NameCache, SHORTEST_LIFE},
    hosts,
    lookup::Family,
    query::Query,
    resolvers::Resolvers,
};

/// The names that are looked up at a time.
/// Limit: lookups of names of endpoints at a time: 512; past it: the connection fails, without an address.
const MAX_LOOKUPS: usize = 512;
/// The time that the other family gets once one has addresses.
/// Limit: wait for the addresses of the other family: 500 ms; past it: the name has those of one family for 1 s.
const OTHER_FAMILY_WITHIN: Duration = Duration::from_millis(500);
/// The length of a hosts file that is read, in bytes.
/// Limit: the hosts file: 256 KiB; past it: the rest is not read.
const HOSTS_BYTES: u64 = 256 * 1024;

/// Asks the name servers of the node in the proxy's own network namespace. All pods share one resolver.
pub(crate) struct Resolver {
    network: Arc<PodNetwork>,
    resolvers: Arc<Resolvers>,
    /// The path of hosts(5).
    hosts: PathBuf,
    ipv6: bool,
    names: Mutex<Names>,
}

#[derive(Default)]
struct Names {
    cache: NameCache,
    /// The lookups under way. The sender of each ends with its lookup.
    running: HashMap<Arc<str>, watch::Sender<()>>,
}

/// The first step of a connection that needs a name.
enum Step<'a> {
    Known(Arc<[IpAddr]>),
    /// Another connection looks the name up.
    Wait(watch::Receiver<()>),
    Look(Lookup<'a>),
    /// Too many names are looked up.
    Refused,
}

/// A lookup. Once the value is dropped, those who wait for the lookup go on.
struct Lookup<'a> {
    resolver: &'a Resolver,
    name: Arc<str>,
}

// === impl Resolver ===

impl Resolver {
    /// A resolver that asks `resolvers` from `network`, after the file `hosts`. With `ipv6` IPv6 addresses are asked for.
    pub(crate) fn new(
        network: Arc<PodNetwork>,
        resolvers: Arc<Resolvers>,
        hosts: impl Into<PathBuf>,
        ipv6: bool,
    ) -> Self {
        Self { network, resolvers, hosts: hosts.into(), ipv6, names: Mutex::default() }
    }

    /// The addresses of `host`. The result is empty if `host` has none, or no name server answers within `within`.
    pub(crate) async fn find(&self, host: &str, within: Duration) -> Arc<[IpAddr]> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Arc::new([ip.to_canonical()]);
        }
        let deadline = Instant::now() + within;
        loop {
            match self.step(host) {
                Step::Known(addresses) => return addresses,
                Step::Refused => return Arc::new([]),
                Step::Wait(mut ended) => {
                    // The change is the end of the lookup.
                    if timeout_at(deadline, ended.changed()).await.is_err() {
                        return Arc::new([]);
                    }
                }
                Step::Look(lookup) => {
                    // In a box, because few connections need the room.
                    let found = timeout_at(deadline, Box::pin(self.look_up(host))).await;
                    return lookup.end(found.unwrap_or_else(|_| nothing(SHORTEST_LIFE)));
                }
            }
        }
    }

    fn step(&self, host: &str) -> Step<'_> {
        let mut names = self.names.lock();
        if let Some(addresses) = names.cache.get(host, Instant::now().into_std()) {
            return Step::Known(addresses);
        }
        if let Some(running) = names.running.get(host) {
            return Step::Wait(running.subscribe());
        }
        if names.running.len() >= MAX_LOOKUPS {
            tracing::warn!(target: "dns", host, "too many names of endpoints are looked up");
            return Step::Refused;
        }
        let name: Arc<str> = host.into();
        names.running.insert(name.clone(), watch::Sender::new(()));
        Step::Look(Lookup { resolver: self, name })
    }

    /// Looks `host` up as the C library would: in the hosts file, then with the search domains of resolv.conf.
    async fn look_up(&self, host: &str) -> Addresses {
        let ips: Vec<IpAddr> = self.in_hosts(host);
        if !ips.is_empty() {
            return Addresses { ips, life: SHORTEST_LIFE };
        }
        let mut life = LONGEST_LIFE;
        for name in self.resolvers.candidates(host) {
            match self.ask(&name).await {
                Ok(found) if found.ips.is_empty() => life = life.min(found.life),
                Ok(found) => return found,
                Err(error) => {
                    tracing::debug!(target: "dns", host, name, %error, "cannot look up an endpoint");
                    return nothing(SHORTEST_LIFE);
                }
            }
        }
        nothing(life)
    }

    /// The addresses of `name`, of both families. A family that a server refuses to answer counts as empty.
    async fn ask(&self, name: &str) -> Result<Addresses, UpstreamError> {
        if !self.ipv6 {
            return self.ask_for(name, Family::V4).await;
        }
        let (mut v4, mut v6) =
            (Box::pin(self.ask_for(name, Family::V4)), Box::pin(self.ask_for(name, Family::V6)));
        let (first, second) = tokio::select! {
            first = &mut v4 => (first, &mut v6),
            first = &mut v6 => (first, &mut v4),
        };
        if first.as_ref().is_ok_and(|found| !found.ips.is_empty()) {
            let second = timeout(OTHER_FAMILY_WITHIN, second).await;
            // Without the other family the answer is half of the truth, so it lives short.
            return first.map(|first| {
                join(first, second.ok().and_then(Result::ok).unwrap_or_else(|| nothing(SHORTEST_LIFE)))
            });
        }
        match (first, second.await) {
            (Ok(first), Ok(second)) => Ok(join(first, second)),
            (Err(_), Ok(found)) | (Ok(found), Err(_)) if !found.ips.is_empty() => {
                Ok(join(found, nothing(SHORTEST_LIFE)))
            }
            (Err(error), _) | (_, Err(error)) => Err(error),
        }
    }

    async fn ask_for(&self, name: &str, family: Family) -> Result<Addresses, UpstreamError> {
        // The control plane may send a name that no name server can be asked for.
        let Some(query) = Query::of(name, family) else { return Ok(nothing(SHORTEST_LIFE)) };
        let answer = upstream::forward(&self.network, &self.resolvers, &query).await?;
        Ok(Addresses::read(&answer).ok().flatten().unwrap_or_else(|| nothing(SHORTEST_LIFE)))
    }

    fn in_hosts(&self, host: &str) -> Vec<IpAddr> {
        let mut text = Vec::new();
        let read = fs::File::open(&self.hosts).and_then(|file| file.take(HOSTS_BYTES).read_to_end(&mut text));
        if let Err(error) = read
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(target: "dns", path = %self.hosts.display(), %error, "cannot read the hosts file");
        }
        let found = hosts::find(&String::from_utf8_lossy(&text), host);
        found.iter().map(IpAddr::to_canonical).filter(|ip| self.ipv6 || ip.is_ipv4()).collect()
    }
}

/// One of the addresses by chance, of the preferred family if there is one.
pub(crate) fn choose(addresses: &[IpAddr], prefer_v6: bool, rng: &mut impl Rng) -> Option<IpAddr> {
    let preferred = |ip: &&IpAddr| ip.is_ipv6() == prefer_v6;
    let count = addresses.iter().filter(preferred).count();
    if count > 0 {
        return addresses.iter().filter(preferred).nth(rng.random_range(0..count)).copied();
    }
    let count = addresses.len();
    (count > 0).then(|| addresses.get(rng.random_range(0..count)).copied()).flatten()
}

fn nothing(life: Duration) -> Addresses {
    Addresses { ips: Vec::new(), life }
}

fn join(one: Addresses, other: Addresses) -> Addresses {
    Addresses { ips: [one.ips, other.ips].concat(), life: one.life.min(other.life) }
}

// === impl Lookup ===

impl Lookup<'_> {
    /// Keeps what was found, and lets those go on who wait for the name.
    fn end(self, Addresses { ips, life }: Addresses) -> Arc<[IpAddr]> {
        let addresses: Arc<[IpAddr]> = ips.into();
        let now = Instant::now().into_std();
        self.resolver.names.lock().cache.put(self.name.clone(), addresses.clone(), life, now);
        addresses
    }
}

impl Drop for Lookup<'_> {
    fn drop(&mut self) {
        self.resolver.names.lock().running.remove(&self.name);
    }
}

#[cfg(test)]
mod tests;
