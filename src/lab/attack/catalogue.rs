//! The attacks, each with who makes it and what it does.

use std::{net::SocketAddr, sync::Arc};

use super::{
    agent,
    arena::{Arena, ECHO, MUTE},
    certificates, forged,
    hands::{Attack, hands},
    pod,
    script::{self, Script, play},
    stranger,
};
use crate::lab::{
    apps::{Background, Stop, background},
    valve::Valve,
};

/// The tunnels of a peer that attacks.
const TUNNELS: usize = 2;
const HBONE: u16 = 15008;
const STATS: u16 = 15020;
const READINESS: u16 = 15021;

/// Who attacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// Somebody without a certificate of the mesh.
    Stranger,
    /// A peer with a certificate of the mesh.
    Peer,
    /// A pod of the node.
    Pod,
    /// The CNI's agent of the node.
    Agent,
}

/// Opens a valve again at the end.
struct Opens(Valve);

impl Drop for Opens {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// The rate at which a slow reader takes the log, in bytes a second.
const SLOW_READER: u64 = 20 << 10;

/// An attack of the catalogue.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    /// The name on the command line.
    pub(super) name: &'static str,
    /// Who attacks.
    pub(super) who: Who,
    /// What is done, for the table.
    pub(super) what: &'static str,
    begin: fn(&Arena) -> Result<Assault, String>,
}

/// An attack that runs.
pub(super) struct Assault {
    /// The attackers.
    pub(super) attackers: Vec<Attack>,
    /// The applications that help by doing nothing. They go on until the proxy has recovered.
    pub(super) helpers: Vec<Background<u64>>,
}

impl From<Attack> for Assault {
    fn from(attack: Attack) -> Self {
        Self { attackers: vec![attack], helpers: Vec::new() }
    }
}

// === impl Who ===

impl Who {
    /// The word of the table.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Stranger => "stranger",
            Self::Peer => "peer",
            Self::Pod => "pod",
            Self::Agent => "agent",
        }
    }
}

// === impl Entry ===

impl Entry {
    /// Begins the attack.
    pub(super) fn begin(&self, arena: &Arena) -> Result<Assault, String> {
        (self.begin)(arena)
    }
}

/// An entry of the catalogue.
macro_rules! entry {
    ($name:literal, $who:ident, $what:literal, $begin:expr) => {
        Entry { name: $name, who: Who::$who, what: $what, begin: $begin }
    };
}

