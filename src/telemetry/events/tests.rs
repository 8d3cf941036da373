//! What readers of events get: in order, with what they missed, and no flood.

use super::*;

fn numbers(read: &EventsRead) -> Vec<u64> {
    read.events.iter().map(|event| event.number).collect()
}

#[test]
fn readers_go_on_where_they_were_and_hear_what_they_missed() {
    let events = Events::default();
    assert_eq!(events.after(0), EventsRead::default());
    let tell = |number: usize| {
        // Each kind has its own bound.
        let kind = EventKind::ALL[number % EventKind::ALL.len()];
        events.tell(kind, Some("ns/a"), || format!("event {number}"));
    };
    (0..3).for_each(tell);
    let read = events.after(1);
    assert_eq!((numbers(&read), read.missed, read.last), (vec![2, 3], 0, 3));
    assert_eq!((&*read.events[0].says, read.events[0].pod.as_deref()), ("event 1", Some("ns/a")));
    assert_eq!(numbers(&events.after(3)), Vec::<u64>::new());
    // A number of another process.
    assert_eq!(numbers(&events.after(99)), [1, 2, 3]);
}

#[test]
fn the_oldest_are_forgotten() {
    let events = Events::default();
    for number in 0..MAX_EVENTS as u64 + 10 {
        events.ring.lock().kinds = Default::default();
        events.tell(EventKind::Pod, None, || number.to_string());
    }
    let read = events.after(5);
    assert_eq!((read.events.len(), read.missed, read.events[0].number), (MAX_EVENTS, 5, 11));
    assert_eq!(events.after(0).missed, 0);
}

#[test]
fn a_flood_of_a_kind_is_counted_and_leaves_other_kinds_alone() {
    let mut rate = Rate::default();
    let start = Instant::now();
    let told: Vec<Option<u64>> = (0..25).map(|_| rate.admit(start)).collect();
    assert_eq!(told.iter().filter(|told| **told == Some(0)).count(), 20);
    assert_eq!(rate.admit(start + Duration::from_secs(1)), Some(5));
    assert_eq!(rate.admit(start + Duration::from_secs(1)), Some(0));
}

#[test]
fn a_long_text_is_cut() {
    let events = Events::default();
    events.tell(EventKind::Push, None, || "ä".repeat(1000));
    assert_eq!(events.after(0).events[0].says.chars().count(), MAX_CHARS + 1);
}

#[tokio::test(start_paused = true)]
async fn a_reader_waits_for_news_and_not_for_ever() {
    let events = Events::default();
    let waiting = events.wait_after(0, Duration::from_secs(5));
    let telling = async { events.tell(EventKind::Actor, None, || "crashed") };
    let (read, ()) = tokio::join!(waiting, telling);
    assert_eq!(numbers(&read), [1]);
    assert_eq!(numbers(&events.wait_after(1, Duration::from_secs(5)).await), Vec::<u64>::new());
}
