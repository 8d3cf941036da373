//! A tunnel as a value: what one process sends to the next one, beside the sockets.

use std::net::SocketAddr;

use crate::protocols::{
    handover::record::{BadRecord, Kind, PodPlace, Side, direction, encode_direction, optional, required},
    hbone::{
        frames::Role,
        frozen::{FrozenHttp2, FrozenStream},
        ledger::{PeerSettings, Snapshot, StreamSnapshot},
    },
    identity::Identity,
    pb::handover as pb,
    relay::frozen::Frozen,
    tls::{
        aead::Cipher,
        keys::{DirectionKeys, KeySource, SecretBytes},
        session::Session,
    },
};

/// The most streams of a tunnel that is handed over. Each has a descriptor.
/// Limit: streams of a tunnel that is handed over: 1024; past it: the tunnel stays where it is.
pub(crate) const MAX_STREAMS: usize = 1024;

/// A tunnel that stands still.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TunnelRecord {
    /// [`Kind::OutboundTunnel`] or [`Kind::InboundTunnel`].
    pub(crate) kind: Kind,
    /// The pod that has the tunnel's end.
    pub(crate) pod: PodPlace,
    /// The other end.
    pub(crate) peer: SocketAddr,
    /// The peer's identity, as far as it is known.
    pub(crate) peer_identity: Option<Identity>,
    /// The peer's certificates, leaf first, and when they were verified, in seconds since 1970. `None`: the process has
    /// no revocation lists.
    pub(crate) certificates: Option<(Vec<Vec<u8>>, u64)>,
    /// The TLS session.
    pub(crate) tls: Session,
    /// The HTTP/2 connection.
    pub(crate) http2: FrozenHttp2,
    /// The streams, in the order of their sockets.
    pub(crate) streams: Vec<StreamRecord>,
    /// When the tunnel stopped, in microseconds since 1970.
    pub(crate) frozen_at_us: u64,
}

/// A stream of a tunnel, and the connection that it carries.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StreamRecord {
    /// The stream.
    pub(crate) stream: FrozenStream,
    /// What is known of the connection. The pod is left out.
    pub(crate) side: Side,
    /// The bytes on the way, from client to server and back.
    pub(crate) relay: Frozen,
}

// === impl TunnelRecord ===

impl TunnelRecord {
    pub(super) fn decode(tunnel: pb::Tunnel) -> Result<Self, BadRecord> {
        let kind = Kind::decode(tunnel.kind)?;
        let role = match kind {
            Kind::OutboundTunnel => Role::Client,
            Kind::InboundTunnel => Role::Server,
            Kind::Outbound | Kind::Plaintext | Kind::Local => return Err(BadRecord::Kind(tunnel.kind)),
        };
        let count = tunnel.streams.len();
        if count == 0 || count > MAX_STREAMS {
            return Err(BadRecord::Streams(count));
        }
        let certificates = tunnel.certificates;
        Ok(Self {
            kind,
            pod: PodPlace { uid: tunnel.pod_uid, netns: (tunnel.netns_dev, tunnel.netns_ino) },
            peer: required("peer", &tunnel.peer)?,
            peer_identity: optional("peer identity", &tunnel.peer_identity)?,
            certificates: (!certificates.is_empty()).then_some((certificates, tunnel.verified_at)),
            tls: session(tunnel.tls.ok_or(BadRecord::Part("TLS session"))?)?,
            http2: http2(tunnel.http2.ok_or(BadRecord::Part("HTTP/2 connection"))?, role)?,
            streams: tunnel.streams.into_iter().map(StreamRecord::decode).collect::<Result<_, _>>()?,
            frozen_at_us: tunnel.frozen_at_us,
        })
    }

    pub(super) fn encode(self, number: u64) -> pb::Tunnel {
        let (certificates, verified_at) = self.certificates.unwrap_or_default();
        pb::Tunnel {
            number,
            kind: self.kind.encode(),
            pod_uid: self.pod.uid,
            netns_dev: self.pod.netns.0,
            netns_ino: self.pod.netns.1,
            peer: self.peer.to_string(),
            peer_identity: self.peer_identity.map(|id| id.to_string()).unwrap_or_default(),
            certificates,
            verified_at,
            tls: Some(encode_session(self.tls)),
            http2: Some(encode_http2(self.http2)),
            streams: self.streams.into_iter().map(StreamRecord::encode).collect(),
            frozen_at_us: self.frozen_at_us,
        }
    }
}

// === impl StreamRecord ===

impl StreamRecord {
    fn decode(stream: pb::Stream) -> Result<Self, BadRecord> {
        let pb::Stream { id, side, forward, backward, received, ended, finished } = stream;
        Ok(Self {
            stream: FrozenStream { id, received, ended, finished, sent: 0 },
            side: Side::decode(side.ok_or(BadRecord::Part("stream"))?)?,
            relay: Frozen { forth: direction(forward)?, back: direction(backward)? },
        })
    }

    fn encode(self) -> pb::Stream {
        let FrozenStream { id, received, ended, finished, sent: _ } = self.stream;
        let Frozen { forth, back } = self.relay;
        pb::Stream {
            id,
            side: Some(self.side.encode()),
            forward: Some(encode_direction(forth)),
            backward: Some(encode_direction(back)),
            received,
            ended,
            finished,
        }
    }
}

