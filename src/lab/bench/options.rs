//! The command line of `warren lab bench`.

use std::{path::PathBuf, time::Duration};

use super::{
    contestant::{Contestant, DEFAULT, LeftOut},
    measure::{Effort, MEASURES, Measure},
};

/// Rounds unless said; a figure is the median over them.
const ROUNDS: u32 = 3;
/// The most rounds.
const MOST_ROUNDS: u32 = 100;
/// How long a measurement goes on unless said, and the least and the most that can be said, seconds.
const SECONDS: f64 = 3.0;
const LEAST_SECONDS: f64 = 0.05;
const MOST_SECONDS: f64 = 60.0;
/// Connections held idle for a measurement of a second or more; fewer for a shorter one.
const IDLE: usize = 4000;
/// Workloads of a large mesh; fewer for a measurement of less than a second.
const WORKLOADS: u32 = 100_000;

pub(super) const HELP: &str = "\
Measures this proxy on this machine, beside no proxy, haproxy and Envoy.

Usage: warren lab bench [OPTIONS]

Options:
  --rounds N            rounds; figures are medians over them (default: 3)
  --seconds S           how long each measurement goes on (default: 3)
  --only NAME,...       measurements: start idle tp1 tp1r tp8 lat1 rps cps hot local neighbour
                        stalled stall bulk
  --against NAME,...    contestants besides warren: none, haproxy, envoy (default: all that are installed)
  --binary NAME=PATH    another node proxy in the same run; may be given several times
  --json FILE           the results, with every round
  --plot FILE           bars in SVG: bytes, requests and connections, as parts of what goes without a proxy
  -h, --help            show this
";

/// What to do.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) rounds: u32,
    pub(super) effort: Effort,
    pub(super) measures: Vec<Measure>,
    pub(super) contestants: Vec<Contestant>,
    pub(super) left_out: Vec<String>,
    pub(super) json: Option<PathBuf>,
    pub(super) plot: Option<PathBuf>,
}

/// What is wrong with the command line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum UsageError {
    #[error("unknown option {0:?}")]
    Unknown(String),
    #[error("{0} needs a value")]
    NoValue(String),
    #[error("{option} takes {takes}, not {value:?}")]
    Value { option: String, takes: &'static str, value: String },
    #[error(transparent)]
    Contestant(#[from] LeftOut),
    #[error("--binary {0}: there is one of that name already")]
    Twice(String),
}

// === impl Options ===

impl Options {
    /// Reads it; `None` asks for help.
    pub(super) fn parse(args: &[String]) -> Result<Option<Self>, UsageError> {
        let (mut rounds, mut seconds, mut measures) = (ROUNDS, SECONDS, MEASURES.map(|m| m.0).to_vec());
        let (mut against, mut binaries) = (DEFAULT.map(str::to_owned).to_vec(), Vec::new());
        let (mut json, mut plot) = (None, None);
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| UsageError::NoValue(arg.clone()));
            let wrong = |takes, value: &str| UsageError::Value {
                option: arg.clone(),
                takes,
                value: value.to_owned(),
            };
            match arg.as_str() {
                "-h" | "--help" => return Ok(None),
                "--rounds" => {
                    let text = value()?;
                    let read = text.parse().ok().filter(|rounds| (1..=MOST_ROUNDS).contains(rounds));
                    rounds = read.ok_or_else(|| wrong("a number from 1 to 100", text))?;
                }
                "--seconds" => {
                    let text = value()?;
                    let good = |seconds: &f64| (LEAST_SECONDS..=MOST_SECONDS).contains(seconds);
                    let read = text.parse().ok().filter(good);
                    seconds = read.ok_or_else(|| wrong("seconds from 0.05 to 60", text))?;
                }
                "--only" => {
                    let text = value()?;
                    let named = text.split(',').map(Measure::named).collect::<Option<Vec<_>>>();
                    measures = named.ok_or_else(|| wrong("names of measurements", text))?;
                    measures.sort_unstable();
                    measures.dedup();
                }
                "--against" => {
                    against = value()?.split(',').map(str::to_owned).collect();
                    if !against.iter().any(|name| name == "warren") {
                        against.insert(1.min(against.len()), "warren".to_owned());
                    }
                }
                "--binary" => {
                    let text = value()?;
                    let named = text.split_once('=').filter(|(name, _)| !name.is_empty());
                    let (name, path) = named.ok_or_else(|| wrong("NAME=PATH", text))?;
                    binaries.push((name.to_owned(), PathBuf::from(path)));
                }
                "--json" => json = Some(value()?.into()),
                "--plot" => plot = Some(value()?.into()),
                _ => return Err(UsageError::Unknown(arg.clone())),
            }
        }
        let (contestants, left_out) = contestants(&against, &binaries)?;
        let effort = effort(seconds);
        Ok(Some(Self { rounds, effort, measures, contestants, left_out, json, plot }))
    }
}

