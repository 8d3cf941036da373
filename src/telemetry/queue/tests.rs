use std::sync::mpsc;

use super::*;

const LONG: Duration = Duration::from_secs(60);

/// Says when a write begins, and lets it end when told.
struct Gate {
    begun: mpsc::Sender<Vec<u8>>,
    go: mpsc::Receiver<io::Result<()>>,
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.begun.send(bytes.to_vec()).map_err(io::Error::other)?;
        self.go.recv().map_err(io::Error::other)??;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn gated(
    lines: usize,
    writer_wait: Duration,
) -> (LogQueue, mpsc::Receiver<Vec<u8>>, mpsc::Sender<io::Result<()>>) {
    let (begun, seen) = mpsc::channel();
    let (open, go) = mpsc::channel();
    (LogQueue::start(Gate { begun, go }, QueueLimits { lines, writer_wait }).unwrap(), seen, open)
}

#[test]
fn lines_leave_in_order_and_flush_waits_for_them() {
    let (queue, seen, open) = gated(LOG_QUEUE_LINES, LONG);
    queue.push(b"1\n");
    assert_eq!(seen.recv().unwrap(), b"1\n");
    queue.push(b"2\n");
    queue.push(b"3\n");
    assert!(!queue.flush(Duration::ZERO), "the first is still being written");
    for _ in 0..2 {
        open.send(Ok(())).unwrap();
    }
    assert!(queue.flush(LONG));
    assert_eq!(seen.recv().unwrap(), b"2\n3\n");
    assert!(queue.close(LONG));
    queue.push(b"late\n");
    assert_eq!(queue.lost(), 1);
}

#[test]
fn a_full_queue_makes_writers_wait_and_loses_nothing() {
    let (queue, seen, open) = gated(2, LONG);
    queue.push(b"1\n");
    assert_eq!(seen.recv().unwrap(), b"1\n");
    queue.push(b"2\n");
    let writer = thread::spawn({
        let queue = queue.clone();
        move || queue.push(b"3\n")
    });
    for _ in 0..3 {
        // The last may go with the second or alone.
        let _ = open.send(Ok(()));
    }
    writer.join().unwrap();
    assert!(queue.flush(LONG));
    let rest: Vec<u8> = seen.try_iter().flatten().collect();
    assert_eq!((rest.as_slice(), queue.lost()), (b"2\n3\n".as_slice(), 0));
}

#[test]
fn a_reader_that_never_reads_costs_lines_and_not_the_node() {
    let (queue, seen, open) = gated(1, Duration::from_millis(1));
    queue.push(b"1\n");
    seen.recv().unwrap();
    queue.push(b"lost\n");
    queue.push(b"lost too, at once\n");
    assert_eq!(queue.lost(), 2);
    open.send(Ok(())).unwrap();
    assert!(queue.flush(LONG));
    queue.push(b"2\n");
    open.send(Ok(())).unwrap();
    assert!(queue.flush(LONG));
    assert_eq!((seen.recv().unwrap().as_slice(), queue.lost()), (b"2\n".as_slice(), 2));
}

#[test]
fn lines_that_cannot_be_written_are_counted() {
    let (queue, seen, open) = gated(LOG_QUEUE_LINES, LONG);
    queue.push(b"1\n");
    seen.recv().unwrap();
    open.send(Err(io::ErrorKind::BrokenPipe.into())).unwrap();
    assert!(queue.flush(LONG));
    assert_eq!(queue.lost(), 1);
    queue.push(b"2\n");
    drop(open);
    assert!(queue.flush(LONG));
    assert_eq!(queue.lost(), 2);
}
