//! One connection that cannot move holds up no other.

use super::*;

#[test]
fn one_that_brings_every_link_down_is_offered_ever_later_and_holds_up_no_other() {
    let id = |number| ConnId { shard: 0, number };
    let key = |number| ("uid".to_owned(), "live", id(number));
    let (mut setbacks, begun) = (Setbacks::default(), Instant::now());
    let at = |seconds| begun + Duration::from_secs(seconds);
    setbacks.note(key(1), at(0), false);
    assert!(setbacks.has(&key(1), begun) && !setbacks.has(&key(2), begun) && !setbacks.has(&key(1), at(1)));
    setbacks.note(key(1), at(1), false);
    assert!(setbacks.has(&key(1), at(2)) && !setbacks.has(&key(1), at(3)));
    for seconds in [3, 7, 15, 23] {
        setbacks.note(key(1), at(seconds), false);
    }
    assert!(setbacks.has(&key(1), at(30)) && !setbacks.has(&key(1), at(31)));
    // An answer ends it, and so does a long silence.
    setbacks.note(key(1), at(31), true);
    setbacks.note(key(1), at(32), false);
    assert!(!setbacks.has(&key(1), at(33)));
    setbacks.note(key(2), at(99), true);
    assert!(setbacks.0.is_empty());
}
