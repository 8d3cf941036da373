use super::*;

#[test]
fn an_empty_window_holds_no_buffer() {
    let buffers = Buffers::default();
    let mut window = Window::default();
    window.space(&buffers, 1)[..3].copy_from_slice(b"abc");
    window.extend(3);
    window.release(&buffers);
    assert_eq!(window.filled(), b"abc");
    window.consume(2);
    assert_eq!((window.filled().to_vec(), window.len()), (b"c".to_vec(), 1));
    window.consume(1);
    window.release(&buffers);
    assert!(window.buf.is_empty());
    assert_eq!(buffers.0.borrow().free.len(), 1);
}

#[test]
fn space_is_made_by_moving_what_is_unread_to_the_front() {
    let buffers = Buffers::default();
    let mut window = Window::default();
    let all = window.space(&buffers, 1).len();
    window.extend(all);
    window.filled()[all - 1] = 7;
    window.consume(all - 1);
    assert_eq!(window.space(&buffers, 10).len(), all - 1);
    assert_eq!(window.filled(), &[7]);
}

#[test]
fn the_shelf_is_bounded() {
    let buffers = Buffers::default();
    let taken: Vec<_> = (0..IDLE_BUFFERS + 5).map(|_| buffers.take()).collect();
    taken.into_iter().for_each(|b| buffers.give(b));
    assert_eq!(buffers.0.borrow().free.len(), IDLE_BUFFERS);
}

#[test]
fn scratch_that_is_still_referenced_is_replaced() {
    let buffers = Buffers::default();
    let held = buffers.with_scratch(100, |s| {
        s.extend_from_slice(b"hello");
        s.split().freeze()
    });
    buffers.with_scratch(SCRATCH_LEN, |s| s.extend_from_slice(&[0; 1000]));
    assert_eq!(&held[..], b"hello");
}
