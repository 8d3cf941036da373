use proptest::prelude::*;

use super::*;

/// A text whose parts are displayed one after another.
struct Parts<'a>(&'a [String]);

impl Display for Parts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| f.write_str(part))
    }
}

#[test]
fn a_text_is_cut_between_characters() {
    for (text, want) in [
        ("", ""),
        ("abc", "abc"),
        ("abcd", "abcd"),
        ("abcde", "abcd"),
        ("abcé", "abc"),
        ("€€", "€"),
        ("😀", "😀"),
    ] {
        assert_eq!(PeerText::<4>::new(text).as_str(), want);
        assert_eq!(PeerText::<4>::of(text).as_str(), want);
    }
}

proptest! {
    #[test]
    fn what_is_kept_is_a_beginning_of_bounded_size(parts in prop::collection::vec(".{0,9}", 0..6)) {
        let whole = parts.concat();
        let kept = PeerText::<16>::new(&whole);
        prop_assert!(whole.starts_with(kept.as_str()) && kept.len() <= 16);
        prop_assert!(kept.len() == whole.len() || kept.len() > 12, "more of {whole:?} would have had room");
        prop_assert_eq!(PeerText::<16>::of(Parts(&parts)), kept);
    }
}