/// All attacks, in the order in which they are made.
pub(super) const ALL: &[Entry] = &[
    entry!("half-open-tls", Stranger, "300 handshakes that stop after 11 bytes", |a| {
        Ok(stranger::half_open(a.pod("stranger")?, a.at("target", HBONE)?)?.into())
    }),
    entry!(
        "split-handshake",
        Stranger,
        "fifteen bytes: a record between two parts of a handshake message",
        |a| { Ok(stranger::split_messages(a.pod("stranger")?, a.at("target", HBONE)?)?.into()) }
    ),
    entry!("garbage", Stranger, "4 KiB that are no TLS", |a| {
        Ok(stranger::garbage(a.pod("stranger")?, a.at("target", HBONE)?)?.into())
    }),
    entry!(
        "bad-certificates",
        Stranger,
        "certificates of another authority with seven kinds of names",
        |a| { Ok(certificates::bad_certificates(a.pod("stranger")?, a.at("target", HBONE)?)?.into()) }
    ),
    entry!(
        "five-junk-certificates",
        Stranger,
        "chains of five intermediates, each of which may have signed each",
        |a| { Ok(certificates::junk_chains(a.pod("stranger")?, a.at("target", HBONE)?, 5)?.into()) }
    ),
    entry!("many-junk-certificates", Stranger, "chains of 50 such intermediates", |a| {
        Ok(certificates::junk_chains(a.pod("stranger")?, a.at("target", HBONE)?, 50)?.into())
    }),
    entry!("resets-of-tunnels", Stranger, "connections to 15008 that are reset at once", |a| {
        Ok(stranger::resets(a.pod("stranger")?, a.at("target", HBONE)?)?.into())
    }),
    entry!("resets-in-plaintext", Stranger, "plaintext connections that are reset at once", |a| {
        Ok(stranger::resets(a.pod("stranger")?, a.at("target", ECHO)?)?.into())
    }),
    entry!("plaintext-hoard", Stranger, "400 plaintext connections that say nothing", |a| {
        Ok(stranger::hoard(a.pod("stranger")?, a.at("target", ECHO)?, &[], 400)?.into())
    }),
    entry!(
        "aborted-plaintext",
        Stranger,
        "150 plaintext uploads, aborted; the application reads nothing",
        |a| { aborted(a, "stranger") }
    ),
    entry!(
        "forged-sources",
        Stranger,
        "requests for connections from 256 addresses, whose answers nobody takes",
        |a| {
            let SocketAddr::V4(to) = a.at("target", HBONE)? else { return Err("no IPv4 address".into()) };
            Ok(forged::requests(a.pod("stranger")?, to)?.into())
        }
    ),
    entry!("forged-answers", Stranger, "answers of a name server that nobody asked, to all ports", |a| {
        Ok(stranger::forged_answers(a.pod("stranger")?, a.ip("rogue")?)?.into())
    }),
    entry!("operators-ports", Stranger, "140 clients that keep asking on 15020 and 15021", |a| {
        let (from, node) = (a.pod("stranger")?, a.node_ip());
        let stats = stranger::keep_asking(from, (node, STATS).into(), "/metrics")?;
        let readiness = stranger::keep_asking(from, (node, READINESS).into(), "/healthz/ready")?;
        Ok(Assault { attackers: vec![stats, readiness], helpers: Vec::new() })
    }),
    entry!("rapid-resets", Peer, "requests that are reset at once", |a| peer(
        a,
        "target",
        script::rapid_resets
    )),
    entry!("made-you-resets", Peer, "requests that the server has to reset", |a| {
        peer(a, "target", script::made_you_resets)
    }),
    entry!("continuations", Peer, "a header block without an end", |a| peer(
        a,
        "target",
        script::continuations
    )),
    entry!("empty-data", Peer, "DATA without bytes", |a| peer(a, "target", script::empty_data)),
    entry!("single-bytes", Peer, "DATA of one byte", |a| peer(a, "target", script::single_bytes)),
    entry!("settings", Peer, "SETTINGS", |a| peer(a, "target", |_| script::settings())),
    entry!("pings", Peer, "PING", |a| peer(a, "target", |_| script::pings())),
    entry!("priorities", Peer, "PRIORITY", |a| peer(a, "target", |_| script::priorities())),
    entry!("window-updates", Peer, "WINDOW_UPDATE of one byte", |a| peer(a, "target", |_| {
        script::window_updates()
    })),
    entry!("unknown-frames", Peer, "frames of an unknown type", |a| peer(a, "target", |_| {
        script::unknown_frames()
    })),
    entry!("header-bombs", Peer, "fields of one byte that stand for 4,000", |a| peer(
        a,
        "target",
        script::header_bombs
    )),
    entry!("zero-windows", Peer, "190 streams whose answers may not be sent", |a| peer(
        a,
        "target",
        script::zero_windows
    )),
    entry!("many-streams", Peer, "600 streams on a tunnel that allows 200", |a| peer(
        a,
        "target",
        script::many_streams
    )),
    entry!("odd-authorities", Peer, "requests for what is no address", |a| {
        peer(a, "target", |_| script::odd_authorities())
    }),
    entry!("long-lines", Peer, "requests of 11 bytes whose refusal is a line of 4 KB", |a| {
        peer(a, "target", |_| script::long_lines())
    }),
    entry!("slow-log-reader", Peer, "the same, while the log is read at 20 KiB a second", |a| {
        let mut assault = peer(a, "target", |_| script::long_lines())?;
        let (log, here) = (a.log.clone(), a.node_namespace()?);
        log.narrow(SLOW_READER);
        let slow = background(here, move |mut stop: Stop| async move {
            let _opens = Opens(log);
            stop.stopped().await;
            0
        });
        assault.helpers.push(slow.map_err(|error| error.to_string())?);
        Ok(assault)
    }),
    entry!("baggage", Peer, "requests with 10 KB of baggage, each another one", |a| peer(
        a,
        "target",
        script::baggage
    )),
    entry!("refused-baggage", Peer, "the same, of a peer that policies refuse", |a| peer(
        a,
        "closed",
        script::baggage
    )),
    entry!(
        "aborted-tunnelled",
        Pod,
        "150 uploads through a tunnel, aborted; the application reads nothing",
        |a| { aborted(a, "client") }
    ),
    entry!("aborted-joined", Pod, "150 uploads between pods of the node, aborted likewise", |a| aborted(
        a, "rogue"
    )),
    entry!("queries", Pod, "queries for names, faster than they are answered", |a| {
        Ok(pod::queries(a.pod("rogue")?, SocketAddr::from(([10, 96, 0, 10], 53)))?.into())
    }),
    entry!("dns-hoard", Pod, "200 connections to the DNS proxy that ask nothing", |a| {
        Ok(stranger::hoard(a.pod("rogue")?, SocketAddr::from(([10, 96, 0, 10], 53)), &[], 200)?.into())
    }),
    entry!("dead-ends", Pod, "200 connections to where nobody answers", |a| {
        Ok(pod::dead_ends(a.pod("rogue")?, SocketAddr::from(([10, 77, 9, 9], 80)))?.into())
    }),
    entry!("hand-over-garbage", Agent, "packets to the hand-over of pods that are no requests", |a| {
        Ok(agent::garbage(a)?.into())
    }),
];

fn peer(arena: &Arena, pod: &str, script: fn(&str) -> Script) -> Result<Assault, String> {
    let door = arena.door(pod)?;
    let script = Arc::new(script(&arena.at(pod, ECHO)?.to_string()));
    let attack =
        hands(arena.pod("stranger")?, TUNNELS, move |blows| play(door.clone(), script.clone(), blows))?;
    Ok(attack.into())
}

fn aborted(arena: &Arena, from: &str) -> Result<Assault, String> {
    let helper = pod::reads_nothing(arena.pod("target")?, MUTE).map_err(|error| error.to_string())?;
    let attack = stranger::aborted_uploads(arena.pod(from)?, arena.at("target", MUTE)?)?;
    Ok(Assault { attackers: vec![attack], helpers: vec![helper] })
}
