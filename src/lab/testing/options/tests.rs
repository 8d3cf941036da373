use super::*;

fn chosen(args: &[&str]) -> Result<Vec<&'static str>, String> {
    let args = ["test"].iter().chain(args);
    let options = Options::try_parse_from(args).map_err(|error| error.to_string())?;
    Ok(["root::one", "root::one_more", "user::one"].into_iter().filter(|name| options.wants(name)).collect())
}

#[test]
fn filters_are_substrings_unless_exact_and_skips_win() {
    assert_eq!(chosen(&[]).unwrap().len(), 3);
    assert_eq!(chosen(&["one_more", "user"]).unwrap(), ["root::one_more", "user::one"]);
    assert_eq!(chosen(&["--exact", "root::one"]).unwrap(), ["root::one"]);
    assert_eq!(chosen(&["root::one", "--exact"]).unwrap(), ["root::one"]);
    assert_eq!(chosen(&["root", "--skip=more"]).unwrap(), ["root::one"]);
    assert!(chosen(&["--ignored"]).unwrap().is_empty());
}

#[test]
fn other_options_of_libtest_are_accepted_and_wrong_ones_are_not() {
    assert_eq!(chosen(&["--test-threads", "1", "--format=pretty", "-q", "user"]).unwrap(), ["user::one"]);
    let accepted = ["-Z", "unstable-options", "--no-capture", "--show-output", "--include-ignored", "user"];
    assert_eq!(chosen(&accepted).unwrap(), ["user::one"]);
    assert!(chosen(&["--skip"]).unwrap_err().contains("a value is required for '--skip <FILTER>'"));
    assert!(chosen(&["--what"]).unwrap_err().contains("unexpected argument '--what' found"));
}
