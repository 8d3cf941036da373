//! The log queue in every order of those who write to it, its thread, and those who wait for it.

use loom::thread;

use super::*;
use crate::runtime::sync::modelled::in_every_order;

const NEVER: Duration = Duration::from_secs(3600);

/// What was written. Others may have their turn before a write.
#[derive(Clone)]
struct Written(Arc<(loom::sync::Mutex<String>, loom::sync::Condvar)>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.0.lock().unwrap().push_str(std::str::from_utf8(bytes).unwrap());
        self.0.1.notify_all();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Written {
    fn text(&self) -> String {
        self.0.0.lock().unwrap().clone()
    }

    /// Waits until anything is written.
    fn any(&self) {
        let mut text = self.0.0.lock().unwrap();
        while text.is_empty() {
            text = self.0.1.wait(text).unwrap();
        }
    }
}

/// A queue whose thread is one of the model's.
fn start(limits: QueueLimits) -> (LogQueue, Written, thread::JoinHandle<()>) {
    let (queue, written) = (LogQueue::new(limits), Written(Arc::default()));
    let (shared, mut sink) = (Arc::clone(&queue.0), written.clone());
    let thread = thread::spawn(move || shared.run(&mut sink));
    (queue, written, thread)
}

#[test]
fn in_every_order_a_line_is_written_or_counted_and_a_flush_returns_after_it() {
    for lines in [2, 8] {
        in_every_order(2, move || {
            let (queue, written, thread) = start(QueueLimits { lines });
            let other = {
                let queue = queue.clone();
                thread::spawn(move || ["a\n", "b\n"].iter().for_each(|line| queue.push(line.as_bytes())))
            };
            queue.push(b"c\n");
            assert!(queue.flush(NEVER));
            assert!(written.text().contains('c') || queue.lost() > 0, "the flush returned too soon");
            other.join().unwrap();
            assert!(queue.close(NEVER));
            thread.join().unwrap();
            let text = written.text();
            assert_eq!(text.lines().count() as u64 + queue.lost(), 3, "{text:?}");
            assert!(
                text.find('a') < text.find('b') || !text.contains('b') || !text.contains('a'),
                "{text:?}"
            );
            assert!(lines < 8 || text.lines().count() == 3, "there was room: {text:?}");
        });
    }
}

#[test]
fn in_every_order_the_thread_ends_when_the_queue_is_closed() {
    in_every_order(3, || {
        let (queue, written, thread) = start(QueueLimits { lines: 8 });
        let other = {
            let queue = queue.clone();
            thread::spawn(move || queue.push(b"a\n"))
        };
        queue.close(NEVER);
        other.join().unwrap();
        // A line that came before the end of the queue may be in it still, and then nobody lost it unseen.
        thread.join().unwrap();
        assert_eq!(written.text().lines().count() as u64 + queue.lost(), 1);
    });
}

#[test]
fn in_every_order_a_line_wakes_the_thread_that_writes_it() {
    in_every_order(3, || {
        let (queue, written, thread) = start(QueueLimits { lines: 8 });
        queue.push(b"a\n");
        written.any();
        queue.close(NEVER);
        thread.join().unwrap();
    });
}
