use super::*;

#[derive(Debug, PartialEq)]
struct Item(u32, &'static str);

impl Version for Item {
    fn same(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

fn held(index: &Index<Item>, key: u64) -> Vec<&'static str> {
    let mut all = Vec::new();
    index.each(key, |item| all.push(item.1));
    all
}

#[test]
fn versions_are_replaced_in_place_and_others_kept() {
    let index = Index::default();
    let a1 = Arc::new(Item(1, "a1"));
    assert!(index.put(7, &a1));
    assert!(index.put(7, &Arc::new(Item(2, "b1"))));
    assert!(index.put(7, &Arc::new(Item(3, "c1"))));
    assert!(!index.put(7, &Arc::new(Item(1, "a2"))));
    assert_eq!(held(&index, 7), ["a2", "b1", "c1"]);
    assert!(index.remove(7, &Item(2, "")));
    assert!(!index.remove(7, &Item(2, "")));
    assert_eq!(held(&index, 7), ["a2", "c1"]);
    assert!(index.remove(7, &a1));
    assert!(!index.remove(7, &a1));
    assert!(!index.remove(8, &a1));
    assert_eq!(held(&index, 7), ["c1"]);
    assert!(index.remove(7, &Item(3, "")));
    assert!(held(&index, 7).is_empty() && index.values().is_empty());
}

#[test]
fn the_greatest_wins_and_of_equals_the_latest() {
    let index = Index::default();
    for (id, name) in [(1, "b"), (2, "c"), (3, "c"), (4, "a")] {
        index.put(0, &Arc::new(Item(id, name)));
    }
    let best = |is_meant: fn(&Item) -> bool| {
        index.best(0, is_meant, |a, b| a.1.cmp(b.1)).map(|item| item.0) //
    };
    assert_eq!(best(|_| true), Some(3));
    assert_eq!(best(|item| item.1 < "c"), Some(1));
    assert_eq!(best(|_| false), None);
    assert_eq!(index.find(0, |item| item.0 == 2).map(|item| item.0), Some(2));
}

#[test]
fn prefix_lengths_come_in_order() {
    let lengths = PrefixLengths::default();
    for length in [128, 0, 63, 64, 127] {
        lengths.set(true, length);
    }
    lengths.set(false, 8);
    lengths.clear(true, 127);
    assert_eq!(lengths.iter(true).collect::<Vec<_>>(), [0, 63, 64, 128]);
    assert_eq!(lengths.iter(false).collect::<Vec<_>>(), [8]);
}

#[test]
fn an_entry_is_24_bytes() {
    assert_eq!(size_of::<(u64, Holders<Item>)>(), 24);
}
