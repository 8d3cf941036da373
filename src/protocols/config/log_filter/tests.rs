use proptest::prelude::*;

use super::*;

#[test]
fn filters_read_back_as_they_are_set() {
    for (list, want) in [
        ("", "ractor=off,info"),
        ("debug", "ractor=off,debug"),
        ("WARN,access=Debug", "access=debug,ractor=off,warn"),
        ("access=debug,info", "access=debug,ractor=off,info"),
        ("access:debug", "access=debug,ractor=off,info"),
        (" warn , a::b=trace,,a::b:error ", "ractor=off,a::b=error,warn"),
        ("a=info,a=debug", "ractor=off,a=debug,info"),
        ("off,ractor=info", "ractor=info,off"),
    ] {
        let filter = list.parse::<LogFilter>().map(|filter| filter.to_string());
        assert_eq!(filter.as_deref(), Ok(want), "{list}");
    }
}

#[test]
fn clauses_that_are_none_are_named_and_change_nothing() {
    let mut filter = LogFilter::default();
    for bad in [
        "INFO",
        "access",
        "access=",
        "access=loud",
        "=info",
        "warning",
        "a b=info",
        "a::=info",
        "a:b",
        "a=b=info",
    ] {
        assert_eq!(filter.add(&format!("debug,{bad}")), Err(FilterError::Clause(bad.to_owned())), "{bad}");
    }
    assert_eq!(filter.add(&"x".repeat(5000)), Err(FilterError::Long(5000)));
    let many: Vec<String> = (0..=TARGETS_MAX).map(|n| format!("t{n}=info")).collect();
    assert_eq!(filter.add(&many.join(",")), Err(FilterError::Targets));
    assert_eq!(filter, LogFilter::default());
}

proptest! {
    #[test]
    fn what_is_displayed_is_the_same_filter(text in "([a-c:]{0,3}([=:]?(info|off|debug|x))?,?){0,6}") {
        if let Ok(filter) = text.parse::<LogFilter>() {
            prop_assert_eq!(filter.to_string().parse(), Ok(filter));
        }
    }
}
