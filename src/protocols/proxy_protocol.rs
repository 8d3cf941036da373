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
        // The receiver takes no addresses from a connection whose ends differ in family.
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
mod tests {
    use super::*;

    #[test]
    fn headers_byte_by_byte() {
        let identity: Identity = "spiffe://td/ns/n/sa/s".parse().unwrap();
        let v4 = encode("1.2.3.4:5".parse().unwrap(), "6.7.8.9:258".parse().unwrap(), Some(&identity));
        let mut want = SIGNATURE.to_vec();
        want.extend([0x21, 0x11, 0, 12 + 3 + 21, 1, 2, 3, 4, 6, 7, 8, 9, 0, 5, 1, 2, 0xD0, 0, 21]);
        want.extend(b"spiffe://td/ns/n/sa/s");
        assert_eq!(v4, want);
        let v6 = encode("[::1]:1".parse().unwrap(), "[::2]:2".parse().unwrap(), None);
        assert_eq!((v6[13], v6[15], v6.len()), (0x21, 36, 16 + 36));
        let mixed = encode("[::1]:1".parse().unwrap(), "1.2.3.4:2".parse().unwrap(), None);
        assert_eq!(mixed[12..], [0x21, 0x01, 0, 0]);
    }
}
