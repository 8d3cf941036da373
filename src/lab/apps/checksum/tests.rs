use proptest::prelude::*;

use super::*;

fn sum(parts: &[&[u8]]) -> (u64, u64) {
    let mut sum = Checksum::default();
    parts.iter().for_each(|part| sum.add(part));
    (sum.value(), sum.length())
}

proptest! {
    #[test]
    fn the_sum_does_not_depend_on_the_cuts(bytes: Vec<u8>, a: prop::sample::Index, b: prop::sample::Index) {
        let (a, b) = (a.index(bytes.len() + 1), b.index(bytes.len() + 1));
        let (low, high) = (a.min(b), a.max(b));
        prop_assert_eq!(sum(&[&bytes]), sum(&[&bytes[..low], &bytes[low..high], &bytes[high..]]));
    }

    #[test]
    fn a_changed_or_missing_byte_changes_the_sum(bytes in prop::collection::vec(any::<u8>(), 1..64), at: prop::sample::Index) {
        let at = at.index(bytes.len());
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        prop_assert_ne!(sum(&[&bytes]), sum(&[&changed]));
        changed.remove(at);
        prop_assert_ne!(sum(&[&bytes]), sum(&[&changed]));
    }
}

#[test]
fn patterns_of_different_seeds_differ_and_go_on() {
    let mut bytes = [[0; 64]; 3];
    let mut pattern = Pattern::new(1);
    pattern.fill(&mut bytes[0]);
    pattern.fill(&mut bytes[1]);
    Pattern::new(2).fill(&mut bytes[2]);
    assert!(bytes[0] != bytes[1] && bytes[0] != bytes[2]);
}
