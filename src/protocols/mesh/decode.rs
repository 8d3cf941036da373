//! What is shared by decoding workloads and services (docs/spec/protos.md 1).

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::protocols::{identity::IdentityError, pb::workload as pb};

/// The longest name (uid, hostname, namespace/hostname, ...) a resource may hold, in bytes.
/// Limit: a name in a resource: 2048 bytes; past it: the resource is rejected.
pub(crate) const NAME_MAX_BYTES: usize = 2048;

/// Why a resource is refused as a whole. Names the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A field that must be there is absent or empty.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// An address of neither 4 nor 16 bytes.
    #[error("{field}: {len} bytes are no IP address")]
    Ip {
        /// The field.
        field: &'static str,
        /// How many bytes it had.
        len: usize,
    },
    /// An enum value this version does not know, or may not accept.
    #[error("{field}: value {value} is not supported")]
    Unknown {
        /// The field.
        field: &'static str,
        /// The wire value.
        value: i32,
    },
    /// A port above 65535 or a prefix longer than its address.
    #[error("{field}: {value} is out of range")]
    Range {
        /// The field.
        field: &'static str,
        /// The wire value.
        value: u32,
    },
    /// A name with a character it may not have, or without one it must have.
    #[error("{field}: {value:?} {reason}")]
    Name {
        /// The field.
        field: &'static str,
        /// The start of the name.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Trust domain, namespace and service account make no identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Service ports and the ports behind them, at most one target for each service port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ports(Box<[(u16, u16)]>);

/// A service's key: `namespace/hostname`, which is also its resource name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName(Box<str>);

// === impl DecodeError ===

impl DecodeError {
    pub(super) fn name(field: &'static str, value: &str, reason: &'static str) -> Self {
        Self::Name { field, value: value.chars().take(64).collect(), reason }
    }
}

// === impl Ports ===

impl Ports {
    pub(super) fn decode(field: &'static str, ports: &[pb::Port]) -> Result<Self, DecodeError> {
        let mut list = Vec::with_capacity(ports.len());
        // The last of several entries for a port counts: it comes first for the stable sort.
        for entry in ports.iter().rev() {
            list.push((port(field, entry.service_port)?, port(field, entry.target_port)?));
        }
        if list.len() > 1 {
            list.sort_by_key(|&(service, _)| service);
            list.dedup_by_key(|&mut (service, _)| service);
        }
        Ok(Self(list.into_boxed_slice()))
    }

    /// The target of `service_port`: 0 is a port the service leaves to each endpoint, `None` one it does not have.
    pub fn target(&self, service_port: u16) -> Option<u16> {
        let at = self.0.binary_search_by_key(&service_port, |&(service, _)| service).ok()?;
        self.0.get(at).map(|&(_, target)| target)
    }

    /// (service port, target port), in order of service ports.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (u16, u16)> + '_ {
        self.0.iter().copied()
    }
}

// === impl ServiceName ===

impl ServiceName {
    /// `namespace/hostname` of its two parts.
    pub fn new(namespace: &str, hostname: &str) -> Self {
        Self(format!("{namespace}/{hostname}").into())
    }

    /// # Errors
    /// There is no `/`, or what follows it is empty or holds another one.
    pub(super) fn decode(field: &'static str, text: String) -> Result<Self, DecodeError> {
        bounded(field, &text)?;
        match text.split_once('/') {
            Some((_, hostname)) if !hostname.is_empty() && !hostname.contains('/') => {
                Ok(Self(text.into_boxed_str()))
            }
            _ => Err(DecodeError::name(field, &text, "is not namespace/hostname")),
        }
    }

    pub(super) fn of_parts(
        field: &'static str,
        namespace: &str,
        hostname: &str,
    ) -> Result<Self, DecodeError> {
        if namespace.contains('/') {
            return Err(DecodeError::name(field, namespace, "is no namespace"));
        }
        Self::decode(field, format!("{namespace}/{hostname}"))
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        self.parts().0
    }

    /// The hostname.
    pub fn hostname(&self) -> &str {
        self.parts().1
    }

    /// Both at once.
    pub fn parts(&self) -> (&str, &str) {
        self.0.split_once('/').unwrap_or(("", &self.0))
    }

    /// `namespace/hostname`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for ServiceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

pub(super) fn bounded(field: &'static str, text: &str) -> Result<(), DecodeError> {
    if text.len() > NAME_MAX_BYTES {
        return Err(DecodeError::name(field, text, "is longer than 2048 bytes"));
    }
    Ok(())
}

pub(super) fn port(field: &'static str, value: u32) -> Result<u16, DecodeError> {
    u16::try_from(value).map_err(|_| DecodeError::Range { field, value })
}

/// An address of 4 or 16 bytes; IPv4 mapped into IPv6 becomes IPv4, as every address that is looked up.
pub(super) fn ip(field: &'static str, bytes: &[u8]) -> Result<IpAddr, DecodeError> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        Ok(IpAddr::V4(Ipv4Addr::from(v4)))
    } else if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
        Ok(IpAddr::V6(Ipv6Addr::from(v6)).to_canonical())
    } else {
        Err(DecodeError::Ip { field, len: bytes.len() })
    }
}

/// The range of `address`, or `None` if it is a single host.
pub(super) fn prefix(
    field: &'static str,
    address: &pb::NetworkAddress,
) -> Result<Option<IpNet>, DecodeError> {
    let ip = ip(field, &address.address)?;
    let Some(length) = address.length else { return Ok(None) };
    let bad = DecodeError::Range { field, value: length };
    let mapped = ip.is_ipv4() && address.address.len() == 16;
    let length = if mapped { length.checked_sub(96).ok_or(bad.clone())? } else { length };
    let length = u8::try_from(length).map_err(|_| bad.clone())?;
    let net = IpNet::new(ip, length).map_err(|_| bad)?;
    Ok((length < net.max_prefix_len()).then(|| net.trunc()))
}
