//! What stands before the bytes of a connection: the request of a SOCKS client, and the PROXY header for applications.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

use super::{input::Input, wire::in_time};
use crate::protocols::{
    identity::Identity,
    proxy_protocol,
    socks5::{self, Target},
};

/// What a SOCKS client's bytes are by RFC 1928.
#[derive(Debug, PartialEq, Eq)]
enum Greeting {
    /// A request, and the number of its bytes.
    Request(Target, usize),
    /// The bytes break the protocol, ask for what is not supported, or end too early.
    Refused,
}

/// The first bytes of a SOCKS client, in any pieces.
pub fn socks5(data: &[u8]) {
    let mut input = Input::new(data);
    let piece = 1 + input.below(40);
    let bytes = input.rest();
    in_time(async {
        let (mut client, mut proxy) = duplex(64);
        let say = async {
            for piece in bytes.chunks(piece) {
                if client.write_all(piece).await.is_err() {
                    break;
                }
            }
            let _ = client.shutdown().await;
            let mut told = Vec::new();
            let _ = client.read_to_end(&mut told).await;
            told
        };
        let serve = async move {
            let target = socks5::accept(&mut proxy).await;
            let mut rest = Vec::new();
            match &target {
                Ok(_) => {
                    socks5::reply(&mut proxy, socks5::Reply::Granted).await.unwrap();
                    proxy.read_to_end(&mut rest).await.unwrap();
                }
                Err(error) => {
                    if let Some(reply) = error.reply() {
                        let _ = socks5::reply(&mut proxy, reply).await;
                    }
                }
            }
            (target, rest)
        };
        let (told, (target, rest)) = tokio::join!(say, serve);
        match (greeting(bytes), target) {
            (Greeting::Request(want, length), Ok(target)) => {
                assert_eq!(target, want);
                assert_eq!(rest, &bytes[length..], "bytes behind the request are lost");
                assert_eq!(told, [5, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
            }
            (Greeting::Refused, Err(error)) => assert!(!error.to_string().is_empty()),
            (want, target) => panic!("{target:?}, not {want:?}"),
        }
    });
}

fn greeting(bytes: &[u8]) -> Greeting {
    read_greeting(bytes).map_or(Greeting::Refused, |(target, length)| Greeting::Request(target, length))
}

fn read_greeting(bytes: &[u8]) -> Option<(Target, usize)> {
    let (&[5, methods], rest) = bytes.split_first_chunk()? else { return None };
    let (methods, rest) = rest.split_at_checked(methods.into())?;
    if !methods.contains(&0) {
        return None;
    }
    let (&[5, 1, _, kind], rest) = rest.split_first_chunk()? else { return None };
    let (host, rest) = match kind {
        1 => rest.split_at_checked(4)?,
        3 => {
            let (length, rest) = rest.split_first()?;
            rest.split_at_checked((*length).into())?
        }
        4 => rest.split_at_checked(16)?,
        _ => return None,
    };
    let (port, rest) = rest.split_first_chunk()?;
    let port = u16::from_be_bytes(*port);
    let target = match kind {
        1 => Target::Addr((Ipv4Addr::from(<[u8; 4]>::try_from(host).ok()?), port).into()),
        4 => Target::Addr((Ipv6Addr::from(<[u8; 16]>::try_from(host).ok()?), port).into()),
        _ => {
            let host = std::str::from_utf8(host).ok().filter(|host| !host.is_empty())?;
            match host.parse::<IpAddr>() {
                Ok(ip) => Target::Addr((ip, port).into()),
                Err(_) => Target::Host { host: host.to_ascii_lowercase(), port },
            }
        }
    };
    (port != 0).then_some((target, bytes.len() - rest.len()))
}

/// The header for an application about any connection. A reader of the specification reads what was meant.
pub fn proxy_protocol(data: &[u8]) {
    let mut input = Input::new(data);
    let mut end = || {
        let ip: IpAddr = match input.below(3) {
            0 => Ipv4Addr::from(input.u32()).into(),
            1 => Ipv4Addr::from(input.u32()).to_ipv6_mapped().into(),
            _ => {
                let mut octets = [0; 16];
                octets.fill_with(|| input.byte());
                Ipv6Addr::from(octets).into()
            }
        };
        SocketAddr::new(ip, input.u16())
    };
    let (src, dst) = (end(), end());
    let identity = Identity::new(&input.text(300), &input.text(100), &input.text(300)).ok();
    let header = proxy_protocol::encode(src, dst, identity.as_ref());
    let (ends, said) = read_header(&header).expect("a header");
    assert_eq!(ends, (src.is_ipv4() == dst.is_ipv4()).then_some((src, dst)));
    assert_eq!(said.as_deref(), identity.as_ref().map(Identity::as_str));
}

/// The two ends, and the identity, of a header of version 2 that is the whole of `bytes`.
type Header = (Option<(SocketAddr, SocketAddr)>, Option<String>);

fn read_header(bytes: &[u8]) -> Option<Header> {
    let rest = bytes.strip_prefix(b"\r\n\r\n\0\r\nQUIT\n\x21")?;
    let ([family, l0, l1], mut rest) = rest.split_first_chunk()?;
    if rest.len() != usize::from(u16::from_be_bytes([*l0, *l1])) {
        return None;
    }
    let width = match family {
        0x11 => 4,
        0x21 => 16,
        0x01 => 0,
        _ => return None,
    };
    let mut ends = None;
    if width > 0 {
        let (src, after) = rest.split_at_checked(width)?;
        let (dst, after) = after.split_at_checked(width)?;
        let ([s0, s1, d0, d1], after) = after.split_first_chunk()?;
        let ip = |octets: &[u8]| match octets.len() {
            4 => Some(IpAddr::from(<[u8; 4]>::try_from(octets).ok()?)),
            _ => Some(IpAddr::from(<[u8; 16]>::try_from(octets).ok()?)),
        };
        let end = |octets, port| Some(SocketAddr::new(ip(octets)?, u16::from_be_bytes(port)));
        ends = Some((end(src, [*s0, *s1])?, end(dst, [*d0, *d1])?));
        rest = after;
    }
    let mut identity = None;
    while let Some(([kind, l0, l1], after)) = rest.split_first_chunk() {
        let (value, after) = after.split_at_checked(u16::from_be_bytes([*l0, *l1]).into())?;
        if *kind == 0xD0 {
            identity = Some(String::from_utf8(value.to_vec()).ok()?);
        }
        rest = after;
    }
    rest.is_empty().then_some((ends, identity))
}
