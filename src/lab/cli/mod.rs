//! `warren lab`: raise a mesh on this machine, look at it, run commands in its pods, take it down.

use std::{error::Error, path::PathBuf, process::ExitCode};

use super::{
    bench,
    chaos::{self, ArgsError, ChaosArgs},
    demo,
};

mod join;
mod up;

pub use self::up::MeshSource;

/// The exit code for a wrong command line.
const USAGE: u8 = 2;
const DEFAULT_NAME: &str = "lab";
const DEMO: &str = "demo";
const BENCH: &str = "bench";
const CHAOS: &str = "chaos";

const HELP: &str = "\
A mesh on this machine, in network namespaces of its own. It needs neither root nor anything installed.

Usage: warren lab COMMAND [OPTIONS]

Commands:
  demo                  raise a mesh, send traffic through it, break it, and show what held; done in a minute
  bench                 measure the proxy, beside no proxy, haproxy and Envoy; see `warren lab bench --help`
  chaos                 break every kind of actor in every way under traffic, and show what that cost
  up FILE               raise the mesh of FILE (YAML) and keep it until Ctrl-C; edits of FILE take effect
  status                show the hosts of the running mesh and whether its proxies are ready
  exec HOST -- COMMAND  run a command in a pod, node or outside host of the running mesh
  down                  take the running mesh down from another shell

Options:
  --name NAME           the lab's name, for more than one at a time (default: lab; demo: demo; chaos: chaos)
  --proxy BINARY        up: the node proxy to run (default: this program)
  --no-proxy            up: run none
  --env NAME=VALUE      up: a setting for the proxies; may be given several times
  --dns                 up: redirect the pods' DNS to the proxies
  --seed N              chaos: what chance is drawn from (default: 1)
  --duration TIME       chaos: go on in rounds, in an order by chance, for 90s, 5m or 1h
  --only KIND/FAULT     chaos: only these, such as xds/kill or */panic; faults are kill, panic, hang, slow, start
  --soak                chaos: one random kill a second instead
  --allowed FILE        chaos: what the loss of each kind may cost (default: built in)
  --json FILE           chaos: write the results there, too
  --markdown FILE       chaos: write the results there as tables, too
  --add FILE            chaos: what --json has written of other trials goes into the tables, too
  -h, --help            show this

HOST is `NAME`, `NAMESPACE/NAME` for a pod, or with its role in front: `node:one`, `pod:web`, `outside:db`.
";

/// A parsed command line.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Args {
    command: Command,
    name: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Command {
    Help,
    Demo,
    Chaos(ChaosArgs),
    Up(UpArgs),
    Exec { host: String, program: String, args: Vec<String> },
    Status,
    Down,
}

/// What `up` is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpArgs {
    /// The mesh file.
    pub file: PathBuf,
    /// The proxy; this program unless said.
    pub proxy: Option<PathBuf>,
    /// Run no proxy.
    pub no_proxy: bool,
    /// Settings for the proxies.
    pub env: Vec<(String, String)>,
    /// Redirect DNS.
    pub dns: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum UsageError {
    #[error("unknown command {0:?}")]
    UnknownCommand(String),
    #[error("unknown option {0:?}")]
    UnknownOption(String),
    #[error("{0} needs a value")]
    NoValue(String),
    #[error("--env takes NAME=VALUE, not {0:?}")]
    Env(String),
    #[error("{0}")]
    Missing(&'static str),
    #[error("{0:?} is one argument too many")]
    TooMany(String),
    #[error(transparent)]
    Chaos(#[from] ArgsError),
}

/// Runs `warren lab` with the arguments that follow these two words. Call it first in `main`, while the process
/// has one thread: it may run this program again, in namespaces of its own.
pub fn run(args: impl Iterator<Item = String>, source: impl MeshSource) -> ExitCode {
    let mut args = args.peekable();
    if args.next_if(|command| command == BENCH).is_some() {
        return done(bench::run(&args.collect::<Vec<_>>()));
    }
    let args = match Args::parse(args) {
        Ok(args) => args,
        Err(error) => {
            eprintln!("warren lab: {error}\n\n{HELP}");
            return ExitCode::from(USAGE);
        }
    };
    done(match args.command {
        Command::Help => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Command::Demo => demo::run(&args.name),
        Command::Chaos(chaos) => chaos::run(&args.name, &chaos),
        Command::Up(up) => up::up(&args.name, &up, source),
        Command::Exec { host, program, args: rest } => join::exec(&args.name, &host, &program, &rest),
        Command::Status => join::status(&args.name),
        Command::Down => join::down(&args.name),
    })
}

fn done(result: Result<ExitCode, Box<dyn Error>>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("warren lab: {error}");
        ExitCode::FAILURE
    })
}

// === impl Args ===

