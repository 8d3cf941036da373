//! The name servers of the node, read from its resolv.conf(5).

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use resolv_conf::{Config, ScopedIp};

/// The port that name servers listen on.
/// No limit: the port of name servers.
const DNS_PORT: u16 = 53;
/// The maximum number of servers. With the maximum attempts and timeout one query may take minutes.
/// Limit: name servers of resolv.conf: 3; past it: the others are passed over, with a warning.
const MAX_SERVERS: usize = 3;
/// Limit: attempts with each name server: 5; past it: a larger number in resolv.conf counts as 5.
const MAX_ATTEMPTS: u32 = 5;
/// Limit: search domains of resolv.conf: 32, as many as Kubernetes allows; past it: the others are passed over.
const MAX_SEARCH: usize = 32;
/// The longest wait for a server's answer, in seconds.
/// Limit: wait for one answer of a name server: 30 s; past it: a longer time in resolv.conf counts as 30 s.
const MAX_TIMEOUT: u32 = 30;
/// Limit: `ndots` of resolv.conf: 15; past it: a larger number counts as 15.
const MAX_NDOTS: u32 = 15;

/// The name servers to query, with their timeout and attempts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resolvers {
    /// The name servers, in the order of queries.
    pub servers: Vec<SocketAddr>,
    /// The deadline of each answer.
    pub timeout: Duration,
    /// The number of rounds through all name servers.
    pub attempts: u32,
    /// The search domains, in lower case and without a final dot. They are put behind names that the proxy asks for
    /// itself, and not behind those of pods.
    pub search: Vec<String>,
    /// The number of dots from which on a name is asked for as it is before the domains are tried.
    pub ndots: u32,
}

// === impl Resolvers ===

impl Resolvers {
    /// Reads the text of a resolv.conf. The defaults are 5 s and two attempts. The second value lists the entries that
    /// were ignored.
    pub(crate) fn parse(text: &[u8]) -> (Self, Vec<String>) {
        let (config, errors) = Config::parse_with_errors(text);
        let mut complaints: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let mut servers = Vec::new();
        for server in &config.nameservers {
            match server {
                ScopedIp::V6(ip, Some(scope)) => {
                    complaints.push(format!("name server {ip}%{scope}: the link is none of a pod's"));
                }
                ScopedIp::V4(ip) => servers.push(SocketAddr::new(IpAddr::V4(*ip), DNS_PORT)),
                ScopedIp::V6(ip, None) => servers.push(SocketAddr::new(IpAddr::V6(*ip), DNS_PORT)),
            }
        }
        if servers.len() > MAX_SERVERS {
            complaints
                .push(format!("only the first {MAX_SERVERS} of {} name servers are asked", servers.len()));
            servers.truncate(MAX_SERVERS);
        }
        let search = config.get_last_search_or_domain().take(MAX_SEARCH);
        let search = search.map(|domain| domain.trim_end_matches('.').to_ascii_lowercase());
        let resolvers = Self {
            servers,
            timeout: Duration::from_secs(config.timeout.clamp(1, MAX_TIMEOUT).into()),
            attempts: config.attempts.clamp(1, MAX_ATTEMPTS),
            search: search.filter(|domain| !domain.is_empty()).collect(),
            ndots: config.ndots.min(MAX_NDOTS),
        };
        (resolvers, complaints)
    }

    /// The names to ask for in place of `host`, in the order of resolv.conf(5). A final dot says that `host` is whole.
    pub(crate) fn candidates(&self, host: &str) -> Vec<String> {
        if let Some(whole) = host.strip_suffix('.') {
            return vec![whole.to_owned()];
        }
        let dots = host.bytes().filter(|byte| *byte == b'.').count();
        let mut names: Vec<String> = self.search.iter().map(|domain| format!("{host}.{domain}")).collect();
        let place = if dots >= self.ndots as usize { 0 } else { names.len() };
        names.insert(place, host.to_owned());
        names
    }
}
