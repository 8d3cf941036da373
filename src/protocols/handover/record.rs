//! A connection as a value: what one process sends to the next one, beside the sockets.

use std::{net::SocketAddr, str::FromStr};

use http::HeaderValue;

use crate::protocols::{
    addr::HboneAddr,
    hbone::{
        headers::{Baggage, TraceParent},
        ledger::BadSnapshot,
    },
    identity::Identity,
    pb::handover as pb,
    relay::{
        Progress,
        frozen::{Frozen, FrozenDirection},
    },
};

/// The number of sockets of a record.
/// No limit: what a connection is made of.
pub(crate) const SOCKETS: usize = 2;

/// The kinds of connections that can be handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// A connection that a pod has opened and that no tunnel carries.
    Outbound,
    /// A plaintext connection to a pod.
    Plaintext,
    /// A connection between two pods of the node.
    Local,
    /// A tunnel that a pod has opened to a peer, with its streams.
    OutboundTunnel,
    /// A tunnel that a peer has opened to a pod, with its streams.
    InboundTunnel,
}

/// A connection that stands still.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    /// The kind of the connection.
    pub(crate) kind: Kind,
    /// What is known of the connection. For [`Kind::Local`] this is the client's side.
    pub(crate) side: Side,
    /// The server's side of [`Kind::Local`].
    pub(crate) beside: Option<Side>,
    /// The bytes on the way, from client to server and back.
    pub(crate) relay: Frozen,
    /// When the connection stopped, in microseconds since 1970.
    pub(crate) frozen_at_us: u64,
}

/// What policies, metrics and the access log know of one side of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Side {
    /// The pod.
    pub(crate) pod: PodPlace,
    /// The client.
    pub(crate) client: SocketAddr,
    /// The destination that policies see.
    pub(crate) destination: SocketAddr,
    /// The address that was dialled or accepted on.
    pub(crate) dialled: SocketAddr,
    /// The client's identity, as policies see it.
    pub(crate) identity: Option<Identity>,
    /// The host that the client asked for, as its proxy said.
    pub(crate) host: Option<Box<str>>,
    /// The uid of the client's workload.
    pub(crate) source_uid: Option<String>,
    /// The client's identity by mutual TLS.
    pub(crate) source_identity: Option<Identity>,
    /// The uid of the destination's workload.
    pub(crate) destination_uid: Option<String>,
    /// The destination's identity by mutual TLS.
    pub(crate) destination_identity: Option<Identity>,
    /// The namespace and the hostname of the service.
    pub(crate) service: Option<(String, String)>,
    /// The authority of the CONNECT.
    pub(crate) authority: Option<HboneAddr>,
    /// Whether the connection counts as one by mutual TLS.
    pub(crate) mtls: bool,
    /// The number of bytes so far, from the client and to the client.
    pub(crate) bytes: (u64, u64),
    /// How long ago the connection began, in microseconds.
    pub(crate) age_us: u64,
    /// The trace context of the connection.
    pub(crate) trace: Option<TraceParent>,
    /// The client's workload, as its proxy describes it.
    pub(crate) baggage: Option<Box<Baggage>>,
}

/// A pod, and its network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodPlace {
    /// The Kubernetes uid.
    pub(crate) uid: String,
    /// The device and inode of the namespace.
    pub(crate) netns: (u64, u64),
}

/// What is wrong with a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadRecord {
    /// The kind is not known to this version.
    #[error("a connection of kind {0}, which this version does not take")]
    Kind(i32),
    /// The number of sides does not fit the kind.
    #[error("a connection with {0} sides")]
    Sides(usize),
    /// A tunnel has no streams, or too many.
    #[error("a tunnel with {0} streams")]
    Streams(usize),
    /// The state of an HTTP/2 connection is none that HTTP/2 allows.
    #[error("an HTTP/2 connection with {0}")]
    Http2(BadSnapshot),
    /// A part of a tunnel is missing, or says what this version does not know.
    #[error("a tunnel whose {0} this version does not understand")]
    Part(&'static str),
    /// A direction is missing, or says what this version does not know.
    #[error("a direction that this version does not understand")]
    Direction,
    /// A field cannot be read.
    #[error("{field} cannot be read: {text:?}")]
    Field {
        /// The name of the field.
        field: &'static str,
        /// The text.
        text: String,
    },
}

