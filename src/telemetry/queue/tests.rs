mod orders;

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

fn gated(lines: usize) -> (LogQueue, mpsc::Receiver<Vec<u8>>, mpsc::Sender<io::Result<()>>) {
    let (begun, seen) = mpsc::channel();
    let (open, go) = mpsc::channel();
    (LogQueue::start(Gate { begun, go }, QueueLimits { lines }).unwrap(), seen, open)
}

#[test]
fn lines_leave_in_order_and_flush_waits_for_them() {
    let (queue, seen, open) = gated(LOG_QUEUE_LINES);
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
fn a_reader_that_never_reads_costs_lines_and_not_the_node() {
    let (queue, seen, open) = gated(1);
    queue.push(b"1\n");
    seen.recv().unwrap();
    // Nothing is read here, and yet the writers return.
    queue.push(b"lost\n");
    queue.push(b"lost too\n");
    assert_eq!(queue.lost(), 2);
    open.send(Ok(())).unwrap();
    assert!(queue.flush(LONG));
    // The reader has caught up: the thread tells of the lost lines, unless this call is first.
    queue.0.untold();
    assert_eq!(queue.0.state.lock().told, 2);
    queue.push(b"2\n");
    open.send(Ok(())).unwrap();
    assert!(queue.flush(LONG));
    assert_eq!((seen.recv().unwrap().as_slice(), queue.lost()), (b"2\n".as_slice(), 2));
}

#[test]
fn lines_that_cannot_be_written_are_counted() {
    let (queue, seen, open) = gated(LOG_QUEUE_LINES);
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
