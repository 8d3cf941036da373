//! Steps of a hand-over are named by their words, and anything else is refused.

use super::*;

#[test]
fn each_step_of_a_hand_over_can_be_broken_at_any_time() {
    for (word, step) in HandoverStep::WORDS {
        for (more, time, hangs) in
            [("", 1, false), ("@5", 5, false), ("@5:hang", 5, true), (":hang", 1, true)]
        {
            let fault = HandoverFault::parse(&format!("{word}{more}"));
            assert_eq!(fault, Ok(HandoverFault { step, time, hangs }), "{word}{more}");
        }
    }
    for text in
        ["offered", "old:received", "new:offered", "old:still@0", "old:still@x", "old:still:stop", "@1"]
    {
        HandoverFault::parse(text).unwrap_err();
    }
}
