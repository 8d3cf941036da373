//! Addresses for hosts and services that have none in the mesh file. An address is derived from the name, so the same
//! host has the same address in every mesh file. If two names yield the same address, the later name gets another
//! one.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
};

use crate::lab::control::hash::hash;

/// The address of the lab's control plane on the fabric; no host of a mesh file may have it.
pub const CONTROL_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 254));

/// A range for one kind of address; no range overlaps another.
#[derive(Clone, Copy)]
pub(super) struct Range {
    first: Ipv4Addr,
    count: u32,
}

pub(super) const NODES: Range = Range { first: Ipv4Addr::new(10, 77, 0, 1), count: 250 };
pub(super) const PODS: Range = Range { first: Ipv4Addr::new(10, 77, 64, 0), count: 1 << 14 };
pub(super) const OUTSIDE: Range = Range { first: Ipv4Addr::new(10, 77, 192, 0), count: 1 << 12 };
pub(super) const VIPS: Range = Range { first: Ipv4Addr::new(10, 96, 0, 1), count: (1 << 16) - 2 };

/// The addresses in use.
pub(super) struct Addresses {
    taken: HashSet<IpAddr>,
}

// === impl Addresses ===

impl Addresses {
    pub(super) fn new() -> Self {
        Self { taken: HashSet::from([CONTROL_IP]) }
    }

    /// Takes `ip`, and returns whether the address was free.
    pub(super) fn take(&mut self, ip: IpAddr) -> bool {
        self.taken.insert(ip)
    }

    /// Takes an address of `range` for the bearer of `name`; none if all addresses are in use.
    pub(super) fn choose(&mut self, range: Range, name: &[&str]) -> Option<IpAddr> {
        let start = u32::try_from(hash(name) % u64::from(range.count)).unwrap_or(0);
        (0..range.count)
            .map(|i| {
                let offset = (start + i) % range.count;
                IpAddr::V4(Ipv4Addr::from_bits(range.first.to_bits() + offset))
            })
            .find(|ip| self.taken.insert(*ip))
    }
}
