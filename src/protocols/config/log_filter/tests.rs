use proptest::prelude::*;

use super::*;

#[test]
fn a_filter_is_read_as_the_incumbent_reads_it() {
    for (list, want) in [
        ("", "ractor=off,info"),
        (" , ", "ractor=off,info"),
        ("debug", "ractor=off,debug"),
        // Without a level alone, all other targets are off.
        ("access=debug", "access=debug,ractor=off,off"),
        ("WARN,access=Debug", "access=debug,ractor=off,warn"),
        ("access=debug,info", "access=debug,ractor=off,info"),
        ("access:debug,info", "access=debug,ractor=off,info"),
        // A target alone has all its lines logged.
        ("info,access", "access=trace,ractor=off,info"),
        ("info,ztunnel::xds", "ztunnel::xds=trace,ractor=off,info"),
        ("ifno", "ractor=off,ifno=trace,off"),
        ("info,hickory_server::server=warn", "hickory_server::server=warn,ractor=off,info"),
        (" warn , a::b=trace,,a::b:error ", "ractor=off,a::b=error,warn"),
        ("info,a=info,a=debug", "ractor=off,a=debug,info"),
        ("off,ractor=info", "ractor=info,off"),
        ("2,a=5", "ractor=off,a=trace,warn"),
        ("info,a=", "ractor=off,a=error,info"),
        ("=debug", "ractor=off,debug"),
        ("info,a[{b}]=debug", "a[{b}]=debug,ractor=off,info"),
    ] {
        let filter = list.parse::<LogFilter>().map(|filter| filter.to_string());
        assert_eq!(filter.as_deref(), Ok(want), "{list}");
    }
    for bad in ["a=b=info", "access=loud", "info,a=9"] {
        assert!(matches!(bad.parse::<LogFilter>(), Err(FilterError::Clause(_))), "{bad}");
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
