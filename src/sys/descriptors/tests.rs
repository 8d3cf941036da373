//! What is left of the descriptors, and what is the reserve.

use super::*;

#[test]
fn a_quarter_is_the_reserve_and_of_many_a_thousand() {
    for (limit, want) in
        [(256, 192), (1024, 768), (1_048_576, 1_047_552), (0, 0), (usize::MAX, usize::MAX - 1024)]
    {
        assert_eq!(usable(limit), want, "of {limit}");
    }
}

#[test]
fn without_a_limit_descriptors_are_never_short() {
    let file = std::fs::File::open("/proc/self/stat").unwrap();
    assert!(!opened(&file) && !is_of_reserve(&file));
    assert!(left() > usize::MAX / 2);
}
