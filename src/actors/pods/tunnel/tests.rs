use super::*;
use crate::protocols::route::Sans;

fn key(number: u16) -> TunnelKey {
    let to = std::net::SocketAddr::from(([10, 0, 0, 1], number));
    TunnelKey { to, identity: "spiffe://td/ns/n/sa/s".parse().unwrap(), sans: Sans::default() }
}

#[test]
fn the_peers_used_longest_ago_are_released_and_none_that_is_in_use() {
    let now = Instant::now();
    let at = |number: u16| Some(now + Duration::from_secs(number.into()));
    let in_use = |number: u16| number.is_multiple_of(2);
    let uses = (0..1000).map(|number| (key(number), if in_use(number) { None } else { at(number) }));
    let released = longest_unused(uses.collect());
    assert_eq!(released.len(), RELEASED_AT_ONCE);
    let oldest: HashSet<_> =
        (0..1000).filter(|number| !in_use(*number)).take(RELEASED_AT_ONCE).map(key).collect();
    assert_eq!(released, oldest);
}

#[test]
fn a_peer_is_in_use_if_one_shard_uses_it() {
    let one = Instant::now();
    let (one, next) = (Some(one), Some(one + Duration::from_secs(1)));
    assert_eq!((later(one, next), later(next, one)), (next, next));
    assert_eq!((later(one, None), later(None, one)), (None, None));
}
