//! Tunnels come out of their bytes as they were, what is wrong with one is named, and no secret is shown.

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::protocols::{
    handover::record::tests::record,
    relay::{Progress, frozen::FrozenDirection},
};

/// A tunnel of this kind and suite, with every field set.
pub(crate) fn tunnel(kind: Kind, is_tls13: bool, cipher: Cipher) -> TunnelRecord {
    let role = if kind == Kind::InboundTunnel { Role::Server } else { Role::Client };
    let source = |byte: u8| match (is_tls13, cipher) {
        (true, Cipher::Aes128) => KeySource::Traffic(SecretBytes::new(&[byte; 32])),
        (true, Cipher::Aes256) => KeySource::Traffic(SecretBytes::new(&[byte; 48])),
        (false, Cipher::Aes128) => {
            KeySource::Fixed { key: SecretBytes::new(&[byte; 16]), salt: [1, 2, 3, 4] }
        }
        (false, Cipher::Aes256) => {
            KeySource::Fixed { key: SecretBytes::new(&[byte; 32]), salt: [1, 2, 3, 4] }
        }
    };
    let keys = |byte, sequence| DirectionKeys { cipher, source: source(byte), sequence };
    let direction = |pending: &'static [u8], progress| {
        let pending = Bytes::from_static(pending);
        FrozenDirection { pending, progress }
    };
    let stream = |id| StreamRecord {
        stream: FrozenStream {
            id,
            received: Bytes::from_static(b"received"),
            ended: false,
            finished: true,
            sent: 0,
        },
        side: record(Kind::Outbound).side,
        relay: Frozen {
            forth: direction(b"on the way", Progress::Open),
            back: direction(b"", Progress::Ended),
        },
    };
    let open = |id| StreamSnapshot { id, send: -5, receive: 70_000, sent_all: true, received_all: false };
    TunnelRecord {
        kind,
        pod: PodPlace { uid: "uid-1".to_owned(), netns: (4, 4_026_531_840) },
        peer: "10.0.0.2:15008".parse().unwrap(),
        peer_identity: Identity::new("cluster.local", "default", "server").ok(),
        certificates: Some((vec![vec![1, 2], vec![3]], 1_700_000_000)),
        tls: Session {
            seal: keys(0xab, 5),
            open: keys(0xcd, u64::MAX),
            rekey_due: true,
            idle_records: 3,
            unread: b"unread".to_vec(),
            unopened: b"unopened".to_vec(),
            unsent: b"unsent".to_vec(),
        },
        http2: FrozenHttp2 {
            ledger: Snapshot {
                role,
                send: 65_535,
                receive: 1 << 20,
                peer: PeerSettings { initial_window: 65_535, max_frame: 16_384 },
                own_initial: 1 << 16,
                own_pending: vec![Some(7), None],
                acks_owed: 1,
                last_own: 7,
                last_peer: 7,
                goaway_sent: Some(7),
                goaway_received: None,
                streams: vec![open(5), open(7)],
                reset: vec![1, 3],
            },
            unread: Bytes::from_static(b"frames"),
            unsent: Bytes::from_static(b"more frames"),
        },
        streams: vec![stream(5), stream(7)],
        frozen_at_us: 17,
    }
}

fn all() -> impl Iterator<Item = TunnelRecord> {
    let kinds = [Kind::InboundTunnel, Kind::OutboundTunnel].into_iter();
    let suites =
        [(true, Cipher::Aes128), (true, Cipher::Aes256), (false, Cipher::Aes128), (false, Cipher::Aes256)];
    kinds.flat_map(move |kind| suites.map(|(is_tls13, cipher)| tunnel(kind, is_tls13, cipher)))
}

fn round_trip(tunnel: pb::Tunnel) -> Result<TunnelRecord, BadRecord> {
    TunnelRecord::decode(pb::Tunnel::decode(&*tunnel.encode_to_vec()).unwrap())
}

#[test]
fn a_tunnel_comes_out_of_its_bytes_as_it_was() {
    for full in all() {
        assert_eq!(round_trip(full.clone().encode(3)), Ok(full));
    }
    let mut bare = tunnel(Kind::OutboundTunnel, true, Cipher::Aes256);
    (bare.peer_identity, bare.certificates) = (None, None);
    assert_eq!(round_trip(bare.clone().encode(3)), Ok(bare));
}

/// Makes a tunnel wrong.
type Spoil = fn(&mut pb::Tunnel);

#[test]
fn what_is_wrong_with_a_tunnel_is_named() {
    let wrong = |spoil: Spoil| {
        let mut encoded = tunnel(Kind::InboundTunnel, false, Cipher::Aes128).encode(3);
        spoil(&mut encoded);
        round_trip(encoded).unwrap_err().to_string()
    };
    let session = "a tunnel whose TLS session this version does not understand";
    let cases: [(Spoil, &str); 12] = [
        (|t| t.kind = 1, "a connection of kind 1, which this version does not take"),
        (|t| t.kind = 99, "a connection of kind 99, which this version does not take"),
        (|t| t.streams.clear(), "a tunnel with 0 streams"),
        (|t| t.streams = vec![pb::Stream::default(); 1025], "a tunnel with 1025 streams"),
        (|t| t.peer = "nowhere".into(), "peer cannot be read: \"nowhere\""),
        (|t| t.tls = None, session),
        (|t| t.tls.as_mut().unwrap().suite = 9, session),
        (|t| t.tls.as_mut().unwrap().open = None, session),
        (|t| t.tls.as_mut().unwrap().seal.as_mut().unwrap().salt = vec![1], session),
        (|t| t.tls.as_mut().unwrap().idle_records = 256, session),
        (|t| t.http2 = None, "a tunnel whose HTTP/2 connection this version does not understand"),
        (|t| t.streams[0].side = None, "a tunnel whose stream this version does not understand"),
    ];
    for (spoil, said) in cases {
        assert_eq!(wrong(spoil), said);
    }
    let http2 = wrong(|t| t.http2.as_mut().unwrap().open[0].id = 9);
    assert!(http2.starts_with("an HTTP/2 connection with "), "{http2}");
}

#[test]
fn no_secret_and_no_byte_of_an_application_is_shown() {
    let record = tunnel(Kind::InboundTunnel, true, Cipher::Aes128);
    let encoded = record.clone().encode(3);
    let keys = encoded.tls.as_ref().unwrap().seal.clone().unwrap();
    let shown = format!("{record:?} {keys:?}");
    // 0xab is 171, and 0xcd is 205.
    for secret in ["171", "205", "received\"", "frames\"", "on the way"] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
}

proptest! {
    #[test]
    fn a_changed_byte_is_a_tunnel_or_an_error(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = tunnel(Kind::InboundTunnel, true, Cipher::Aes256).encode(3).encode_to_vec();
        let at = at.index(bytes.len());
        bytes[at] = to;
        if let Ok(decoded) = pb::Tunnel::decode(&*bytes) {
            let _ = TunnelRecord::decode(decoded);
        }
    }
}
