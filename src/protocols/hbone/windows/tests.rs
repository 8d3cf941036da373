//! The window of one stream: what the peer is told as the reader reads, waits or takes its time.

use super::*;
use crate::protocols::hbone::budget::BufferBudget;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

thread_local! {
    static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
}

fn now() -> Instant {
    NOW.with(|now| {
        let at = now.get().unwrap_or_else(Instant::now);
        now.set(Some(at));
        at
    })
}

fn later(by: Duration) {
    NOW.with(|at| at.set(Some(now() + by)));
}

fn windows(limit: usize) -> Windows {
    let config = Http2Config { stream_window: 4 << 20, connection_window: 1 << 20, ..Http2Config::default() };
    Windows::new(BufferBudget::new(limit, 1).of(0), &config, now)
}

/// Sends all that the stream's peer may, which is read at once; what the peer may then send.
fn read_all(windows: &Windows, stream: &mut StreamWindow) -> usize {
    let sent = stream.credit;
    stream.received(sent).unwrap();
    stream.taken(sent, false);
    let told: usize = windows.updates(|_| Mention::Now).iter().map(|(_, more)| *more as usize).sum();
    assert_eq!(told, stream.credit, "the peer has to be told of all that it may send");
    stream.credit
}

#[test]
fn a_reader_that_reads_gets_a_larger_window_up_to_the_configured_one() {
    let windows = windows(1 << 30);
    let mut stream = windows.lent(1, 0);
    let grown: Vec<usize> = (0..8).map(|_| read_all(&windows, &mut stream) / KIB).collect();
    assert_eq!(grown, [128, 256, 512, 1024, 2048, 4096, 4096, 4096]);
}

#[test]
fn a_stream_begins_with_the_whole_window_while_little_is_lent_and_the_peer_is_told() {
    let budget = BufferBudget::new(1 << 30, 1);
    let windows = Windows::new(budget.of(0), &Http2Config::default(), now);
    let mut streams: Vec<StreamWindow> = (0..1000).map(|id| windows.of(1 + 2 * id)).collect();
    assert_eq!((streams[0].window(), streams[0].credit), (4 * MIB, 4 * MIB));
    assert_eq!(windows.updates(|_| Mention::Now)[0], (1, (4 * MIB - 64 * KIB) as u32));
    // Those that read are still lent a whole window.
    assert!(budget.lent() <= budget.limit() / 4, "{}", budget.lent());
    let last = streams.last_mut().unwrap();
    assert_eq!(last.window(), 64 * KIB);
    (0..8).for_each(|_| _ = read_all(&windows, last));
    assert_eq!(last.window(), 4 * MIB);
    drop(streams);
    assert_eq!(budget.lent(), 0);
}

/// The number of times that the driver of a tunnel was woken.
#[derive(Default)]
struct Wakes(std::sync::atomic::AtomicUsize);