// === impl Kind ===

impl Kind {
    /// The kinds of connections that no tunnel carries. Every version takes them.
    pub(crate) const PLAIN: [Self; 3] = [Self::Outbound, Self::Plaintext, Self::Local];
    /// All kinds.
    pub(crate) const ALL: [Self; 5] =
        [Self::Outbound, Self::Plaintext, Self::Local, Self::OutboundTunnel, Self::InboundTunnel];

    /// The value of the metric's label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Plaintext => "plaintext",
            Self::Local => "local",
            Self::OutboundTunnel => "outbound_tunnel",
            Self::InboundTunnel => "inbound_tunnel",
        }
    }

    pub(super) fn decode(kind: i32) -> Result<Self, BadRecord> {
        match pb::Kind::try_from(kind) {
            Ok(pb::Kind::Outbound) => Ok(Self::Outbound),
            Ok(pb::Kind::Plaintext) => Ok(Self::Plaintext),
            Ok(pb::Kind::Local) => Ok(Self::Local),
            Ok(pb::Kind::OutboundTunnel) => Ok(Self::OutboundTunnel),
            Ok(pb::Kind::InboundTunnel) => Ok(Self::InboundTunnel),
            Ok(pb::Kind::Unknown) | Err(_) => Err(BadRecord::Kind(kind)),
        }
    }

    pub(super) fn encode(self) -> i32 {
        match self {
            Self::Outbound => pb::Kind::Outbound,
            Self::Plaintext => pb::Kind::Plaintext,
            Self::Local => pb::Kind::Local,
            Self::OutboundTunnel => pb::Kind::OutboundTunnel,
            Self::InboundTunnel => pb::Kind::InboundTunnel,
        }
        .into()
    }
}

// === impl Record ===

impl Record {
    pub(super) fn decode(record: pb::Record) -> Result<Self, BadRecord> {
        let kind = Kind::decode(record.kind)?;
        if !Kind::PLAIN.contains(&kind) {
            return Err(BadRecord::Kind(record.kind));
        }
        let count = record.sides.len();
        let mut sides = record.sides.into_iter().map(Side::decode);
        let (Some(side), beside) = (sides.next(), sides.next()) else { return Err(BadRecord::Sides(count)) };
        if sides.next().is_some() || beside.is_some() != (kind == Kind::Local) {
            return Err(BadRecord::Sides(count));
        }
        Ok(Self {
            kind,
            side: side?,
            beside: beside.transpose()?,
            relay: Frozen { forth: direction(record.forward)?, back: direction(record.backward)? },
            frozen_at_us: record.frozen_at_us,
        })
    }

    pub(super) fn encode(self, number: u64) -> pb::Record {
        let Frozen { forth, back } = self.relay;
        pb::Record {
            number,
            kind: self.kind.encode(),
            sides: [Some(self.side), self.beside].into_iter().flatten().map(Side::encode).collect(),
            forward: Some(encode_direction(forth)),
            backward: Some(encode_direction(back)),
            frozen_at_us: self.frozen_at_us,
        }
    }
}

pub(super) fn direction(direction: Option<pb::Direction>) -> Result<FrozenDirection, BadRecord> {
    let pb::Direction { pending, progress } = direction.ok_or(BadRecord::Direction)?;
    let progress = match pb::Progress::try_from(progress) {
        Ok(pb::Progress::Open) => Progress::Open,
        Ok(pb::Progress::Finishing) => Progress::Finishing,
        Ok(pb::Progress::Ended) if pending.is_empty() => Progress::Ended,
        _ => return Err(BadRecord::Direction),
    };
    Ok(FrozenDirection { pending, progress })
}

