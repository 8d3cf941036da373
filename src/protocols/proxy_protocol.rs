//! PROXY protocol version 2 towards applications behind an application tunnel (docs/spec/dataplane.md 2.5).

use std::net::{IpAddr, SocketAddr};

use super::identity::Identity;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Type of the entry that carries the client's SPIFFE id.
const IDENTITY: u8 = 0xD0;

/// The header of a connection from `src` to `dst`, with the client's identity if it has one.
pub(crate) fn encode(src: SocketAddr, dst: SocketAddr, identity: Option<&Identity>) -> Vec<u8> {
    let mut addresses = Vec::with_capacity(36);
    let family = match (src.ip(), dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            addresses.extend(src.octets());
            addresses.extend(dst.octets());
            0x11
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            addresses.extend(src.octets());
            addresses.extend(dst.octets());
            0x21
        }
        // The header carries no addresses if the two ends differ in address family.
        _ => 0x01,
    };
    if !addresses.is_empty() {
        addresses.extend(src.port().to_be_bytes());
        addresses.extend(dst.port().to_be_bytes());
    }
    if let Some(identity) = identity {
        // Identities are at most 2,048 bytes long.
        let len = u16::try_from(identity.as_str().len()).unwrap_or(u16::MAX);
        addresses.push(IDENTITY);
        addresses.extend(len.to_be_bytes());
        addresses.extend(identity.as_str().as_bytes());
    }
    let len = u16::try_from(addresses.len()).unwrap_or(u16::MAX);
    let mut header = Vec::with_capacity(16 + addresses.len());
    header.extend(SIGNATURE);
    header.extend([0x21, family]);
    header.extend(len.to_be_bytes());
    header.extend(addresses);
    header
}

#[cfg(test)]
mod tests;
