//! The outline of an offer is that of the offer, whatever else the message says.

use super::*;
use crate::protocols::{
    handover::{
        message::{Hello, Verdict, encode_hello, encode_record, encode_tunnel, encode_verdict},
        record::tests::record,
        tunnel::tests::tunnel,
    },
    pb::handover as pb,
    tls::aead::Cipher,
};

#[test]
fn an_offer_is_known_by_its_number_kind_and_sockets() {
    for kind in Kind::PLAIN {
        let outline = Outline { kind, connections: 1, sockets: 2 };
        let offered = Offered { number: 9, outline: Ok(outline) };
        assert_eq!(Offered::read(&encode_record(9, record(kind))), Ok(Some(offered)));
    }
    for kind in [Kind::OutboundTunnel, Kind::InboundTunnel] {
        let outline = Outline { kind, connections: 2, sockets: 3 };
        let offered = Offered { number: 8, outline: Ok(outline) };
        let message = encode_tunnel(8, tunnel(kind, true, Cipher::Aes256));
        assert_eq!(Offered::read(&message), Ok(Some(offered)));
    }
}

#[test]
fn what_is_no_offer_is_none() {
    assert_eq!(Offered::read(&encode_hello(&Hello::new("1", "one"))), Ok(None));
    assert_eq!(Offered::read(&encode_verdict(&Verdict { number: 1, taken: Ok(()) })), Ok(None));
    assert!(matches!(Offered::read(&[0xff]), Err(BadMessage::Undecodable(_))));
}

#[test]
fn an_offer_that_cannot_be_held_keeps_its_number() {
    let record = |kind| pb::message::Body::Record(pb::Record { number: 5, kind, ..Default::default() });
    let tunnel = |kind, streams| {
        let streams = vec![pb::Stream::default(); streams];
        pb::message::Body::Tunnel(pb::Tunnel { number: 5, kind, streams, ..Default::default() })
    };
    let (outbound, outbound_tunnel) = (Kind::Outbound.encode(), Kind::OutboundTunnel.encode());
    for (body, bad) in [
        (record(77), BadRecord::Kind(77)),
        (record(outbound_tunnel), BadRecord::Kind(outbound_tunnel)),
        (tunnel(outbound, 1), BadRecord::Kind(outbound)),
        (tunnel(77, 1), BadRecord::Kind(77)),
        (tunnel(outbound_tunnel, 0), BadRecord::Streams(0)),
        (tunnel(outbound_tunnel, MAX_STREAMS + 1), BadRecord::Streams(MAX_STREAMS + 1)),
    ] {
        let message = pb::Message { body: Some(body) }.encode_to_vec();
        assert_eq!(Offered::read(&message), Ok(Some(Offered { number: 5, outline: Err(bad) })));
    }
}
