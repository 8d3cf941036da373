use super::*;

#[test]
fn who_is_not_there_is_left_out_with_a_reason() {
    assert!(Contestant::find("none").unwrap().is_direct());
    assert!(Contestant::find("warren").unwrap().is_node());
    let unknown = Contestant::find("nginx").unwrap_err().to_string();
    assert!(unknown.starts_with("nginx: nobody of that name"), "{unknown}");
    let missing = Contestant::binary("old", Path::new("/nowhere/warren")).unwrap_err().to_string();
    assert_eq!(missing, "old: /nowhere/warren is no program, left out");
    let text = Contestant::binary("text", Path::new(file!())).unwrap_err();
    assert!(matches!(text, LeftOut::Binary { .. }), "{text}");
}
