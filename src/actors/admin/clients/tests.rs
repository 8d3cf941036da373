#![allow(clippy::unwrap_used)]

use tokio::time::sleep;

use super::*;

const ATTACKER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 66));
const PROBE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// The place of an admitted connection.
fn placed(admission: Admission) -> Option<Arc<Place>> {
    match admission {
        Admission::Place(place) => Some(place),
        Admission::Wait | Admission::Refuse => None,
    }
}

/// Whether `place` was asked to end.
fn leaves(place: &Place) -> bool {
    place.state.lock().leaving
}

#[tokio::test(start_paused = true)]
async fn the_longest_idle_connection_of_the_largest_client_makes_room() {
    let mut clients = Clients::new(4, 4);
    let probe = placed(clients.admit(PROBE)).unwrap();
    let mut theirs = Vec::new();
    for _ in 0..3 {
        sleep(Duration::from_millis(1)).await;
        theirs.push(placed(clients.admit(ATTACKER)).unwrap());
    }
    let busy = theirs[0].busy();
    assert!(clients.has_room());
    let _new = placed(clients.admit(PROBE)).unwrap();
    // The attacker's first is busy, so the second is the longest idle one.
    assert_eq!(theirs.iter().map(|place| leaves(place)).collect::<Vec<_>>(), [false, true, false]);
    assert!(!leaves(&probe));
    drop(busy);
}

#[tokio::test(start_paused = true)]
async fn a_client_past_its_share_gives_up_a_connection_of_its_own() {
    let mut clients = Clients::new(64, 2);
    let (first, _second) =
        (placed(clients.admit(ATTACKER)).unwrap(), placed(clients.admit(ATTACKER)).unwrap());
    let third = placed(clients.admit(ATTACKER)).unwrap();
    assert!(leaves(&first) && !leaves(&third));
    let (_a, _b) = (_second.busy(), third.busy());
    assert!(matches!(clients.admit(ATTACKER), Admission::Refuse), "all of its connections are busy");
    assert!(placed(clients.admit(PROBE)).is_some());
    // Everybody on the console comes from loopback.
    let local: Vec<_> = (0..10).filter_map(|_| placed(clients.admit(LOOPBACK))).collect();
    assert!(local.len() == 10 && local.iter().all(|place| !leaves(place)));
}

#[tokio::test(start_paused = true)]
async fn a_full_server_of_busy_connections_has_room_once_one_is_done_or_takes_too_long() {
    let mut clients = Clients::new(1, 1);
    let place = placed(clients.admit(PROBE)).unwrap();
    let busy = place.busy();
    assert!(!clients.has_room() && matches!(clients.admit(PROBE), Admission::Refuse));
    assert!(matches!(clients.admit(ATTACKER), Admission::Wait));
    drop(busy);
    assert!(clients.has_room());
    let busy = place.busy();
    sleep(BUSY_WITHIN + Duration::from_millis(1)).await;
    assert!(clients.has_room());
    drop((busy, place));
    assert!(clients.has_room());
    assert_eq!(clients.held().len(), 0);
}
