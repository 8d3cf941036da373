use super::*;

#[test]
fn queries_are_decoded() {
    let pairs = |text| {
        let pairs = query(text).into_iter().map(|(name, value)| format!("{name}={value}"));
        pairs.collect::<Vec<_>>().join("|")
    };
    for (text, want) in [
        ("", ""),
        ("reset", "reset="),
        ("level=a%3Dinfo%2Cb&reset=1", "level=a=info,b|reset=1"),
        ("&&a=b=c", "a=b=c"),
        ("a=%zz%4&b=1+2", "a=%zz%4|b=1 2"),
        ("a=%+1%C3%A9%ff", "a=% 1é\u{fffd}"),
    ] {
        assert_eq!(pairs(text), want, "{text}");
    }
}

#[test]
fn an_accept_list_is_read_by_its_names() {
    let accepts = |list: &str, wanted: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, list.parse().unwrap());
        accepts(&headers, header::ACCEPT, wanted)
    };
    let openmetrics = "application/openmetrics-text";
    for (list, want) in [
        ("application/openmetrics-text;version=1.0.0,application/openmetrics-text;q=0.5,*/*;q=0.1", true),
        ("text/plain;version=0.0.4;q=0.3, Application/OpenMetrics-Text ;q=0.2", true),
        ("application/openmetrics-text;q=0", false),
        ("text/plain", false),
        ("*/*", false),
        ("", false),
    ] {
        assert_eq!(accepts(list, openmetrics), want, "{list}");
    }
}
