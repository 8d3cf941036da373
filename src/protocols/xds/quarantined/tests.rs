use std::time::Duration;

use prost_types::Any;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn resource(name: &str, bytes: usize) -> Resource {
    let value = vec![0; bytes];
    Resource { name: name.into(), resource: Some(Any { value, ..Any::default() }), ..Resource::default() }
}

#[test]
fn each_is_due_at_its_time_once_and_a_later_version_takes_its_place() {
    let (mut quarantined, start) = (Quarantined::default(), Instant::now());
    assert_eq!((quarantined.next_due(), quarantined.take_due(start)), (None, None));
    assert!(quarantined.keep(ResourceType::Address, resource("a", 1), start + 3 * SECOND));
    assert!(quarantined.keep(ResourceType::Authorization, resource("a", 1), start + 2 * SECOND));
    assert!(quarantined.keep(ResourceType::Address, resource("b", 1), start + SECOND));
    assert!(quarantined.keep(ResourceType::Address, resource("c", 1), start + SECOND));
    quarantined.forget(ResourceType::Address, "c");
    assert_eq!((quarantined.next_due(), quarantined.take_due(start)), (Some(start + SECOND), None));
    assert_eq!(quarantined.take_due(start + SECOND), Some((ResourceType::Address, vec![resource("b", 1)])));
    assert!(
        quarantined.keep(ResourceType::Authorization, resource("a", 9), start + 2 * SECOND),
        "in its place"
    );
    let then = start + 5 * SECOND;
    assert_eq!(quarantined.take_due(then), Some((ResourceType::Address, vec![resource("a", 1)])));
    assert_eq!(quarantined.take_due(then), Some((ResourceType::Authorization, vec![resource("a", 9)])));
    assert_eq!((quarantined.take_due(then), quarantined.bytes), (None, 0));
}

#[test]
fn there_is_room_for_so_many_and_for_so_many_bytes() {
    let (mut quarantined, now) = (Quarantined::default(), Instant::now());
    assert!(!quarantined.keep(ResourceType::Address, resource("large", QUARANTINED_BYTES_MAX), now));
    for n in 0..QUARANTINED_MAX {
        assert!(quarantined.keep(ResourceType::Address, resource(&n.to_string(), 10), now));
    }
    assert!(!quarantined.keep(ResourceType::Address, resource("one more", 10), now));
    assert!(quarantined.keep(ResourceType::Address, resource("7", QUARANTINED_BYTES_MAX / 2), now));
    assert!(
        !quarantined.keep(ResourceType::Address, resource("8", QUARANTINED_BYTES_MAX / 2), now),
        "and 8 is let go of"
    );
    assert_eq!(quarantined.take_due(now).unwrap().1.len(), QUARANTINED_MAX - 1);
    assert_eq!(quarantined.bytes, 0);
}
