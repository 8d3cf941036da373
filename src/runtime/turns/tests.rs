use std::cell::Cell;

use tokio::{
    runtime::{Builder, LocalOptions},
    task::spawn_local,
};

use super::*;

fn peer(n: u8) -> Source {
    Source::Peer(IpAddr::from([10, 0, 0, n]))
}

fn run(work: impl Future<Output = ()>) {
    let runtime =
        Builder::new_current_thread().event_interval(4).build_local(LocalOptions::default()).unwrap();
    runtime.block_on(work);
}

/// Starts `count` handshakes of `source`, which note their step in `taken`.
fn start(shard: &Shard, source: Source, count: usize, taken: &Rc<RefCell<Vec<Source>>>) {
    for _ in 0..count {
        let (turns, taken) = (SourceTurns::of(shard, source), taken.clone());
        #[allow(clippy::disallowed_methods, reason = "the test waits for the effects")]
        drop(spawn_local(async move { turns.take(|| taken.borrow_mut().push(source)).await }));
    }
}

async fn until(mut done: impl FnMut() -> bool) {
    while !done() {
        yield_now().await;
    }
}

#[test]
fn a_source_with_many_handshakes_delays_those_of_others_by_one_step_each() {
    run(async {
        let (shard, taken) = (Shard::of_this_thread(1), Rc::default());
        start(&shard, peer(1), 1000, &taken);
        start(&shard, peer(2), 1, &taken);
        start(&shard, Source::Pod(7), 2, &taken);
        until(|| taken.borrow().len() == 1003).await;
        // The first four come before the others.
        let then = [peer(1), peer(2), Source::Pod(7), peer(1), Source::Pod(7), peer(1)];
        assert_eq!(taken.borrow()[STEPS_PER_TURN..10], then);
        until(|| shard.local::<Line>().0.borrow().taken == 0).await;
    });
}

#[test]
fn other_tasks_of_the_shard_go_after_four_steps() {
    run(async {
        let (shard, taken) = (Shard::of_this_thread(1), Rc::<RefCell<Vec<Source>>>::default());
        start(&shard, peer(1), 100, &taken);
        let most = Rc::new(Cell::new(0));
        let (seen, count) = (most.clone(), taken.clone());
        // A task that is always ready sees each step.
        #[allow(clippy::disallowed_methods, reason = "the test waits for the effects")]
        drop(spawn_local(async move {
            let mut before = 0;
            while before < 100 {
                let now = count.borrow().len();
                seen.set(seen.get().max(now - before));
                before = now;
                yield_now().await;
            }
        }));
        until(|| taken.borrow().len() == 100).await;
        yield_now().await;
        assert_eq!(most.get(), STEPS_PER_TURN);
    });
}

#[test]
fn a_handshake_that_ends_in_line_or_in_its_turn_passes_the_turn_on() {
    run(async {
        let (shard, taken) = (Shard::of_this_thread(1), Rc::<RefCell<Vec<Source>>>::default());
        let line: Rc<Line> = shard.local();
        let mut turns = Vec::new();
        for _ in 0..STEPS_PER_TURN {
            turns.push(line.wait(peer(1)).await);
        }
        // 100,000 that gave up: the turn is not passed on by recursion.
        for _ in 0..100_000 {
            drop(line.join(peer(2)).unwrap());
        }
        let granted = line.join(peer(3)).unwrap();
        start(&shard, peer(4), 1, &taken);
        yield_now().await;
        drop(turns);
        // The turn is granted to a handshake that ends before it is polled.
        drop(granted);
        until(|| !taken.borrow().is_empty()).await;
        until(|| line.0.borrow().taken == 0).await;
        assert!(line.0.borrow().handshakes.is_empty());
    });
}
