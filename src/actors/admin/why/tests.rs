//! Questions as they come in queries.

use super::*;

#[test]
fn questions_are_read_and_mistakes_are_named() {
    let connection = |source: &str, destination: &str| {
        Ok(Question::Connection { source: source.into(), destination: destination.into() })
    };
    for (query, want) in [
        ("source=a/b&destination=web%3A80", connection("a/b", "web:80")),
        ("destination=[::1]:80&source=10.0.0.1&other=1", connection("10.0.0.1", "[::1]:80")),
        ("source=a", Err("the parameter destination is missing".to_owned())),
        ("source=&destination=b", Err("the parameter source is missing".to_owned())),
        ("client=x&to=10.0.0.1:80", Err("the parameter client cannot be \"x\"".to_owned())),
        ("client=10.0.0.2&to=10.0.0.1", Err("the parameter to cannot be \"10.0.0.1\"".to_owned())),
        (
            "client=10.0.0.2&to=10.0.0.1:15008&identity=me",
            Err("the parameter identity cannot be \"me\"".to_owned()),
        ),
    ] {
        assert_eq!(Question::parse(query), want, "{query}");
    }
    let arrival = Question::parse(
        "client=10.0.0.2&to=10.0.0.1:15008&identity=spiffe://td/ns/a/sa/b&authority=10.0.0.1:80",
    );
    let Ok(Question::Arrival(arrival)) = arrival else { panic!("{arrival:?}") };
    assert_eq!(arrival.identity.unwrap().as_str(), "spiffe://td/ns/a/sa/b");
    assert_eq!(arrival.authority.unwrap().to_string(), "10.0.0.1:80");
}
