use super::*;

#[test]
fn the_busiest_shard_is_the_one_that_worked_most_meanwhile() {
    let seconds = |all: [u64; 2]| all.map(Duration::from_secs);
    assert_eq!(busiest(&seconds([100, 0]), &seconds([101, 3])), Some(0.75));
    assert_eq!(busiest(&seconds([1, 1]), &seconds([1, 1])), None);
    assert_eq!(busiest(&[], &[]), None);
}
