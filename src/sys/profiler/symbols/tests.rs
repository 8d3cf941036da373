#![allow(clippy::unwrap_used)]

use super::*;

#[test]
fn the_span_of_a_program_is_that_of_all_its_mappings() {
    let maps = "\
5581000-5582000 r--p 00000000 08:01 7 /opt/my warren
5582000-5590000 r-xp 00001000 08:01 7 /opt/my warren
7f00000-7f10000 r-xp 00000000 08:01 9 /lib/libc.so.6
7ff0000-7ff1000 rw-p 00000000 00:00 0 [stack]
";
    assert_eq!(span(maps, Path::new("/opt/my warren")), Some(0x5581000..0x5590000));
    assert_eq!(span(maps, Path::new("/opt/my")), None);
}

#[test]
fn an_address_of_this_program_has_the_name_of_its_function() {
    let here = program as *const () as usize;
    assert!(program().contains(&here), "{:?}", program());
    let found = Symbols::new().resolve(here);
    assert!(found.iter().any(|function| function.name.ends_with("symbols::program")), "{found:?}");
    assert_eq!(Symbols::new().resolve(16), []);
}
