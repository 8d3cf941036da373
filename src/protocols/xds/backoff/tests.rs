use super::*;

fn refused() -> End {
    End::Refused { code: Some(Code::Unauthenticated), error: "no".into() }
}

fn status(code: Code, message: &str) -> End {
    End::Status { code, message: message.into() }
}

#[test]
fn refusals_double_the_delay_from_20_ms_to_15_s() {
    let mut backoff = Backoff::new();
    let delays: Vec<u128> = (0..13).map(|_| backoff.after(&refused()).1.as_millis()).collect();
    assert_eq!(delays, [20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10240, 15000, 15000, 15000]);
}

#[test]
fn each_end_has_its_reason_and_its_effect_on_the_delay() {
    use Termination::{Complete, ConnectionError, Error, Reconnect};
    // The delay after the end, and after a refusal that follows it; two refusals (20, 40 ms) went before.
    let table = [
        (refused(), ConnectionError, 80, 160),
        (status(Code::Unknown, ""), Reconnect, 10, 20),
        (status(Code::Cancelled, ""), Reconnect, 10, 20),
        (status(Code::DeadlineExceeded, ""), Reconnect, 10, 20),
        (status(Code::Unavailable, "transport is closing"), Reconnect, 10, 20),
        (status(Code::Unavailable, "closed: received prior goaway: x"), Reconnect, 10, 20),
        (status(Code::Unavailable, "keep-alive timed out"), Error, 80, 160),
        (status(Code::Internal, ""), Error, 80, 160),
        (status(Code::ResourceExhausted, "grpc: received message larger than max"), Error, 80, 160),
        (status(Code::PermissionDenied, ""), Error, 80, 160),
        (End::Local("no roots".into()), Error, 80, 160),
        (End::Stalled("mute".into()), Error, 80, 160),
        (End::SinkDown("mesh".into()), Error, 80, 160),
        (End::Complete { answered: true }, Complete, 0, 20),
        (End::Complete { answered: false }, Complete, 80, 160),
    ];
    for (end, reason, delay, then) in table {
        let mut backoff = Backoff::new();
        backoff.after(&refused());
        backoff.after(&refused());
        assert_eq!(backoff.after(&end), (reason, Duration::from_millis(delay)), "{end:?}");
        assert_eq!(backoff.after(&refused()).1, Duration::from_millis(then), "after {end:?}");
    }
}
