use proptest::prelude::*;

use super::*;

fn text(text: &str) -> String {
    let mut html = Html::default();
    html.text(text);
    html.into_string()
}

#[test]
fn a_text_is_never_markup() {
    let nasty = "</td><script>alert('x')</script><a href=\"javascript:x\">&amp;";
    let escaped = text(nasty);
    assert!(!escaped.contains(['<', '>', '"', '\'']), "{escaped}");
    assert!(escaped.starts_with("&lt;/td&gt;&lt;script&gt;alert(&#39;x&#39;)"), "{escaped}");
    assert!(escaped.ends_with("&amp;amp;"), "{escaped}");
}

#[test]
fn a_text_cannot_steer_what_is_around_it() {
    assert_eq!(text("a\u{202e}b\u{7}c\nd"), "a\u{fffd}b\u{fffd}c d");
}

#[test]
fn a_long_text_is_cut() {
    let shown = text(&"x".repeat(100_000));
    assert_eq!(shown.chars().count(), MAX_CHARS);
    assert!(shown.ends_with("x…"));
}

proptest! {
    #[test]
    fn no_text_whatever_leaves_its_place(any in "\\PC*|[<>&\"'\\x00-\\x1f]*") {
        let escaped = text(&any);
        prop_assert!(!escaped.contains(|c: char| "<>\"'".contains(c) || c.is_control()));
        for (at, _) in escaped.match_indices('&') {
            let entities = ["&amp;", "&lt;", "&gt;", "&quot;", "&#39;"];
            prop_assert!(entities.iter().any(|entity| escaped[at..].starts_with(entity)));
        }
    }
}
