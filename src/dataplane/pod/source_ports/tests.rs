use super::*;

#[test]
fn ports_take_turns_and_stay_below_those_of_clients() {
    let ports = SourcePorts::default();
    let first: Vec<u16> = (0..PORTS).map(|_| ports.next()).collect();
    assert_eq!((first[0], first[first.len() - 1]), (22_001, 32_767));
    assert!(first.is_sorted_by(|a, b| a < b) && first.iter().all(|port| port % 2 == 1));
    assert_eq!(ports.next(), first[0]);
}
