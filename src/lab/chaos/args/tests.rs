use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    chaos: ChaosArgs,
}

fn parse(args: &[&str]) -> Result<ChaosArgs, String> {
    let words = std::iter::once(&"chaos").chain(args);
    Line::try_parse_from(words).map(|line| line.chaos).map_err(|error| error.to_string())
}

#[test]
fn choices_are_pairs_and_a_star_is_anything() {
    assert!(parse(&[]).unwrap().wants("xds", "kill"));
    let args = parse(&["--only", "xds/kill,*/panic", "--only", "admin stats/*"]).unwrap();
    let wanted = [("xds", "kill"), ("mesh", "panic"), ("admin stats", "slow")];
    assert!(wanted.iter().all(|(kind, fault)| args.wants(kind, fault)));
    assert!(!args.wants("xds", "hang"));
}

#[test]
fn a_time_has_a_unit_or_is_of_seconds() {
    let duration = |text| parse(&["--duration", text]).unwrap().duration;
    assert_eq!(duration("90"), Some(Duration::from_secs(90)));
    assert_eq!(duration("2h"), Some(Duration::from_secs(7200)));
    assert_eq!((parse(&[]).unwrap().duration, parse(&[]).unwrap().seed), (None, 1));
}

#[test]
fn mistakes_are_named() {
    for (option, value, error) in [
        ("--seed", "x", "invalid value 'x' for '--seed <N>'"),
        ("--duration", "0s", "invalid value '0s' for '--duration <TIME>': not a time such as 90s, 5m or 1h"),
        ("--duration", "5d", "invalid value '5d' for '--duration <TIME>': not a time such as 90s, 5m or 1h"),
        (
            "--only",
            "xds",
            "invalid value 'xds' for '--only <KIND/FAULT,...>': not KIND/FAULT, such as xds/kill",
        ),
    ] {
        let refused = parse(&[option, value]).unwrap_err();
        assert!(refused.contains(error), "{refused}");
    }
}
