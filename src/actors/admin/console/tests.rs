#![allow(clippy::unwrap_used)]

use super::*;

fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
}

#[test]
fn pages_of_other_origins_are_kept_out_and_tools_are_not() {
    use header::{HOST, ORIGIN};
    for fine in [
        &[][..],
        &[(HOST, "localhost:15000")],
        &[(HOST, "LOCALHOST")],
        &[(HOST, "ztunnel-x7k2:15000")],
        &[(HOST, "127.0.0.1:15000")],
        &[(HOST, "[::1]:15000")],
        &[(HOST, "localhost:41211"), (ORIGIN, "http://localhost:41211")],
    ] {
        assert_eq!(check_origin(&headers(fine)), Ok(()), "{fine:?}");
    }
    for bad in [
        &[(HOST, "rebound.example:15000")][..],
        &[(HOST, "")],
        &[(HOST, "localhost:15000"), (ORIGIN, "http://evil.example")],
        &[(HOST, "localhost:15000"), (ORIGIN, "https://localhost:15000")],
        &[(HOST, "localhost:15000"), (ORIGIN, "null")],
        &[(HOST, "localhost:15000"), (ORIGIN, "http://localhost:15001")],
    ] {
        assert!(check_origin(&headers(bad)).is_err(), "{bad:?}");
    }
}
