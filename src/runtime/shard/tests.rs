use super::*;
use tokio::sync::oneshot;

fn shards() -> Shards {
    let shards = Shards::new(2);
    for index in 0..2 {
        shards.serve(index).unwrap();
    }
    shards
}

#[tokio::test]
async fn a_placed_task_runs_on_its_shard_and_its_end_is_heard() {
    let (tell, heard) = oneshot::channel();
    let (name, named) = oneshot::channel();
    let placed = shards().place(
        "test",
        1,
        |shard| async move {
            assert_eq!(shard.index(), 1);
            let _ = name.send(thread::current().name().map(str::to_owned));
        },
        |exit| drop(tell.send(exit)),
    );
    assert_eq!(named.await.unwrap().as_deref(), Some("shard-1"));
    assert_eq!(heard.await.unwrap(), TaskExit::Done);
    assert!(placed.unwrap().is_finished());
}

#[tokio::test]
async fn a_panic_is_heard_and_the_shard_goes_on() {
    let shards = shards();
    let (tell, heard) = oneshot::channel();
    let placed = shards.place("test", 0, |_| async { panic!("poison") }, |exit| drop(tell.send(exit)));
    assert_eq!(heard.await.unwrap(), TaskExit::Panicked { message: "poison".into() });
    drop(placed);
    let (tell, heard) = oneshot::channel();
    let _placed = shards.place("test", 0, |_| async {}, |exit| drop(tell.send(exit))).unwrap();
    assert_eq!(heard.await.unwrap(), TaskExit::Done);
}

#[tokio::test]
async fn dropping_the_owner_ends_the_task() {
    let (tell, heard) = oneshot::channel();
    let (started, running) = oneshot::channel();
    let shards = shards();
    let placed = shards
        .place(
            "test",
            0,
            |_| async move {
                let _ = started.send(());
                std::future::pending::<()>().await;
            },
            |exit| drop(tell.send(exit)),
        )
        .unwrap();
    running.await.unwrap();
    drop(placed);
    assert_eq!(heard.await.unwrap(), TaskExit::Aborted);
}

#[tokio::test]
async fn a_retired_shard_reports_its_tasks_and_can_be_replaced() {
    let shards = Shards::new(1);
    shards.serve(0).unwrap();
    let mut alive = shards.alive(0).unwrap();
    let mut replaced = shards.replaced();
    let (tell, heard) = oneshot::channel();
    let _placed = shards.place("test", 0, |_| std::future::pending(), |exit| drop(tell.send(exit))).unwrap();
    shards.retire(0);
    assert_eq!(heard.await.unwrap(), TaskExit::Aborted);
    alive.wait_for(|alive| !alive).await.unwrap();
    assert_eq!(shards.run_on(0, |_| ()), Err(PlaceError::Down(0)));
    shards.serve(0).unwrap();
    replaced.changed().await.unwrap();
    let (tell, heard) = oneshot::channel();
    let _placed = shards.place("test", 0, |_| async {}, |exit| drop(tell.send(exit))).unwrap();
    assert_eq!(heard.await.unwrap(), TaskExit::Done);
}

#[tokio::test]
async fn what_a_busy_shard_accepts_goes_to_one_that_has_time() {
    let shards = shards();
    let _placed = shards.place(
        "test",
        0,
        |_| async {
            loop {
                std::hint::black_box(0);
                tokio::task::yield_now().await;
            }
        },
        |_| (),
    );
    // The choice goes by the processor time alone: each connection is the first one since the last sample.
    let given = || {
        thread::park_timeout(std::time::Duration::from_millis(20));
        (shards.balance().connection(0), shards.balance().connection(1))
    };
    // Other processes may use the processors, too.
    assert!((0..500).any(|_| given() == (1, 1)), "a busy shard keeps what it accepts");
}

#[tokio::test]
async fn a_shard_that_was_busy_frees_what_it_held_all_the_same() {
    let shards = Shards::new(1);
    shards.serve(0).unwrap();
    let (go, gate) = std::sync::mpsc::channel::<()>();
    shards.run_on(0, move |_| _ = gate.recv()).unwrap();
    while shards.run_on(0, |_| ()).is_ok() {}
    assert_eq!(shards.run_on(0, |_| ()), Err(PlaceError::Busy(0)));
    let (tell, freed) = oneshot::channel();
    shards.free_on(0, |_| _ = tell.send(()));
    drop(go);
    freed.await.unwrap();
    assert!(shards.0.slots[0].frees.lock().is_empty());
}
