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

#[test]
fn what_stays_is_told_with_its_reason_once_nothing_has_moved_for_a_while() {
    let (mut stuck, begun) = (Stuck::default(), Instant::now());
    let mut tell = |stays, millis| stuck.tell(stays, begun + Duration::from_millis(millis));
    assert_eq!([tell(Some(Stays::Frame), 0), tell(Some(Stays::Frame), 1_900)], [None; 2]);
    assert_eq!(
        [tell(Some(Stays::Frame), 2_000), tell(Some(Stays::Frame), 2_100)],
        [Some(Stays::Frame), None]
    );
    assert_eq!(tell(Some(Stays::Relays), 2_200), Some(Stays::Relays));
    // Something has moved.
    assert_eq!([tell(None, 2_300), tell(Some(Stays::Relays), 2_400)], [None; 2]);
    assert_eq!(tell(Some(Stays::Relays), 4_400), Some(Stays::Relays));
}
