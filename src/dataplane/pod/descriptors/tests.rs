//! When a pod waits for descriptors.

use super::*;

/// The descriptors of a connection.
const OF_CONNECTION: usize = 2;

#[test]
fn a_pod_may_have_as_many_as_are_left_for_others() {
    let cases = [
        (0, 100, true, true),
        (100, 100, true, true),
        (102, 100, false, true),
        (133, 100, false, true),
        (134, 100, false, false),
        // Whoever has few goes on while there are any.
        (8, 1, true, true),
        (9, 1, false, true),
        (0, 0, false, false),
    ];
    for (held, left, accepts, connects) in cases {
        assert_eq!(
            (may_accept(held, left), may_connect(held, left)),
            (accepts, connects),
            "{held} held and {left} left"
        );
    }
}

#[test]
fn several_hoarders_leave_as_much_as_each_of_them_has() {
    for hoarders in 1..6 {
        let (mut held, mut open) = (vec![0; hoarders], 0);
        loop {
            let before = open;
            for held in &mut held {
                if may_accept(*held, 192usize.saturating_sub(open)) {
                    *held += OF_CONNECTION;
                    open += OF_CONNECTION;
                }
            }
            if open == before {
                break;
            }
        }
        let left = 192 - open;
        assert!(
            left + 2 * OF_CONNECTION * hoarders >= 192 / (hoarders + 1),
            "{hoarders} hoarders leave {left}"
        );
        // A pod that comes then is served.
        assert!(may_accept(0, left));
    }
}