impl Args {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, UsageError> {
        let command = args.next().ok_or(UsageError::Missing("which command?"))?;
        let name = [DEMO, CHAOS].into_iter().find(|name| command == *name).unwrap_or(DEFAULT_NAME);
        let (mut chaos, is_chaos) = (ChaosArgs::default(), command == CHAOS);
        let (mut name, mut up, mut words) = (name.to_owned(), UpArgs::default(), Vec::new());
        let is_up = command == "up";
        let mut help = false;
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| UsageError::NoValue(arg.clone()));
            match arg.as_str() {
                "-h" | "--help" => help = true,
                "--name" => name = value()?,
                "--proxy" if is_up => up.proxy = Some(value()?.into()),
                "--no-proxy" if is_up => up.no_proxy = true,
                "--dns" if is_up => up.dns = true,
                "--env" if is_up => {
                    let setting = value()?;
                    let (name, value) =
                        setting.split_once('=').ok_or_else(|| UsageError::Env(setting.clone()))?;
                    up.env.push((name.to_owned(), value.to_owned()));
                }
                "--soak" if is_chaos => chaos.soak = true,
                option if is_chaos && ChaosArgs::knows(option) => chaos.set(option, value()?)?,
                "--" => words.extend(args.by_ref()),
                option if option.starts_with('-') => return Err(UsageError::UnknownOption(arg)),
                // What follows the host is the command, options and all.
                _ if command == "exec" && !words.is_empty() => {
                    words.push(arg);
                    words.extend(args.by_ref());
                }
                _ => words.push(arg),
            }
        }
        let command = if help { Command::Help } else { Command::new(&command, words, (up, chaos))? };
        Ok(Self { command, name })
    }
}

// === impl Command ===

impl Command {
    fn new(command: &str, words: Vec<String>, (up, chaos): (UpArgs, ChaosArgs)) -> Result<Self, UsageError> {
        let mut words = words.into_iter();
        let command = match command {
            "-h" | "--help" | "help" => Self::Help,
            DEMO => Self::Demo,
            CHAOS => Self::Chaos(chaos),
            "up" => {
                let file = words.next().ok_or(UsageError::Missing("up: which mesh file?"))?.into();
                Self::Up(UpArgs { file, ..up })
            }
            "exec" => {
                let host = words.next().ok_or(UsageError::Missing("exec: in which pod?"))?;
                let program = words.next().ok_or(UsageError::Missing("exec: which command?"))?;
                return Ok(Self::Exec { host, program, args: words.collect() });
            }
            "status" => Self::Status,
            "down" => Self::Down,
            unknown => return Err(UsageError::UnknownCommand(unknown.to_owned())),
        };
        words.next().map_or(Ok(command), |word| Err(UsageError::TooMany(word)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, UsageError> {
        Args::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn commands_are_read_with_their_options_wherever_these_stand() {
        let up = parse("up --dns mesh.yaml --name x --env A=b=c --proxy /bin/p").unwrap();
        let expected = UpArgs {
            file: "mesh.yaml".into(),
            proxy: Some("/bin/p".into()),
            env: vec![("A".into(), "b=c".into())],
            dns: true,
            no_proxy: false,
        };
        assert_eq!((up.name.as_str(), up.command), ("x", Command::Up(expected)));
        let exec = |args: &[&str]| Command::Exec {
            host: "web".into(),
            program: "curl".into(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        };
        assert_eq!(parse("exec web -- curl -s --name x").unwrap().command, exec(&["-s", "--name", "x"]));
        assert_eq!(parse("exec --name y web curl -s").unwrap().command, exec(&["-s"]));
        assert_eq!(parse("up --help").unwrap().command, Command::Help);
        assert_eq!(parse("demo").unwrap(), Args { command: Command::Demo, name: "demo".into() });
        let wanted = ChaosArgs { seed: 7, soak: true, ..ChaosArgs::default() };
        let chaos = Args { command: Command::Chaos(wanted), name: "chaos".into() };
        assert_eq!(parse("chaos --seed 7 --soak").unwrap(), chaos);
        assert_eq!(parse("down").unwrap(), Args { command: Command::Down, name: "lab".into() });
    }

    #[test]
    fn wrong_lines_are_said_to_be_wrong_where_they_are() {
        for (line, error) in [
            ("", "which command?"),
            ("demos", "unknown command \"demos\""),
            ("demo mesh.yaml", "\"mesh.yaml\" is one argument too many"),
            ("up", "up: which mesh file?"),
            ("up a b", "\"b\" is one argument too many"),
            ("up a --env A", "--env takes NAME=VALUE, not \"A\""),
            ("status --dns", "unknown option \"--dns\""),
            ("demo --seed 3", "unknown option \"--seed\""),
            ("chaos --seed x", "--seed takes a whole number, not \"x\""),
            ("chaos --json", "--json needs a value"),
            ("down --name", "--name needs a value"),
            ("exec web", "exec: which command?"),
        ] {
            assert_eq!(parse(line).unwrap_err().to_string(), error, "{line}");
        }
    }
}
