use super::*;
use crate::actors::admin::page::samples::pod;

fn with(name: &str, serial: u64, (opened, received, sent): (u64, u64, u64)) -> PodView {
    let counts = PodCounts { opened, received, sent, ..PodCounts::default() };
    PodView { serial: Some(serial), counts, ..pod(name) }
}

#[test]
fn a_rate_is_the_difference_of_two_looks() {
    let (mut rates, start) = (Rates::default(), Instant::now());
    assert_eq!(rates.measure(&[with("a", 1, (10, 1000, 0))], start), Measured::default());
    let pods = [with("a", 1, (14, 3000, 500)), with("b", 2, (5, 5, 5))];
    let measured = rates.measure(&pods, start + Duration::from_secs(2));
    let rate = Rate { opened: 2.0, received: 1000.0, sent: 250.0 };
    assert_eq!(measured.pods, HashMap::from([(1, rate)]), "a pod that is new has none yet");
    assert_eq!((measured.node, measured.history), (Some(rate), vec![1250.0]));
}

#[test]
fn looks_far_apart_are_not_compared() {
    let (mut rates, start) = (Rates::default(), Instant::now());
    rates.measure(&[with("a", 1, (0, 0, 0))], start);
    let later = start + COMPARED_WITHIN + Duration::from_secs(1);
    assert_eq!(rates.measure(&[with("a", 1, (9, 9, 9))], later), Measured::default());
}

#[test]
fn the_history_is_bounded() {
    let (mut rates, start) = (Rates::default(), Instant::now());
    let mut measured = Measured::default();
    for second in 0..HISTORY as u64 + 20 {
        measured = rates.measure(&[with("a", 1, (0, second * 100, 0))], start + Duration::from_secs(second));
    }
    assert_eq!(measured.history, vec![100.0; HISTORY]);
}
