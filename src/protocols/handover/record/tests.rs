//! Records come out of their bytes as they were, and what is wrong with one is named.

use bytes::Bytes;
use prost::Message as _;

use super::*;

/// A record of this kind, with every field set.
pub(crate) fn record(kind: Kind) -> Record {
    let direction = |pending: &'static [u8], progress| {
        let pending = Bytes::from_static(pending);
        FrozenDirection { pending, progress }
    };
    Record {
        kind,
        side: side("uid-1"),
        beside: (kind == Kind::Local).then(|| side("uid-2")),
        relay: Frozen {
            forth: direction(b"on the way", Progress::Finishing),
            back: direction(b"", Progress::Ended),
        },
        frozen_at_us: 17,
    }
}

fn side(uid: &str) -> Side {
    let identity = |account: &str| Identity::new("cluster.local", "default", account).ok();
    Side {
        pod: PodPlace { uid: uid.to_owned(), netns: (4, 4026531840) },
        client: "10.0.0.1:40000".parse().unwrap(),
        destination: "10.0.0.2:80".parse().unwrap(),
        dialled: "[fd00::2]:8080".parse().unwrap(),
        identity: identity("client"),
        host: Some("web.default.svc.cluster.local".into()),
        source_uid: Some("Kubernetes//Pod/default/client".into()),
        source_identity: identity("client"),
        destination_uid: Some("Kubernetes//Pod/default/server".into()),
        destination_identity: identity("server"),
        service: Some(("default".into(), "web.default.svc.cluster.local".into())),
        authority: Some("web.default:80".parse().unwrap()),
        mtls: true,
        bytes: (5, 6),
        age_us: 1_000_000,
        trace: Some(TraceParent { trace_id: 7, span_id: 8, sampled: true }),
        baggage: Baggage::from_text("k8s.cluster.name=east,k8s.namespace.name=ns,k8s.pod.name=web")
            .map(Box::new),
    }
}

fn round_trip(record: &Record) -> Result<Record, BadRecord> {
    let bytes = record.clone().encode(3).encode_to_vec();
    Record::decode(pb::Record::decode(&*bytes).unwrap())
}

#[test]
fn a_record_comes_out_of_its_bytes_as_it_was() {
    for kind in Kind::PLAIN {
        let full = record(kind);
        assert_eq!(round_trip(&full), Ok(full));
    }
    let mut bare = record(Kind::Plaintext);
    let Side { pod, client, destination, dialled, .. } = side("uid");
    bare.side = Side {
        pod,
        client,
        destination,
        dialled,
        identity: None,
        host: None,
        source_uid: None,
        source_identity: None,
        destination_uid: None,
        destination_identity: None,
        service: None,
        authority: None,
        mtls: false,
        bytes: (0, 0),
        age_us: 0,
        trace: None,
        baggage: None,
    };
    assert_eq!(round_trip(&bare), Ok(bare));
}

#[test]
fn what_is_wrong_with_a_record_is_named() {
    type Break = fn(&mut pb::Record);
    let breaks: [(&str, Break); 11] = [
        ("kind 9", |r| r.kind = 9),
        ("kind 0", |r| r.kind = 0),
        ("with 0 sides", |r| r.sides.clear()),
        ("with 2 sides", |r| r.sides.push(r.sides[0].clone())),
        ("with 1 sides", |r| r.kind = pb::Kind::Local.into()),
        ("direction", |r| r.forward = None),
        ("direction", |r| r.backward = Some(pb::Direction::default())),
        ("direction", |r| r.backward.as_mut().unwrap().pending = Bytes::from_static(b"after the end")),
        ("client cannot be read: \"nobody\"", |r| r.sides[0].client = "nobody".into()),
        ("identity cannot be read", |r| r.sides[0].identity = "spiffe:/x".into()),
        ("authority cannot be read", |r| r.sides[0].authority = ":".into()),
    ];
    for (named, break_it) in breaks {
        let mut broken = record(Kind::Outbound).encode(1);
        break_it(&mut broken);
        let error = Record::decode(broken).unwrap_err().to_string();
        assert!(error.contains(named), "{named}: {error}");
    }
}
