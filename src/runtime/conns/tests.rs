mod orders;

use std::{pin::pin, sync::atomic::AtomicUsize, task::Wake};

use proptest::prelude::*;

use super::*;

/// A waker that counts its wake-ups.
#[derive(Default)]
struct WakeCounter(AtomicUsize);

impl Wake for WakeCounter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll<F: Future>(future: Pin<&mut F>, counter: &Arc<WakeCounter>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(&counter.clone().into()))
}

#[test]
fn a_connection_is_in_the_set_until_its_owner_drops() {
    let set = ConnSet::new(2);
    let one = set.admit(0, "one").expect("open");
    let two = set.admit(1, "two").expect("open");
    let handle = one.clone();
    assert_eq!((set.len(), *two.info()), (2, "two"));
    drop(handle);
    assert_eq!(set.len(), 2, "a handle is no owner");
    let handle = one.clone();
    drop(one);
    let mut seen = vec![];
    set.for_each(|conn| seen.push(*conn.info()));
    assert_eq!((seen, *handle.info()), (vec!["two"], "one"));
    handle.cut(CutReason(1)); // the connection has ended: nothing happens
    drop(two);
    assert!(set.is_empty());
}

#[test]
fn a_closed_set_admits_nobody_and_keeps_what_it_has_until_reopened() {
    let set = ConnSet::new(3);
    let _conn = set.admit(2, ()).expect("open");
    set.close_admission();
    assert!((0..3).all(|shard| set.admit(shard, ()).is_err()));
    assert_eq!(set.len(), 1);
    set.reopen();
    assert!(set.admit(2, ()).is_ok());
}

#[test]
fn a_lane_beyond_the_last_and_a_set_without_lanes_still_work() {
    let set = ConnSet::new(0);
    let _conn = set.admit(7, ()).expect("open");
    assert_eq!(set.len(), 1);
}

#[test]
fn a_cut_wakes_the_guarded_future_drops_it_and_gives_the_first_reason() {
    let set = ConnSet::new(1);
    let conn = set.admit(0, ()).expect("open");
    let held = Arc::new(());
    let inside = held.clone();
    let counter = Arc::new(WakeCounter::default());
    let mut guarded = pin!(conn.guard(async move {
        let _inside = inside;
        std::future::pending::<()>().await
    }));
    assert!(poll(guarded.as_mut(), &counter).is_pending());
    assert_eq!(conn.cut_reason(), None);
    set.cut_all(CutReason(0));
    set.cut_all(CutReason(255));
    assert_eq!(counter.0.load(Ordering::SeqCst), 1);
    assert_eq!(poll(guarded.as_mut(), &counter), Poll::Ready(Err(CutReason(0))));
    assert_eq!(Arc::strong_count(&held), 1, "what it held is free");
    assert_eq!(set.len(), 1, "cut is not gone: the owner still cleans up");
    assert!(set.admit(0, ()).is_ok(), "and admission stays as it was");
}

#[test]
fn a_connection_cut_before_its_future_is_polled_never_polls_it() {
    let set = ConnSet::new(1);
    let conn = set.admit(0, ()).expect("open");
    conn.cut(CutReason(9));
    let guarded = pin!(conn.guard(async { panic!("polled") }));
    assert_eq!(poll(guarded, &Arc::default()), Poll::Ready(Err::<(), _>(CutReason(9))));
}

#[test]
fn a_guarded_future_that_moves_to_another_task_is_woken_there() {
    let set = ConnSet::new(1);
    let conn = set.admit(0, ()).expect("open");
    let (first, second) = (Arc::new(WakeCounter::default()), Arc::new(WakeCounter::default()));
    let mut guarded = pin!(conn.guard(std::future::pending::<()>()));
    for counter in [&first, &second, &second] {
        assert!(poll(guarded.as_mut(), counter).is_pending());
    }
    conn.cut(CutReason(1));
    assert_eq!((first.0.load(Ordering::SeqCst), second.0.load(Ordering::SeqCst)), (0, 1));
}

#[tokio::test]
async fn a_guarded_future_gives_its_own_output_if_it_is_first() {
    let set = ConnSet::new(1);
    let conn = set.admit(0, ()).expect("open");
    assert_eq!(conn.guard(async { 5 }).await, Ok(5));
}

#[test]
fn emptied_resolves_with_the_last_connection_of_all_lanes_and_not_before() {
    let set = ConnSet::new(3);
    let counter = Arc::new(WakeCounter::default());
    assert!(poll(pin!(set.emptied()), &counter).is_ready(), "at once if there is none");
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let mut conns: Vec<_> = (0..3).map(|shard| set.admit(shard, ()).ok()).collect();
        let mut emptied = pin!(set.emptied());
        for shard in order {
            assert!(poll(emptied.as_mut(), &counter).is_pending());
            conns[shard] = None;
        }
        assert!(poll(emptied.as_mut(), &counter).is_ready());
    }
    assert!(counter.0.load(Ordering::SeqCst) >= 3, "it was woken, not polled by chance");
}

