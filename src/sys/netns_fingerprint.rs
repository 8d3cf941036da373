//! A cheap look into a pod's namespace: whether the rules that redirect its connections are as they were, and whether its
//! interface is still up. No rule is read. nf_tables counts its changes, and of a table of the legacy `iptables` the
//! kernel tells the size and the hooks without its rules.

use std::{
    ffi::CStr,
    fs,
    io::{self, Read},
    mem,
    net::TcpListener,
    os::fd::{AsRawFd, RawFd},
};

use socket2::{Domain, Protocol, Socket, Type};

use super::probe;

/// `nlmsghdr` and `nfgenmsg`.
/// No limit: the length of a header that the kernel fixes.
const HEAD: usize = 20;
/// Longer than the one answer there is.
/// Limit: the kernel's answer about nf_tables: 256 bytes; past it: the pod is examined every second.
const ANSWER: usize = 256;
/// The generation of a ruleset that nobody has touched.
/// No limit: a number that the kernel fixes.
const UNTOUCHED: u32 = 1;
/// Tables of a family whose shape is kept: the legacy `iptables` has five.
/// Limit: tables of the legacy iptables that are looked at, a family: 8; past it: the pod is examined every second.
const TABLES: usize = 8;
/// `IPT_SO_GET_INFO` and `IP6T_SO_GET_INFO`, of linux/netfilter_ipv4/ip_tables.h and its sister.
const GET_INFO: libc::c_int = 64;

/// What the network of a pod was like, and the socket in its namespace by which that is asked again.
/// Limit: descriptors that the audits of a pod keep: 1 socket; past it: the pod is examined every second without it.
#[derive(Debug)]
pub struct NetnsFingerprint {
    socket: Socket,
    interface: Interface,
    /// None where the kernel has no nf_tables.
    generation: Option<u32>,
    legacy: Vec<(Family, Shape)>,
}

/// An interface's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface([libc::c_char; libc::IFNAMSIZ]);

/// Where the kernel lists and tells of the legacy tables of a family.
#[derive(Clone, Copy, Debug)]
enum Family {
    V4,
    V6,
}

/// `ipt_getinfo`: the name of a table; its hooks, where their rules begin and end, how many rules there are, and bytes of
/// them.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    name: [u8; 32],
    numbers: [u32; 13],
}

// === impl Pulse ===

impl NetnsFingerprint {
    /// Takes it in the thread's current namespace, to which `listener` belongs; `None` where no interface is up, or no
    /// rules are found whose changes would show.
    ///
    /// # Errors
    /// The kernel does not tell, or the process or the kernel has run out of something.
    pub fn take(listener: &TcpListener) -> io::Result<Option<Self>> {
        let Some(interface) = probe::network()? else { return Ok(None) };
        let (domain, protocol) = (Domain::from(libc::AF_NETLINK), Protocol::from(libc::NETLINK_NETFILTER));
        let socket = Socket::new(domain, Type::RAW.nonblocking(), Some(protocol))?;
        let generation = match ask_generation(&socket) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => None,
            answered => Some(answered?),
        };
        let mut legacy = Vec::new();
        for family in Family::of(listener)? {
            for name in family.tables()? {
                legacy.push((*family, family.shape(listener.as_raw_fd(), name)?));
            }
        }
        let seen = generation.is_some_and(|generation| generation > UNTOUCHED) || !legacy.is_empty();
        Ok(seen.then_some(Self { socket, interface, generation, legacy }))
    }

    /// Whether the interface is up, and the rules are as they were. What it cannot ask has changed. Rules of the legacy
    /// `iptables` that take the place of as many others of the same length look the same.
    pub fn is_steady(&self, listener: &TcpListener) -> bool {
        let counted = |before| ask_generation(&self.socket).is_ok_and(|now| now == before);
        let shaped = |(family, before): &(Family, Shape)| {
            family.shape(listener.as_raw_fd(), before.name).is_ok_and(|now| now == *before)
        };
        self.interface.is_up(self.socket.as_raw_fd()).unwrap_or(false)
            && self.generation.is_none_or(counted)
            && self.legacy.iter().all(shaped)
    }
}

/// Asks for the number of the namespace's nf_tables ruleset, another one after each change by `nft` or today's
/// `iptables`.
fn ask_generation(socket: &Socket) -> io::Result<u32> {
    let mut question = [0; HEAD];
    let kind = (libc::NFNL_SUBSYS_NFTABLES << 8 | libc::NFT_MSG_GETGEN) as u16;
    let flags = libc::NLM_F_REQUEST as u16;
    let head = [&(HEAD as u32).to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes()];
    question.iter_mut().zip(head.into_iter().flatten()).for_each(|(to, from)| *to = *from);
    socket.send(&question)?;
    let mut answer = [0; ANSWER];
    // The kernel has answered before the question was sent off.
    let mut reader = socket;
    let length = reader.read(&mut answer)?;
    generation(answer.get(..length).unwrap_or_default())
}

