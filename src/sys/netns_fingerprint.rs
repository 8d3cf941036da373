//! A fingerprint of a pod's namespace: whether its interface is up, and the tables of the legacy `iptables`. The
//! fingerprint contains no rules: the kernel reports the size and the hooks of a legacy table. [`RuleEvents`] reports
//! changes of nf_tables rules.

use std::{
    fs, io, mem,
    net::TcpListener,
    os::fd::{AsRawFd, RawFd},
};

use super::{interface::Interface, probe, rule_events::RuleEvents};

/// The most tables of a family whose shape is kept. The legacy `iptables` has five tables.
/// Limit: tables of the legacy iptables that are looked at, a family: 8; past it: the pod is examined every second.
const MAX_LEGACY_TABLES: usize = 8;
/// `IPT_SO_GET_INFO` and `IP6T_SO_GET_INFO`, of linux/netfilter_ipv4/ip_tables.h and its sister.
const GET_INFO: libc::c_int = 64;

/// The state of a pod's network at the time of a look.
/// Limit: descriptors that the audits of a pod keep: 1 socket; past it: the pod is examined every second without it.
#[derive(Debug)]
pub(crate) struct NetnsFingerprint {
    interface: Interface,
    legacy: Vec<(Family, Shape)>,
}

/// The address family of legacy tables.
#[derive(Clone, Copy, Debug)]
enum Family {
    V4,
    V6,
}

/// The struct `ipt_getinfo`: the name of a table, the begin and end of each hook's rules, the number of rules, and
/// the size in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    name: [u8; 32],
    numbers: [u32; 13],
}

// === impl NetnsFingerprint ===

impl NetnsFingerprint {
    /// Takes the fingerprint of the thread's current namespace, to which `listener` and `rules` belong. `last`: the
    /// interface that was up at the last look. `None`: no interface is up, or no rules are found whose changes would
    /// show.
    ///
    /// # Errors
    /// The kernel refuses the query, or the process or the kernel is out of a resource.
    pub(crate) fn take(
        listener: &TcpListener,
        rules: Option<&RuleEvents>,
        last: Option<Interface>,
    ) -> io::Result<Option<Self>> {
        let still = last.filter(|last| last.is_up(listener.as_raw_fd()).unwrap_or(false));
        let found = if still.is_some() { still } else { probe::network()? };
        let Some(interface) = found else { return Ok(None) };
        let mut legacy = Vec::new();
        for family in Family::of(listener)? {
            for name in family.tables()? {
                legacy.push((*family, family.shape(listener.as_raw_fd(), name)?));
            }
        }
        let shows = !legacy.is_empty() || rules.map_or(Ok(false), RuleEvents::is_touched)?;
        Ok(shows.then_some(Self { interface, legacy }))
    }

    /// The interface that was up.
    pub(crate) fn interface(&self) -> Interface {
        self.interface
    }

    /// Whether the interface is up and the legacy tables have not changed. A table whose query fails counts as
    /// changed. Legacy rules that replace as many rules of the same length are not noticed.
    pub(crate) fn is_steady(&self, listener: &TcpListener) -> bool {
        let shaped = |(family, before): &(Family, Shape)| {
            family.shape(listener.as_raw_fd(), before.name).is_ok_and(|now| now == *before)
        };
        self.interface.is_up(listener.as_raw_fd()).unwrap_or(false) && self.legacy.iter().all(shaped)
    }
}

// === impl Family ===

impl Family {
    /// The families that `listener` can be asked about. A pod whose listener is an IPv4 socket has no IPv6.
    fn of(listener: &TcpListener) -> io::Result<&'static [Self]> {
        Ok(if listener.local_addr()?.is_ipv6() { &[Self::V4, Self::V6] } else { &[Self::V4] })
    }

    /// The names of the legacy tables of the thread's current namespace. A query by name would create the table.
    fn tables(self) -> io::Result<Vec<[u8; 32]>> {
        let list = match self {
            Self::V4 => "/proc/thread-self/net/ip_tables_names",
            Self::V6 => "/proc/thread-self/net/ip6_tables_names",
        };
        match fs::read(list) {
            Ok(text) => names(&text),
            // The kernel has no legacy tables.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn shape(self, socket: RawFd, name: [u8; 32]) -> io::Result<Shape> {
        let level = match self {
            Self::V4 => libc::IPPROTO_IP,
            Self::V6 => libc::IPPROTO_IPV6,
        };
        let mut shape = Shape { name, numbers: [0; 13] };
        let mut length = mem::size_of::<Shape>() as libc::socklen_t;
        // SAFETY: both outlive the call, which writes at most `length` bytes into `shape`, all of it integers.
        let done =
            unsafe { libc::getsockopt(socket, level, GET_INFO, (&raw mut shape).cast(), &raw mut length) };
        if done == 0 { Ok(shape) } else { Err(io::Error::last_os_error()) }
    }
}

/// Reads a list of table names, one in each line.
fn names(text: &[u8]) -> io::Result<Vec<[u8; 32]>> {
    let names: Option<Vec<_>> = text
        .split(|byte| *byte == b'\n')
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut padded = [0; 32];
            padded.iter_mut().zip(name).for_each(|(to, from)| *to = *from);
            (name.len() < padded.len()).then_some(padded)
        })
        .collect();
    names.filter(|names| names.len() <= MAX_LEGACY_TABLES).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests;
