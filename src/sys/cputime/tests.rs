use super::*;

#[test]
fn a_thread_is_seen_to_work_and_to_have_ended() {
    let (tell, told) = std::sync::mpsc::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let working = std::thread::spawn(move || {
        let time = ThreadTime::of_this_thread().unwrap();
        while time.used().unwrap() < Duration::from_millis(2) {
            std::hint::spin_loop();
        }
        tell.send(time).unwrap();
        ended.recv().unwrap_err();
    });
    let time = told.recv().unwrap();
    assert!(time.used().unwrap() >= Duration::from_millis(2));
    drop(end);
    working.join().unwrap();
    // The kernel reports the end of a thread a little before the thread's clock is gone.
    while time.used().is_some() {
        std::thread::yield_now();
    }
}
