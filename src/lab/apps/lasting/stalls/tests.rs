//! Each window has one stall of a stream, and none is lost between two windows.

use super::*;

fn wait(period: u64) -> Wait {
    Wait { since: Instant::now(), period }
}

#[test]
fn a_stream_has_one_stall_for_each_window_in_which_it_waited() {
    let ms = Duration::from_millis;
    let mut meter = Meter::new(&Windows::default());
    // Outside of windows.
    meter.note(wait(0), 0, ms(900));
    // In the first window, the longest of two; one of them ends after the window.
    meter.note(wait(1), 1, ms(10));
    meter.note(wait(1), 2, ms(30));
    // Around the whole of the second one.
    meter.note(wait(2), 4, ms(500));
    // From before the third window into it.
    meter.note(wait(4), 5, ms(20));
    let stalls = meter.finish();
    assert_eq!((stalls.count(), stalls.slowest()), (3, ms(500)));
    assert!(stalls.percentile(50.0) >= ms(30) && stalls.percentile(50.0) < ms(32), "{stalls:?}");
}

#[test]
fn windows_open_and_close_once() {
    let windows = Windows::default();
    windows.close();
    assert_eq!(windows.period(), 0);
    windows.open();
    windows.open();
    assert_eq!(windows.period(), 1);
    windows.close();
    windows.close();
    assert_eq!(windows.period(), 2);
}
