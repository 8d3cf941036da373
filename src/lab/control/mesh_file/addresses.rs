//! Addresses for hosts and services that were given none: found from the name, so that the same host has the same
//! address in every mesh file, whatever stands around it. Only two names that meet at one address move the later one.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
};

use super::CONTROL_IP;

/// A range that one kind of address is taken from; none begins or ends another.
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

    /// Takes `ip`; whether it was free.
    pub(super) fn take(&mut self, ip: IpAddr) -> bool {
        self.taken.insert(ip)
    }

    /// Takes an address of `range` for the bearer of `name`; none if all are in use.
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

/// 64-bit FNV-1a with a final mix, over the parts and their bounds. It must never change: addresses follow from it.
pub(in crate::lab::control) fn hash(parts: &[&str]) -> u64 {
    hash_bytes(parts.iter().map(|part| part.as_bytes()))
}

/// The same of bytes.
pub(in crate::lab::control) fn hash_bytes<'a>(parts: impl Iterator<Item = &'a [u8]>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for byte in part.iter().chain(&[0]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 29)
}
