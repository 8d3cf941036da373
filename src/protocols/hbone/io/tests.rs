use std::cell::Cell;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    task::yield_now,
};

use super::*;

#[tokio::test]
async fn what_is_written_waits_for_more_and_leaves_at_once() {
    let (near, mut far) = duplex(64);
    let (mut io, mut flush) = coalesced(near);
    let (more, turns) = (Cell::new(true), Cell::new(0));
    let driven = flush.drive_behind(|| more.get(), async {
        turns.set(turns.get() + 1);
        io.write_all(b"all of it").await.unwrap();
    });
    let others = async {
        yield_now().await;
        let early = turns.get();
        more.set(false);
        early
    };
    let (early, driven) = tokio::join!(others, driven);
    driven.unwrap();
    assert_eq!((early, turns.get()), (0, 1));
    let mut got = [0; 9];
    far.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"all of it");
}
