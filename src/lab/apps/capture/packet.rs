//! Reads the headers of an Ethernet frame.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const ETHERNET_BYTES: usize = 14;
const IPV6_BYTES: usize = 40;
const TCP: u8 = 6;
const UDP: u8 = 17;
const FLAG_SYN: u8 = 2;

/// A parsed packet of a capture.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Packet<'a> {
    Tcp(Segment<'a>),
    Udp(&'a [u8]),
}

/// A TCP segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Segment<'a> {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) sequence: u32,
    pub(super) syn: bool,
    pub(super) payload: &'a [u8],
}

/// The packet in `frame`; none if the frame is neither TCP nor UDP, or is cut short.
pub(super) fn parse(frame: &[u8]) -> Option<Packet<'_>> {
    let ip = frame.get(ETHERNET_BYTES..)?;
    match frame.get(12..ETHERNET_BYTES)? {
        [0x08, 0x00] => {
            let header_bytes = usize::from(ip.first()? & 0xf) * 4;
            // A length of zero marks a batch too large for the field; the frame's own end counts then.
            let total = match usize::from(be16(ip, 2)?) {
                0 => ip.len(),
                total => total,
            };
            let (from, to) = (ip.get(12..16)?.first_chunk::<4>()?, ip.get(16..20)?.first_chunk::<4>()?);
            let (from, to) = (Ipv4Addr::from(*from).into(), Ipv4Addr::from(*to).into());
            transport(*ip.get(9)?, from, to, ip.get(header_bytes..total.min(ip.len()))?)
        }
        [0x86, 0xdd] => {
            let length = match usize::from(be16(ip, 4)?) {
                0 => ip.len(),
                length => (IPV6_BYTES + length).min(ip.len()),
            };
            let (from, to) = (ip.get(8..24)?.first_chunk::<16>()?, ip.get(24..40)?.first_chunk::<16>()?);
            let (from, to) = (Ipv6Addr::from(*from).into(), Ipv6Addr::from(*to).into());
            transport(*ip.get(6)?, from, to, ip.get(IPV6_BYTES..length)?)
        }
        _ => None,
    }
}

fn transport(protocol: u8, from: IpAddr, to: IpAddr, bytes: &[u8]) -> Option<Packet<'_>> {
    match protocol {
        TCP => {
            let header_bytes = usize::from(bytes.get(12)? >> 4) * 4;
            let sequence = u32::from_be_bytes(*bytes.get(4..8)?.first_chunk()?);
            Some(Packet::Tcp(Segment {
                from: SocketAddr::new(from, be16(bytes, 0)?),
                to: SocketAddr::new(to, be16(bytes, 2)?),
                sequence,
                syn: bytes.get(13)? & FLAG_SYN != 0,
                payload: bytes.get(header_bytes..)?,
            }))
        }
        UDP => Some(Packet::Udp(bytes.get(8..)?)),
        _ => None,
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_be_bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An IPv4 frame with a TCP segment, and padding as on short Ethernet frames.
    pub(in crate::lab::apps::capture) fn frame(
        ports: (u16, u16),
        sequence: u32,
        syn: bool,
        payload: &[u8],
    ) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend((40 + payload.len() as u16).to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, TCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend(ports.0.to_be_bytes());
        frame.extend(ports.1.to_be_bytes());
        frame.extend(sequence.to_be_bytes());
        frame.extend([0, 0, 0, 0, 0x50, if syn { FLAG_SYN } else { 0x10 }, 0, 0, 0, 0, 0, 0]);
        frame.extend(payload);
        frame.extend([0; 6]);
        frame
    }

    #[test]
    fn a_segment_is_read_without_the_padding_of_its_frame() {
        let frame = frame((1, 2), 7, true, b"abc");
        let Some(Packet::Tcp(segment)) = parse(&frame) else { panic!("not TCP") };
        assert_eq!(segment.from, "10.0.0.1:1".parse().unwrap());
        assert_eq!(segment.to, "10.0.0.2:2".parse().unwrap());
        assert_eq!((segment.sequence, segment.syn, segment.payload), (7, true, b"abc".as_slice()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>, v6: bool) {
            let mut frame = vec![0; 12];
            frame.extend(if v6 { [0x86, 0xdd] } else { [0x08, 0x00] });
            frame.extend(bytes);
            let _ = parse(&frame);
        }
    }
}