#[test]
fn a_callback_may_admit_cut_and_drop_connections() {
    let set = ConnSet::new(1);
    let mut owners: Vec<_> = (0..10).map(|n| set.admit(0, n).ok()).collect();
    let mut more = vec![];
    set.for_each(|conn| {
        conn.cut(CutReason(1));
        owners.pop();
        more.push(set.admit(0, 100).expect("open"));
    });
    assert_eq!(set.len(), 10);
}

#[test]
fn a_cut_from_another_thread_is_never_missed() {
    for _ in 0..200 {
        let set = ConnSet::new(1);
        let conn = set.admit(0, ()).expect("open");
        let other = conn.clone();
        let barrier = Arc::new(std::sync::Barrier::new(2));
        let go = barrier.clone();
        let cutter = std::thread::spawn(move || {
            go.wait();
            other.cut(CutReason(3));
        });
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        barrier.wait();
        assert_eq!(runtime.block_on(conn.guard(std::future::pending::<()>())), Err(CutReason(3)));
        cutter.join().expect("joins");
    }
}

proptest! {
    #[test]
    fn a_set_holds_exactly_the_owners_that_live(steps in prop::collection::vec((0usize..4, any::<u8>()), 0..100)) {
        let set = ConnSet::new(4);
        let mut owners: Vec<(u8, Conn<u8>)> = vec![];
        for (shard, n) in steps {
            if n % 3 == 0 && !owners.is_empty() {
                owners.swap_remove(usize::from(n) % owners.len());
            } else {
                owners.push((n, set.admit(shard, n).expect("open")));
            }
            let mut seen = vec![];
            set.for_each(|conn| seen.push(*conn.info()));
            seen.sort_unstable();
            let mut expected: Vec<_> = owners.iter().map(|(n, _)| *n).collect();
            expected.sort_unstable();
            prop_assert_eq!(seen, expected);
            prop_assert_eq!(set.len(), owners.len());
        }
    }
}

#[test]
fn a_connection_that_is_wanted_wakes_its_task_and_a_cut_keeps_its_reason() {
    let set = ConnSet::new(1);
    let conn = set.admit(0, ()).expect("open");
    let counter = Arc::<WakeCounter>::default();
    assert!(!conn.is_movable() && !conn.is_wanted());
    conn.set_movable(true);
    conn.register(&counter.clone().into());
    conn.want();
    assert!(conn.is_movable() && conn.is_wanted());
    assert_eq!((counter.0.load(Ordering::SeqCst), conn.cut_reason()), (1, None));
    // A cut and a wish do not touch each other.
    conn.cut(CutReason(3));
    conn.let_go();
    assert_eq!((conn.is_wanted(), conn.is_movable(), conn.cut_reason()), (false, true, Some(CutReason(3))));
    conn.want();
    conn.set_movable(false);
    conn.cut(CutReason(4));
    assert_eq!((conn.is_wanted(), conn.is_movable(), conn.cut_reason()), (true, false, Some(CutReason(3))));
    // A guard heeds the cut alone.
    assert_eq!(poll(pin!(conn.guard(async {})), &counter), Poll::Ready(Err(CutReason(3))));
    let wanted = set.admit(0, ()).expect("open");
    wanted.want();
    assert_eq!(poll(pin!(wanted.guard(async {})), &counter), Poll::Ready(Ok(())));
}

#[test]
fn a_wish_that_has_gone_before_the_task_was_polled_is_noticed_at_the_next_poll() {
    let set = ConnSet::new(1);
    let conn = set.admit(0, ()).expect("open");
    let counter = Arc::<WakeCounter>::default();
    conn.register(&counter.clone().into());
    assert!(!conn.needs_waker());
    conn.want();
    conn.let_go();
    // The waker is used up: another wish, or a cut, would wake nobody.
    assert!(conn.needs_waker() && !conn.is_wanted());
    conn.register(&counter.clone().into());
    assert!(!conn.needs_waker());
    conn.cut(CutReason(3));
    assert_eq!(counter.0.load(Ordering::SeqCst), 2);
}

#[test]
fn a_connection_is_found_by_an_id_that_no_other_one_ever_has() {
    let set = ConnSet::new(2);
    let (a, b) = (set.admit(0, "a").unwrap(), set.admit(1, "b").unwrap());
    let id = b.id();
    assert_eq!(id.to_string(), "1-1");
    assert_eq!("1-1".parse::<ConnId>(), Ok(id));
    assert_eq!(set.find(id).map(|found| *found.info()), Some("b"));
    a.leave_behind([3, 4]);
    b.leave_behind([10, 20]);
    drop(b);
    // The place in the set is taken again, the id is not.
    let c = set.admit(1, "c").unwrap();
    assert!(set.find(id).is_none() && set.find(ConnId { shard: 9, number: 1 }).is_none());
    assert_eq!(set.find(c.id()).map(|found| *found.info()), Some("c"));
    assert_eq!((set.admitted(), set.len(), set.left_behind()), (3, 2, (13, 24)));
    for wrong in ["", "1", "1-", "-1", "a-1"] {
        assert!(wrong.parse::<ConnId>().is_err(), "{wrong}");
    }
}