/// Those that are there, and why others are not. A wrong name is an error, what is not installed is not.
fn contestants(
    against: &[String],
    binaries: &[(String, PathBuf)],
) -> Result<(Vec<Contestant>, Vec<String>), UsageError> {
    let (mut found, mut left_out) = (Vec::<Contestant>::new(), Vec::new());
    for name in against {
        match Contestant::find(name) {
            Ok(contestant) if !found.contains(&contestant) => found.push(contestant),
            Ok(_) => {}
            Err(unknown @ LeftOut::Unknown(_)) => return Err(unknown.into()),
            Err(missing) => left_out.push(missing.to_string()),
        }
    }
    for (name, path) in binaries {
        if found.iter().any(|known| known.name == *name) || DEFAULT.contains(&name.as_str()) {
            return Err(UsageError::Twice(name.clone()));
        }
        found.push(Contestant::binary(name, path)?);
    }
    Ok((found, left_out))
}

/// Short measurements, which only show that all works, are of small things.
fn effort(seconds: f64) -> Effort {
    let part = seconds.min(1.0);
    Effort {
        time: Duration::from_secs_f64(seconds),
        idle: ((IDLE as f64 * part) as usize).max(1),
        workloads: (f64::from(WORKLOADS) * part) as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Options>, UsageError> {
        Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn a_line_says_what_is_measured_of_whom_and_how_long() {
        let line = "--rounds 5 --seconds 0.5 --only cps,tp1,cps --against none --json a --plot b";
        let options = parse(line).unwrap().unwrap();
        assert_eq!((options.rounds, options.measures), (5, vec![Measure::Tp1, Measure::Cps]));
        let names: Vec<&str> = options.contestants.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["none", "warren"]);
        let Effort { time, idle, workloads } = options.effort;
        assert_eq!((time, idle, workloads), (Duration::from_millis(500), 2000, 50_000));
        assert_eq!((options.json, options.plot), (Some("a".into()), Some("b".into())));
        assert_eq!(effort(7.0).workloads, 100_000);
        assert!(parse("--help").unwrap().is_none());
    }

    #[test]
    fn a_wrong_line_is_said_to_be_wrong_where_it_is() {
        for (line, error) in [
            ("--round 5", "unknown option \"--round\""),
            ("--rounds", "--rounds needs a value"),
            ("--rounds 0", "--rounds takes a number from 1 to 100, not \"0\""),
            ("--seconds inf", "--seconds takes seconds from 0.05 to 60, not \"inf\""),
            ("--only tp1,tp2", "--only takes names of measurements, not \"tp1,tp2\""),
            ("--binary warren", "--binary takes NAME=PATH, not \"warren\""),
            ("--binary warren=/bin/true", "--binary warren: there is one of that name already"),
            ("--binary old=/nowhere", "old: /nowhere is no program, left out"),
        ] {
            assert_eq!(parse(line).unwrap_err().to_string(), error, "{line}");
        }
        assert!(
            parse("--against nobody").unwrap_err().to_string().starts_with("nobody: nobody of that name")
        );
    }
}
