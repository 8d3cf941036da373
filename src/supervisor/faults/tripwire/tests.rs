use super::*;
use crate::supervisor::watch_panics;

#[test]
fn a_kind_is_the_first_two_parts_of_a_name() {
    for (name, kind) in [
        ("http", "http"),
        ("xds/stream", "xds/stream"),
        ("certs/request/spiffe://td/ns/a/sa/b", "certs/request"),
        ("", ""),
    ] {
        assert_eq!(kind_of(name), kind);
    }
}

#[tokio::test]
async fn an_armed_kind_panics_as_often_as_it_was_told_and_no_other_does() {
    let run = |name: &'static str| watch_panics(tripwire(name, async { 7 }));
    arm("faults/a", 2).expect("room");
    assert_eq!(run("faults/b/1").await, Ok(7));
    assert_eq!(run("faults/a/1").await, Err("faults/a/1 was told to panic".into()));
    assert_eq!(armed("faults/a"), 1);
    assert_eq!(run("faults/a").await, Err("faults/a was told to panic".into()));
    assert_eq!(run("faults/a").await, Ok(7));
    arm("faults/a", 5).expect("room");
    arm("faults/a", 0).expect("room");
    assert_eq!(run("faults/a").await, Ok(7));
}

/// Says in which way it was dropped.
struct Dropped(std::sync::mpsc::Sender<bool>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.send(std::thread::panicking());
    }
}

#[tokio::test]
async fn a_task_is_hit_in_its_middle_and_what_it_holds_sees_the_panic() {
    let (tell, told) = std::sync::mpsc::channel();
    let held = Dropped(tell);
    let work = async move {
        let _held = held;
        tokio::task::yield_now().await;
        arm("faults/middle", 1).expect("room");
        tokio::task::yield_now().await;
    };
    let ended = watch_panics(tripwire("faults/middle", work)).await;
    assert_eq!(ended, Err("faults/middle was told to panic".into()));
    assert_eq!(told.try_recv(), Ok(true));
}