pub(super) fn encode_direction(FrozenDirection { pending, progress }: FrozenDirection) -> pb::Direction {
    let progress = match progress {
        Progress::Open => pb::Progress::Open,
        Progress::Finishing => pb::Progress::Finishing,
        Progress::Ended => pb::Progress::Ended,
    };
    pb::Direction { pending, progress: progress.into() }
}

// === impl Side ===

impl Side {
    /// Notes that the connection stood still for so long, in microseconds.
    pub(crate) fn grow_older(&mut self, by_us: u64) {
        self.age_us = self.age_us.saturating_add(by_us);
    }

    pub(super) fn decode(side: pb::Side) -> Result<Self, BadRecord> {
        let identity = |text| optional("identity", text);
        let service = (side.service_namespace, side.service_host);
        Ok(Self {
            pod: PodPlace { uid: side.pod_uid, netns: (side.netns_dev, side.netns_ino) },
            client: required("client", &side.client)?,
            destination: required("destination", &side.destination)?,
            dialled: required("dialled", &side.dialled)?,
            identity: identity(&side.identity)?,
            host: some(side.host).map(String::into_boxed_str),
            source_uid: some(side.source_uid),
            source_identity: identity(&side.source_identity)?,
            destination_uid: some(side.destination_uid),
            destination_identity: identity(&side.destination_identity)?,
            service: (!service.1.is_empty()).then_some(service),
            authority: optional("authority", &side.authority)?,
            mtls: side.mtls,
            bytes: (side.received, side.sent),
            age_us: side.age_us,
            trace: TraceParent::from_text(&side.trace),
            baggage: Baggage::from_text(&side.baggage).map(Box::new),
        })
    }

    pub(super) fn encode(self) -> pb::Side {
        let text = |value: Option<&dyn ToString>| value.map(ToString::to_string).unwrap_or_default();
        let identity = |identity: &Option<Identity>| text(identity.as_ref().map(|id| id as _));
        let (identity, source_identity, destination_identity) =
            (identity(&self.identity), identity(&self.source_identity), identity(&self.destination_identity));
        let (service_namespace, service_host) = self.service.unwrap_or_default();
        let trace = self.trace.map(TraceParent::encode);
        let baggage = self.baggage.and_then(|baggage| baggage.encode("pod"));
        let header = |value: Option<HeaderValue>| {
            value.as_ref().and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
        };
        pb::Side {
            pod_uid: self.pod.uid,
            netns_dev: self.pod.netns.0,
            netns_ino: self.pod.netns.1,
            client: self.client.to_string(),
            destination: self.destination.to_string(),
            dialled: self.dialled.to_string(),
            identity,
            host: self.host.map(String::from).unwrap_or_default(),
            source_uid: self.source_uid.unwrap_or_default(),
            source_identity,
            destination_uid: self.destination_uid.unwrap_or_default(),
            destination_identity,
            service_namespace,
            service_host,
            authority: text(self.authority.as_ref().map(|authority| authority as _)),
            mtls: self.mtls,
            received: self.bytes.0,
            sent: self.bytes.1,
            age_us: self.age_us,
            trace: header(trace),
            baggage: header(baggage),
        }
    }
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

pub(super) fn required<T: FromStr>(field: &'static str, text: &str) -> Result<T, BadRecord> {
    text.parse().map_err(|_| BadRecord::Field { field, text: text.chars().take(64).collect() })
}

pub(super) fn optional<T: FromStr>(field: &'static str, text: &str) -> Result<Option<T>, BadRecord> {
    if text.is_empty() { Ok(None) } else { required(field, text).map(Some) }
}

#[cfg(test)]
pub(crate) mod tests;
