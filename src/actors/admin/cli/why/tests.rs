//! The tree of an explanation, and the request about an arrival.

use super::*;

fn sentence(says: &str, because: Vec<Sentence>) -> Sentence {
    Sentence { says: says.into(), because }
}

fn explained() -> Explanation {
    let leaf = |says: &str| sentence(says, vec![]);
    Explanation {
        verdict: Verdict::Denied,
        source: "ns1/a (10.0.0.1)".into(),
        destination: "10.1.0.1:80".into(),
        named: vec![leaf("web means 10.1.0.1")],
        outbound: Some(Decided {
            verdict: Verdict::Allowed,
            sentence: sentence(
                "the proxy asks for it",
                vec![leaf("one two three four five six seven eight"), leaf("x")],
            ),
        }),
        next_hop: None,
        arrival: None,
        inbound: Some(Decided { verdict: Verdict::Denied, sentence: leaf("a \x1b[31mrule denies") }),
    }
}

#[test]
fn sentences_are_a_tree_that_fits_the_terminal() {
    let wide = Screen { colours: false, is_terminal: false, columns: usize::MAX };
    let want = "\
denied: ns1/a (10.0.0.1) to 10.1.0.1:80
├─ web means 10.1.0.1
├─ the proxy asks for it
│  ├─ one two three four five six seven eight
│  └─ x
└─ a [31mrule denies
";
    assert_eq!(draw(&explained(), &wide), want);
    let narrow = Screen { colours: true, is_terminal: true, columns: 30 };
    let drawn = draw(&explained(), &narrow);
    assert!(drawn.starts_with("\x1b[31mdenied\x1b[0m: "), "{drawn}");
    let lines: Vec<&str> = drawn.lines().skip(1).collect();
    assert!(lines.iter().all(|line| line.chars().count() <= 30), "{drawn}");
    assert!(drawn.contains("│  ├─ one two three four\n│  │     five six seven eight\n"), "{drawn}");
}

#[test]
fn an_arrival_becomes_a_request() {
    let arrival = Arrival {
        client: "10.0.0.1".parse().unwrap(),
        identity: Some("spiffe://td/ns/a/sa/b".parse().unwrap()),
        to: "[fd00::1]:15008".parse().unwrap(),
        authority: Some("web:80".parse().unwrap()),
    };
    let want = "/why?client=10.0.0.1&to=%5Bfd00%3A%3A1%5D%3A15008&identity=spiffe%3A%2F%2Ftd%2Fns%2Fa%2Fsa%2Fb\
                &authority=web%3A80";
    assert_eq!(arrival_target(&arrival), want);
}
