//! Wake-ups of a fair queue in every order of the threads that they come from.

use loom::{future::block_on, thread};

use super::*;
use crate::runtime::sync::modelled::in_every_order;

/// A task waits until the door is open.
#[derive(Default)]
struct Door(Mutex<(bool, Option<Waker>)>);

impl Door {
    async fn passed(self: Arc<Self>) {
        std::future::poll_fn(|cx| {
            let mut door = self.0.lock();
            door.1 = Some(cx.waker().clone());
            if door.0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Wakes twice: the second time the task may have ended.
    fn open(&self) {
        let waker = {
            let mut door = self.0.lock();
            door.0 = true;
            door.1.clone()
        };
        if let Some(waker) = waker {
            waker.wake_by_ref();
            waker.wake();
        }
    }
}

fn doors<const N: usize>() -> [Arc<Door>; N] {
    std::array::from_fn(|_| Arc::new(Door::default()))
}

/// Opens a door of two. Each of the tasks is in the ready queue once, however often it is woken.
fn open(door: &Arc<Door>, driver: &Driver) -> thread::JoinHandle<()> {
    let (door, ready) = (Arc::clone(door), Arc::clone(&driver.ready));
    thread::spawn(move || {
        door.open();
        assert!(ready.0.lock().ready.len() <= 2);
    })
}

#[test]
fn in_every_order_no_wake_up_is_lost() {
    in_every_order(3, || {
        let (queue, mut driver) = fair_queue(Backlog::default());
        let doors = doors::<2>();
        doors.iter().for_each(|door| queue.put(Arc::clone(door).passed()));
        drop(queue);
        let threads = doors.each_ref().map(|door| open(door, &driver));
        block_on(&mut driver);
        assert!(driver.tasks.is_empty());
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn in_every_order_a_task_that_takes_the_place_of_another_is_not_forgotten() {
    in_every_order(2, || {
        let (queue, mut driver) = fair_queue(Backlog::default());
        let [first, second] = doors::<2>();
        queue.put(Arc::clone(&first).passed());
        let thread = open(&first, &driver);
        // The second task may get the key of the first one, whose wake-ups may come late.
        let later = Arc::clone(&second);
        queue.put(async move { later.passed().await });
        let other = open(&second, &driver);
        drop(queue);
        block_on(&mut driver);
        assert!(driver.tasks.is_empty());
        [thread, other].into_iter().for_each(|thread| thread.join().unwrap());
    });
}
