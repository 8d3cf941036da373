use std::time::Duration;

use clap::Parser;

use super::*;
use crate::lab::bench::{contestant::choose, measure::Effort};

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    bench: BenchArgs,
}

fn parse(line: &str) -> Result<BenchArgs, String> {
    let words = std::iter::once("bench").chain(line.split_whitespace());
    Line::try_parse_from(words).map(|line| line.bench).map_err(|error| error.to_string())
}

#[test]
fn a_line_says_what_is_measured_of_whom_and_how_long() {
    let line = "--rounds 5 --seconds 0.5 --only cps,tp1,cps --against none --json a --plot b";
    let args = parse(line).unwrap();
    assert_eq!((args.rounds, args.measures()), (5, vec![Measure::Tp1, Measure::Cps]));
    assert_eq!(args.against(), ["none", "warren"]);
    let Effort { time, idle, workloads } = Effort::of(args.seconds);
    assert_eq!((time, idle, workloads), (Duration::from_millis(500), 2000, 50_000));
    assert_eq!((args.json, args.plot), (Some("a".into()), Some("b".into())));
}

#[test]
fn an_empty_line_measures_everything_of_everybody() {
    let args = parse("").unwrap();
    assert_eq!((args.rounds, args.seconds), (3, 3.0));
    assert_eq!(args.measures(), Measure::value_variants());
    assert_eq!(args.against(), DEFAULT);
    assert_eq!(Effort::of(7.0).workloads, 100_000);
}

#[test]
fn a_wrong_line_is_said_to_be_wrong_where_it_is() {
    for (line, error) in [
        ("--round 5", "unexpected argument '--round' found"),
        ("--rounds", "a value is required for '--rounds <N>'"),
        ("--rounds 0", "invalid value '0' for '--rounds <N>': 0 is not in 1..=100"),
        ("--seconds inf", "invalid value 'inf' for '--seconds <S>': not a number from 0.05 to 60"),
        ("--only tp1,tp2", "invalid value 'tp2' for '--only <NAME,...>'"),
        ("--binary warren", "invalid value 'warren' for '--binary <NAME=PATH>': not NAME=PATH"),
        ("--against nobody", "invalid value 'nobody' for '--against <NAME,...>'"),
    ] {
        let said = parse(line).unwrap_err();
        assert!(said.contains(error), "{line}: {said}");
    }
}

#[test]
fn a_binary_has_a_name_of_its_own_and_is_a_program() {
    for (line, error) in [
        ("--binary warren=/bin/true", "--binary warren: there is one of that name already"),
        ("--binary old=/nowhere", "old: /nowhere is no program, left out"),
    ] {
        let args = parse(line).unwrap();
        assert_eq!(choose(&args.against(), &args.binaries).unwrap_err().to_string(), error);
    }
}