fn session(session: pb::TlsSession) -> Result<Session, BadRecord> {
    let unknown = BadRecord::Part("TLS session");
    let (cipher, is_tls13) = match pb::Suite::try_from(session.suite) {
        Ok(pb::Suite::Tls13Aes128GcmSha256) => (Cipher::Aes128, true),
        Ok(pb::Suite::Tls13Aes256GcmSha384) => (Cipher::Aes256, true),
        Ok(pb::Suite::Tls12Aes128Gcm) => (Cipher::Aes128, false),
        Ok(pb::Suite::Tls12Aes256Gcm) => (Cipher::Aes256, false),
        Ok(pb::Suite::Unknown) | Err(_) => return Err(unknown),
    };
    let keys = |keys: Option<pb::TlsKeys>| {
        let keys = keys.ok_or(unknown.clone())?;
        let secret = SecretBytes::new(&keys.secret);
        let source = if is_tls13 {
            KeySource::Traffic(secret)
        } else {
            let salt = keys.salt[..].try_into().map_err(|_| unknown.clone())?;
            KeySource::Fixed { key: secret, salt }
        };
        Ok(DirectionKeys { cipher, source, sequence: keys.sequence })
    };
    Ok(Session {
        seal: keys(session.seal)?,
        open: keys(session.open)?,
        rekey_due: session.rekey_due,
        idle_records: u8::try_from(session.idle_records).map_err(|_| unknown)?,
        unread: session.unread,
        unopened: session.unopened,
        unsent: session.unsent,
    })
}

fn encode_session(session: Session) -> pb::TlsSession {
    let suite = match (&session.seal.source, session.seal.cipher) {
        (KeySource::Traffic(_), Cipher::Aes128) => pb::Suite::Tls13Aes128GcmSha256,
        (KeySource::Traffic(_), Cipher::Aes256) => pb::Suite::Tls13Aes256GcmSha384,
        (KeySource::Fixed { .. }, Cipher::Aes128) => pb::Suite::Tls12Aes128Gcm,
        (KeySource::Fixed { .. }, Cipher::Aes256) => pb::Suite::Tls12Aes256Gcm,
    };
    let keys = |keys: &DirectionKeys| {
        let (secret, salt) = match &keys.source {
            KeySource::Traffic(secret) => (secret, Vec::new()),
            KeySource::Fixed { key, salt } => (key, salt.to_vec()),
        };
        Some(pb::TlsKeys { secret: secret.expose().to_vec(), salt, sequence: keys.sequence })
    };
    pb::TlsSession {
        suite: suite.into(),
        seal: keys(&session.seal),
        open: keys(&session.open),
        rekey_due: session.rekey_due,
        idle_records: session.idle_records.into(),
        unread: session.unread,
        unopened: session.unopened,
        unsent: session.unsent,
    }
}

fn http2(http2: pb::Http2, role: Role) -> Result<FrozenHttp2, BadRecord> {
    let stream = |pb::OpenStream { id, send, receive, sent_all, received_all }| StreamSnapshot {
        id,
        send,
        receive,
        sent_all,
        received_all,
    };
    let ledger = Snapshot {
        role,
        send: http2.send,
        receive: http2.receive,
        peer: PeerSettings { initial_window: http2.peer_initial_window, max_frame: http2.peer_max_frame },
        own_initial: http2.own_initial_window,
        own_pending: http2.own_pending.into_iter().map(|settings| settings.initial_window).collect(),
        acks_owed: http2.acks_owed,
        last_own: http2.last_own,
        last_peer: http2.last_peer,
        goaway_sent: http2.goaway_sent,
        goaway_received: http2.goaway_received,
        streams: http2.open.into_iter().map(stream).collect(),
        reset: http2.reset,
    };
    ledger.check().map_err(BadRecord::Http2)?;
    Ok(FrozenHttp2 { ledger, unread: http2.unread, unsent: http2.unsent })
}

fn encode_http2(FrozenHttp2 { ledger, unread, unsent }: FrozenHttp2) -> pb::Http2 {
    let stream = |stream: StreamSnapshot| pb::OpenStream {
        id: stream.id,
        send: stream.send,
        receive: stream.receive,
        sent_all: stream.sent_all,
        received_all: stream.received_all,
    };
    let pending = |initial_window| pb::PendingSettings { initial_window };
    pb::Http2 {
        send: ledger.send,
        receive: ledger.receive,
        peer_initial_window: ledger.peer.initial_window,
        peer_max_frame: ledger.peer.max_frame,
        own_initial_window: ledger.own_initial,
        own_pending: ledger.own_pending.into_iter().map(pending).collect(),
        acks_owed: ledger.acks_owed,
        last_own: ledger.last_own,
        last_peer: ledger.last_peer,
        goaway_sent: ledger.goaway_sent,
        goaway_received: ledger.goaway_received,
        open: ledger.streams.into_iter().map(stream).collect(),
        reset: ledger.reset,
        unread,
        unsent,
    }
}

#[cfg(test)]
pub(crate) mod tests;
