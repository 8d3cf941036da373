//! How many handshakes a source may have under way.

use super::*;

#[test]
fn a_source_has_so_many_handshakes_and_others_have_theirs() {
    let shard = Shard::of_this_thread(1);
    let (one, other): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
    let mut held: Vec<Handshake> =
        (0..MAX_OF_SOURCE).map(|_| Handshake::begin(&shard, one).unwrap()).collect();
    assert!(Handshake::begin(&shard, one).is_none());
    assert!(Handshake::begin(&shard, other).is_some());
    held.pop();
    assert!(Handshake::begin(&shard, one).is_some());
    held.clear();
    assert!(shard.local::<UnderWay>().0.borrow().is_empty());
}
