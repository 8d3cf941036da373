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
    meter.note(wait(3), 3, ms(10));
    meter.note(wait(3), 4, ms(30));
    meter.note(wait(4), 4, ms(900));
    // Around the whole of the second one.
    meter.note(wait(4), 8, ms(500));
    // From before the third window into it.
    meter.note(wait(8), 11, ms(20));
    let [stalls, calm] = meter.finish();
    assert_eq!((stalls.count(), stalls.slowest(), calm.count()), (3, ms(500), 0));
    assert!(stalls.percentile(50.0) >= ms(30) && stalls.percentile(50.0) < ms(32), "{stalls:?}");
}

#[test]
fn calm_windows_have_stalls_of_their_own() {
    let ms = Duration::from_millis;
    let mut meter = Meter::new(&Windows::default());
    meter.note(wait(0), 1, ms(40));
    meter.note(wait(1), 2, ms(50));
    // From one window into the next.
    meter.note(wait(2), 3, ms(70));
    meter.note(wait(4), 5, ms(60));
    let [stalls, calm] = meter.finish();
    assert_eq!((stalls.count(), stalls.slowest()), (1, ms(70)));
    assert_eq!((calm.count(), calm.slowest()), (2, ms(60)));
}

#[test]
fn windows_open_and_close_once() {
    let windows = Windows::default();
    let after = |act: fn(&Windows)| {
        act(&windows);
        windows.period()
    };
    assert_eq!(after(Windows::close), 0);
    assert_eq!([after(Windows::open), after(Windows::open)], [3, 3]);
    assert_eq!([after(Windows::close), after(Windows::close)], [4, 4]);
    assert_eq!([after(Windows::open_calm), after(Windows::close), after(Windows::open)], [5, 6, 7]);
    assert_eq!([after(Windows::close), after(Windows::open), after(Windows::close)], [8, 11, 12]);
    assert_eq!([after(Windows::open_calm), after(Windows::close), after(Windows::open_calm)], [13, 14, 17]);
}