impl std::task::Wake for Wakes {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn the_loan_of_the_beginning_rides_with_another_frame_or_goes_once_half_of_the_first_window_is_used() {
    let windows = windows(1 << 30);
    let wakes = std::sync::Arc::new(Wakes::default());
    windows.register(&Context::from_waker(&wakes.clone().into()));
    let woken = || wakes.0.load(std::sync::atomic::Ordering::Relaxed);
    let (mut one, _other) = (windows.of(1), windows.of(3));
    assert_eq!(one.window(), 4 * MIB);
    one.received(32 * KIB).unwrap();
    assert_eq!(woken(), 0);
    one.received(1).unwrap();
    one.received(KIB).unwrap();
    assert_eq!(woken(), 1);
    // The request of stream 3 has not gone out.
    assert_eq!(
        windows.updates(|stream| if stream < 3 { Mention::Now } else { Mention::Later }),
        [(1, (4 * MIB - 64 * KIB) as u32)]
    );
    assert_eq!(windows.updates(|_| Mention::Now), [(3, (4 * MIB - 64 * KIB) as u32)]);
    windows.return_padding(vec![(1, 100), (3, 200)]);
    assert_eq!(windows.updates(|stream| if stream < 3 { Mention::Never } else { Mention::Later }), []);
    assert_eq!(windows.updates(|_| Mention::Now), [(3, 200)]);
}

#[test]
fn a_slow_stream_gets_none_and_gives_back_what_it_has() {
    let windows = windows(1 << 30);
    let mut stream = windows.lent(1, 0);
    later(QUICK + Duration::from_millis(1));
    assert_eq!(read_all(&windows, &mut stream), 64 * KIB);
    (0..3).for_each(|_| _ = read_all(&windows, &mut stream));
    assert_eq!(stream.window(), 512 * KIB);
    for want in [288, 176, 120] {
        later(SLOW + Duration::from_millis(1));
        assert_eq!(read_all(&windows, &mut stream), want * KIB);
    }
}

#[test]
fn bytes_that_wait_keep_the_window_as_it_is_and_are_counted_until_they_are_taken() {
    let budget = BufferBudget::new(1 << 30, 1);
    let windows = Windows::new(budget.of(0), &Http2Config::default(), now);
    let mut stream = windows.lent(1, 0);
    stream.received(64 * KIB).unwrap();
    stream.waits();
    assert_eq!((budget.held(), stream.credit), (64 * KIB, 0));
    later(QUICK_THOUGH_WAITED + Duration::from_millis(1));
    stream.taken(10 * KIB, false);
    assert_eq!((budget.held(), windows.updates(|_| Mention::Now)), (54 * KIB, vec![]));
    stream.taken(54 * KIB, false);
    assert_eq!((budget.held(), windows.updates(|_| Mention::Now)), (0, vec![(1, 64 * 1024)]));
    stream.received(5).unwrap();
    stream.waits();
    drop(stream);
    assert_eq!((budget.held(), budget.lent()), (0, 0));
}

#[test]
fn the_end_of_a_stream_gives_back_its_loan_and_forgets_what_the_peer_was_to_be_told() {
    let budget = BufferBudget::new(1 << 30, 1);
    let windows = Windows::new(budget.of(0), &Http2Config::default(), now);
    let (mut one, mut other) = (windows.lent(1, 0), windows.lent(3, 0));
    for stream in [&mut one, &mut other] {
        stream.received(64 * KIB).unwrap();
        stream.taken(64 * KIB, false);
    }
    assert_eq!(budget.lent(), 2 * 64 * KIB);
    drop(one);
    assert_eq!((budget.lent(), windows.updates(|_| Mention::Now)), (64 * KIB, vec![(3, 128 * 1024)]));
}

#[test]
fn a_peer_that_will_send_nothing_more_is_told_nothing() {
    let windows = windows(1 << 30);
    let mut stream = windows.lent(1, 0);
    stream.received(64 * KIB).unwrap();
    stream.taken(64 * KIB, true);
    assert_eq!(windows.updates(|_| Mention::Now), []);
}

#[test]
fn a_peer_that_sends_more_than_the_window_is_found_out() {
    let windows = windows(1 << 30);
    let mut stream = windows.lent(1, 0);
    stream.received(64 * KIB).unwrap();
    assert!(stream.received(1).is_err());
}

#[test]
fn a_window_shrinks_while_the_budget_is_short_and_the_peer_may_send_again_all_the_same() {
    let budget = BufferBudget::new(64 << 20, 1);
    let windows = Windows::new(budget.of(0), &Http2Config::default(), now);
    let mut stream = windows.lent(1, 0);
    (0..8).for_each(|_| _ = read_all(&windows, &mut stream));
    assert_eq!(stream.window(), 4 << 20);
    // A thousand streams that read, and then stop.
    let mut others = Vec::new();
    for _ in 0..10 {
        let windows = Windows::new(budget.of(0), &Http2Config::default(), now);
        for id in 0..100 {
            let mut other = windows.lent(1 + 2 * id, 0);
            (0..8).for_each(|_| _ = read_all(&windows, &mut other));
            other.received(other.credit).unwrap();
            other.waits();
            others.push(other);
        }
    }
    assert!(budget.held() <= budget.limit(), "{} of {}", budget.held(), budget.limit());
    let left = read_all(&windows, &mut stream);
    assert!((64 * KIB..MIB).contains(&left), "{left}");
    drop(others);
    (0..8).for_each(|_| _ = read_all(&windows, &mut stream));
    assert_eq!(stream.window(), 4 << 20);
}

#[tokio::test]
async fn what_waits_is_made_up_for_in_the_window_of_the_connection() {
    let windows = windows(1 << 30);
    let mut streams: Vec<StreamWindow> = (0..8).map(|id| windows.lent(1 + 2 * id, 0)).collect();
    for stream in &mut streams {
        stream.received(64 * KIB).unwrap();
        stream.waits();
    }
    assert_eq!(windows.changed().await, (1 << 20) + 8 * 64 * 1024);
    for stream in &mut streams {
        stream.taken(64 * KIB, false);
    }
    assert_eq!(windows.changed().await, 1 << 20);
}
