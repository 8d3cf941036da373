//! The head of a CONNECT: its authority, and the headers that a peer adds to it.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};

use super::input::Input;
use crate::protocols::{
    addr::{HboneAddr, canonical},
    hbone::{
        headers::{
            BAGGAGE, Baggage, FORWARDED, FORWARDED_NETWORK, TRACEPARENT, TraceParent, forwarded,
            forwarded_host,
        },
        server::{BadRequest, parse},
    },
    identity::Identity,
    peer_text::{DNS_NAME_MAX_BYTES, LABEL_MAX_BYTES, NAME_MAX_BYTES},
};

/// The most bytes of an error's text: a text of a peer in quotes, each character of which may be escaped, and some words.
const ERROR_BYTES: usize = 12 * NAME_MAX_BYTES;

/// A request with any method, authority and headers. What is read of it is written and read again.
pub fn connect(data: &[u8]) {
    let mut input = Input::new(data);
    let method = input.word(&["CONNECT", "CONNECT", "GET"]);
    let authority =
        input.word(&["10.0.0.1:80", "[::1]:80", "[::ffff:10.0.0.1]:80", "web.ns1.svc.cluster.local:80"]);
    let mut map = HeaderMap::new();
    for _ in 0..input.below(8) {
        let names = [BAGGAGE, FORWARDED, TRACEPARENT, FORWARDED_NETWORK, HeaderName::from_static("x-other")];
        let name = input.pick(&names).clone();
        if let Ok(value) = HeaderValue::from_bytes(input.bytes(1000)) {
            map.append(name, value);
        }
    }
    read_headers(&map);
    write_headers(&mut input);
    authority_again(&authority);
    let Ok(uri) = Uri::builder().authority(authority.as_str()).build().or_else(|_| authority.parse::<Uri>())
    else {
        return;
    };
    let Ok(method) = Method::from_bytes(method.as_bytes()) else { return };
    let mut request = Request::new(());
    (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method.clone(), uri, map);
    match parse(&request) {
        Ok(connect) => {
            assert_eq!(method, Method::CONNECT);
            assert_eq!(connect.authority.to_string().parse(), Ok(connect.authority));
            assert!(connect.host.is_none_or(|host| host.len() <= DNS_NAME_MAX_BYTES));
            assert!(connect.network.is_none_or(|network| network.len() <= NAME_MAX_BYTES));
        }
        Err(error) => {
            assert_eq!(matches!(error, BadRequest::PeerMethod(_)), method != Method::CONNECT);
            assert!(error.to_string().len() <= ERROR_BYTES);
        }
    }
}

fn read_headers(map: &HeaderMap) {
    if let Some(baggage) = Baggage::parse(map) {
        let sizes = [&baggage.namespace, &baggage.revision, &baggage.region, &baggage.zone];
        assert!(sizes.iter().all(|text| text.len() <= LABEL_MAX_BYTES));
        let again = baggage.encode("pod").map(|value| HeaderMap::from_iter([(BAGGAGE, value)]));
        let empty = baggage == Baggage::default();
        assert_eq!(again.and_then(|map| Baggage::parse(&map)), (!empty).then_some(baggage));
    }
    if let Some(trace) = TraceParent::parse(map) {
        let again = HeaderMap::from_iter([(TRACEPARENT, trace.encode())]);
        assert_eq!(TraceParent::parse(&again), Some(trace));
    }
    if let Some(host) = forwarded_host(map) {
        assert!(!host.is_empty() && host.is_ascii());
    }
}

/// Values that this proxy writes are read as they were meant.
fn write_headers(input: &mut Input<'_>) {
    let client = SocketAddr::new(IpAddr::from(input.u32().to_be_bytes()), input.u16());
    let host: String =
        input.text(300).chars().filter(|c| c.is_ascii_alphanumeric() || "-._*".contains(*c)).collect();
    let value = forwarded(client, (!host.is_empty()).then_some(&host)).unwrap();
    let map = HeaderMap::from_iter([(FORWARDED, value)]);
    assert_eq!(forwarded_host(&map).unwrap_or_default(), host);
    let identity = Identity::new(&input.text(300), &input.text(100), &input.text(300));
    if let Ok(identity) = identity {
        let parts = (identity.trust_domain(), identity.namespace(), identity.service_account());
        assert_eq!(Identity::new(parts.0, parts.1, parts.2).as_ref(), Ok(&identity));
        assert_eq!(identity.as_str().parse().as_ref(), Ok(&identity));
        assert_eq!(identity.as_str().strip_prefix("spiffe://"), Some(identity.principal()));
    }
}

/// An authority that is read, displayed and read again is the same, and an address is that of the standard library.
fn authority_again(text: &str) {
    match text.parse::<HboneAddr>() {
        Ok(read) => {
            assert_ne!(read.port(), 0);
            assert_eq!(read.to_string().parse().as_ref(), Ok(&read));
            let plain = text.parse::<SocketAddr>().ok().map(|addr| HboneAddr::Ip(canonical(addr)));
            assert_eq!(plain, matches!(read, HboneAddr::Ip(_)).then_some(read));
        }
        Err(error) => assert!(error.to_string().len() <= ERROR_BYTES),
    }
}
