//! Sets of connections in every order of their threads.

use std::future::pending;

use loom::{future::block_on, thread};

use super::*;
use crate::runtime::sync::modelled::in_every_order;

#[test]
fn in_every_order_a_cut_ends_what_is_guarded_and_one_reason_counts() {
    in_every_order(3, || {
        let set = ConnSet::new(1);
        let conn = set.admit(0, ()).expect("open");
        let cutters: Vec<_> = [1, 2]
            .map(|why| {
                let conn = conn.clone();
                thread::spawn(move || conn.cut(CutReason(why)))
            })
            .into();
        let why = block_on(conn.guard(pending::<()>())).expect_err("it never ends by itself");
        assert_eq!(conn.cut_reason(), Some(why));
        cutters.into_iter().for_each(|cutter| cutter.join().unwrap());
        assert_eq!(conn.cut_reason(), Some(why), "the first one counts");
    });
}

#[test]
fn in_every_order_a_drain_leaves_nobody_behind() {
    in_every_order(2, || {
        let set = ConnSet::new(2);
        let clients: Vec<_> = [0, 1]
            .map(|shard| {
                let set = set.clone();
                thread::spawn(move || {
                    let Ok(conn) = set.admit(shard, ()) else { return };
                    block_on(conn.guard(pending::<()>())).expect_err("it is cut");
                })
            })
            .into();
        set.close_admission();
        set.cut_all(CutReason(7));
        block_on(set.emptied());
        assert!(set.is_empty() && set.admit(0, ()).is_err());
        clients.into_iter().for_each(|client| client.join().unwrap());
    });
}

#[test]
fn in_every_order_the_last_owner_that_goes_is_heard() {
    in_every_order(3, || {
        let set = ConnSet::new(2);
        let [first, second, third] = [0, 1, 1].map(|shard| set.admit(shard, ()).expect("open"));
        let threads = [thread::spawn(move || drop((first, second))), thread::spawn(move || drop(third))];
        block_on(set.emptied());
        assert_eq!(set.len(), 0);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}
