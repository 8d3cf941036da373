use super::*;

#[test]
fn the_highest_are_kept_and_all_are_counted() {
    let mut top = Top::new(3);
    let mut made = 0;
    for score in [5, 1, 9, 3, 7, 2, 9] {
        top.offer(score, || {
            made += 1;
            score
        });
    }
    assert_eq!(top.listed(|score| score), Listed { rows: vec![9, 9, 7], all: 7 });
    assert_eq!(made, 6, "2 is below what is kept, so nothing is made for it");
}

#[test]
fn a_list_of_nothing_is_empty() {
    assert_eq!(Top::<u8>::new(3).listed(|value| value), Listed::default());
}