/// Reads the answer: a message head, `nfgenmsg`, and attributes, one of which is the number.
fn generation(answer: &[u8]) -> io::Result<u32> {
    const NEW: libc::c_int = libc::NFNL_SUBSYS_NFTABLES << 8 | libc::NFT_MSG_NEWGEN;
    const ID: libc::c_int = 1;
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    let length = chunk(answer, 0).map(u32::from_ne_bytes).ok_or_else(malformed)?;
    let answer = answer.get(..length as usize).ok_or_else(malformed)?;
    match chunk(answer, 4).map(u16::from_ne_bytes).ok_or_else(malformed)?.into() {
        libc::NLMSG_ERROR => {
            let code = chunk(answer, 16).map(i32::from_ne_bytes).ok_or_else(malformed)?;
            Err(io::Error::from_raw_os_error(code.checked_neg().ok_or_else(malformed)?))
        }
        NEW => {
            let mut rest = answer.get(HEAD..).ok_or_else(malformed)?;
            loop {
                let length = chunk(rest, 0).map(u16::from_ne_bytes).ok_or_else(malformed)?;
                let kind = chunk(rest, 2).map(u16::from_ne_bytes).ok_or_else(malformed)?;
                let value = rest.get(4..usize::from(length)).ok_or_else(malformed)?;
                if libc::c_int::from(kind) == ID {
                    return value.try_into().map(u32::from_be_bytes).map_err(|_| malformed());
                }
                rest = rest.get(usize::from(length).next_multiple_of(4)..).ok_or_else(malformed)?;
            }
        }
        _ => Err(malformed()),
    }
}

/// The bytes of a number that begins at `at`.
fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

// === impl Interface ===

impl Interface {
    /// None for a name that no interface can have.
    pub(super) fn named(name: &CStr) -> Option<Self> {
        let mut padded = [0; libc::IFNAMSIZ];
        let bytes = name.to_bytes_with_nul();
        padded.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from as libc::c_char);
        (bytes.len() <= padded.len()).then_some(Self(padded))
    }

    /// Whether it is up and has a carrier, in the namespace of this socket.
    fn is_up(self, socket: RawFd) -> io::Result<bool> {
        // SAFETY: zeroes are a valid value of this structure of integers and a union of such.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        request.ifr_name = self.0;
        // SAFETY: the request outlives the call, which sets its flags.
        if unsafe { libc::ioctl(socket, libc::SIOCGIFFLAGS as _, &raw mut request) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has set them.
        let flags = i32::from(unsafe { request.ifr_ifru.ifru_flags });
        let wanted = libc::IFF_UP | libc::IFF_RUNNING;
        Ok(flags & wanted == wanted)
    }
}

// === impl Family ===

impl Family {
    /// Those that a socket can be asked about; a pod whose listener is one of IPv4 has no IPv6.
    fn of(listener: &TcpListener) -> io::Result<&'static [Self]> {
        Ok(if listener.local_addr()?.is_ipv6() { &[Self::V4, Self::V6] } else { &[Self::V4] })
    }

    /// The legacy tables of the thread's current namespace. To ask for one by name would make it.
    fn tables(self) -> io::Result<Vec<[u8; 32]>> {
        let list = match self {
            Self::V4 => "/proc/thread-self/net/ip_tables_names",
            Self::V6 => "/proc/thread-self/net/ip6_tables_names",
        };
        match fs::read(list) {
            Ok(text) => names(&text),
            // The kernel has none.
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

/// Reads a list of tables, one a line.
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
    names.filter(|names| names.len() <= TABLES).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, rest: &[u8]) -> Vec<u8> {
        let mut message = u32::try_from(16 + rest.len()).unwrap().to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(rest);
        message
    }

    const ANSWERED: u16 = 0x0a0f;
    /// `nfgenmsg`, an attribute of three bytes, the number.
    const NUMBER: [u8; 20] = [0, 0, 0, 0, 7, 0, 3, 0, b'n', b'f', 0, 0, 8, 0, 1, 0, 0, 0, 1, 7];

    #[test]
    fn an_answer_is_a_number_or_an_error_and_never_a_guess() {
        let number = message(ANSWERED, &NUMBER);
        assert_eq!(generation(&number).unwrap(), 263);
        let refused = generation(&message(2, &(-libc::EPERM).to_ne_bytes())).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        for short in 0..number.len() {
            assert!(generation(&number[..short]).is_err(), "cut at {short}");
            assert!(generation(&message(ANSWERED, &NUMBER[..short.min(NUMBER.len() - 1)])).is_err());
        }
    }

    #[test]
    fn malformed_answers_are_refused() {
        // The length of the whole message, of an attribute, of the number; an attribute that is too short to be one.
        for (at, byte) in [(0, 255), (20, 255), (28, 7), (28, 0), (20, 0), (20, 3)] {
            let mut answer = message(ANSWERED, &NUMBER);
            answer[at] = byte;
            assert_eq!(generation(&answer).unwrap_err().kind(), io::ErrorKind::InvalidData, "{at}: {byte}");
        }
        for (kind, rest) in
            [(ANSWERED, &NUMBER[..4]), (3, &NUMBER[..]), (2, &[]), (2, &i32::MIN.to_ne_bytes())]
        {
            assert_eq!(generation(&message(kind, rest)).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn lists_of_tables_are_read_up_to_a_bound() {
        assert!(names(b"").unwrap().is_empty());
        let two = names(b"nat\nmangle\n").unwrap();
        assert_eq!(two.len(), 2);
        assert!(two[0].starts_with(b"nat\0") && two[1].starts_with(b"mangle\0"));
        assert!(names(&[b'x'; 31]).is_ok());
        assert!(names(&[b'x'; 32]).is_err());
        assert!(names(&b"nat\n".repeat(TABLES)).is_ok());
        assert!(names(&b"nat\n".repeat(TABLES + 1)).is_err());
    }

    #[test]
    fn an_interface_is_up_or_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let up = |name| Interface::named(name).unwrap().is_up(listener.as_raw_fd());
        assert!(up(c"lo").unwrap());
        assert_eq!(up(c"warren-none").unwrap_err().raw_os_error(), Some(libc::ENODEV));
        assert_eq!(Interface::named(c"sixteen-letters."), None);
    }
}
