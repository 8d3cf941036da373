//! Decoding that workloads and services share (docs/spec/protos.md 1).

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::protocols::{identity::IdentityError, pb::workload as pb};

/// The longest name (uid, hostname, namespace/hostname, ...) a resource may hold, in bytes.
/// Limit: a name in a resource: 2048 bytes; past it: the resource is rejected.
pub(crate) const NAME_MAX_BYTES: usize = 2048;

/// Why a whole resource is refused. The error names the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A required field is absent or empty.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// The length of an address is neither 4 nor 16 bytes.
    #[error("{field}: {len} bytes are no IP address")]
    Ip {
        /// The field.
        field: &'static str,
        /// The length of the address in bytes.
        len: usize,
    },
    /// An enum value is unknown to this version or must not be accepted.
    #[error("{field}: value {value} is not supported")]
    Unknown {
        /// The field.
        field: &'static str,
        /// The wire value.
        value: i32,
    },
    /// A port is above 65535, or a prefix is longer than its address.
    #[error("{field}: {value} is out of range")]
    Range {
        /// The field.
        field: &'static str,
        /// The wire value.
        value: u32,
    },
    /// A name has a forbidden character, or lacks a required character.
    #[error("{field}: {value:?} {reason}")]
    Name {
        /// The field.
        field: &'static str,
        /// The start of the name.
        value: String,
        /// The fault of the name.
        reason: &'static str,
    },
    /// The trust domain, the namespace and the service account make no valid identity.
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
        // The last of several entries for a port counts. Reversed, that entry comes first in the stable sort.
        for entry in ports.iter().rev() {
            list.push((port(field, entry.service_port)?, port(field, entry.target_port)?));
        }
        if list.len() > 1 {
            list.sort_by_key(|&(service, _)| service);
            list.dedup_by_key(|&mut (service, _)| service);
        }
        Ok(Self(list.into_boxed_slice()))
    }

    /// The target of `service_port`. A target of 0 is left to each endpoint, and `None` means that there is no such
    /// port.
    pub fn target(&self, service_port: u16) -> Option<u16> {
        let at = self.0.binary_search_by_key(&service_port, |&(service, _)| service).ok()?;
        self.0.get(at).map(|&(_, target)| target)
    }

    /// The pairs of service port and target port, in order of service ports.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (u16, u16)> + '_ {
        self.0.iter().copied()
    }
}

// === impl ServiceName ===

impl ServiceName {
    /// Makes `namespace/hostname` of the two parts.
    pub fn new(namespace: &str, hostname: &str) -> Self {
        Self(format!("{namespace}/{hostname}").into())
    }

    /// # Errors
    /// The text has no `/`, or the hostname is empty or holds another `/`.
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

    /// The namespace and the hostname.
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

/// Decodes an address of 4 or 16 bytes. An IPv4-mapped IPv6 address becomes IPv4, as every address in a lookup does.
pub(super) fn ip(field: &'static str, bytes: &[u8]) -> Result<IpAddr, DecodeError> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        Ok(IpAddr::V4(Ipv4Addr::from(v4)))
    } else if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
        Ok(IpAddr::V6(Ipv6Addr::from(v6)).to_canonical())
    } else {
        Err(DecodeError::Ip { field, len: bytes.len() })
    }
}

/// Decodes the range of `address`. The result is `None` for a single host.
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
