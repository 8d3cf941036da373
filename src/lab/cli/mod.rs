//! `warren lab`: raise a mesh on this machine, look at it, run commands in its pods, take it down.

use std::{error::Error, process::ExitCode};

use clap::{Args, Subcommand};

use super::{
    attack::{self, AttackArgs},
    bench::{self, BenchArgs},
    chaos::{self, ChaosArgs},
    demo,
    upgrade::{self, UpgradeArgs},
};
use crate::{command_line::WRONG_USAGE, help_heading};

mod join;
mod source;
mod up;

use self::source::DEFAULT_NAME;
pub use self::source::{MeshFile, MeshSource, UpArgs};

const EXAMPLES: &str = concat!(
    help_heading!("Examples"),
    "  warren lab demo
  warren lab up deploy/lab/two-nodes.yaml
  warren lab exec client -- curl http://10.96.0.80
  warren lab exec node:two -- curl localhost:15020/metrics
  warren lab down

It needs neither root nor anything installed."
);

const UP_EXAMPLES: &str = concat!(
    help_heading!("Examples"),
    "  warren lab up deploy/lab/two-nodes.yaml
  warren lab up deploy/lab/shop.yaml --dns --env RUST_LOG=debug"
);

const EXEC_EXAMPLES: &str = concat!(
    help_heading!("Examples"),
    "  warren lab exec client -- curl http://10.96.0.80
  warren lab exec node:two -- curl localhost:15020/metrics"
);

/// Raise a mesh of network namespaces on this machine, to try and to break it
#[derive(Clone, Debug, PartialEq, Args)]
#[command(after_help = EXAMPLES)]
pub struct LabArgs {
    /// The lab's name, for more than one at a time [default: lab; or demo, bench, chaos, attack, upgrade]
    #[arg(long, global = true, value_name = "NAME")]
    name: Option<String>,
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Clone, Debug, PartialEq, Subcommand)]
enum LabCommand {
    /// Raise a mesh, send traffic through it, break it, and show what held; done in seconds
    Demo,
    /// Raise the mesh of a file and keep it until Ctrl-C; edits of the file take effect
    #[command(after_help = UP_EXAMPLES)]
    Up(UpArgs),
    /// Show the hosts of the running mesh, and whether its proxies are ready
    Status,
    /// Run a command in a pod, node or outside host of the running mesh
    #[command(after_help = EXEC_EXAMPLES)]
    Exec {
        /// NAME, NAMESPACE/NAME for a pod, or with the role in front: node:one, pod:web, outside:db
        host: String,
        /// The command with its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Take the running mesh down from another shell
    Down,
    /// Measure the proxy on this machine, beside no proxy, haproxy and Envoy
    Bench(BenchArgs),
    /// Break every kind of actor in every way under traffic, and show what that cost
    Chaos(ChaosArgs),
    /// Attack a proxy in every known way beside a victim, and show what that cost
    Attack(AttackArgs),
    /// Upgrade proxies under streams of every kind, break hand-overs, and show what that cost
    Upgrade(UpgradeArgs),
}

/// Runs `warren lab`. Call this function first in `main`, while the process has one thread: it may run this program
/// again, in namespaces of its own. `source` interprets mesh files.
pub fn run(args: LabArgs, source: impl MeshSource) -> ExitCode {
    let name = args.name().to_owned();
    let done = match args.command {
        LabCommand::Demo => demo::run(&name),
        LabCommand::Up(up) => up::up(&name, &up, source),
        LabCommand::Status => join::status(&name),
        LabCommand::Exec { host, command } => match command.split_first() {
            Some((program, args)) => join::exec(&name, &host, program, args),
            None => Ok(ExitCode::from(WRONG_USAGE)),
        },
        LabCommand::Down => join::down(&name),
        LabCommand::Bench(bench) => bench::run(&name, bench),
        LabCommand::Chaos(chaos) => chaos::run(&name, &chaos),
        LabCommand::Attack(attack) => attack::run(&name, &attack),
        LabCommand::Upgrade(upgrade) => upgrade::run(&name, &upgrade),
    };
    done.unwrap_or_else(|error: Box<dyn Error>| {
        eprintln!("Error: {error}");
        ExitCode::FAILURE
    })
}

// === impl LabArgs ===

impl LabArgs {
    /// The lab's name: the given one, or the command's default.
    fn name(&self) -> &str {
        let default = match self.command {
            LabCommand::Demo => "demo",
            LabCommand::Bench(_) => "bench",
            LabCommand::Chaos(_) => "chaos",
            LabCommand::Attack(_) => "attack",
            LabCommand::Upgrade(_) => "upgrade",
            LabCommand::Up(_) | LabCommand::Status | LabCommand::Exec { .. } | LabCommand::Down => {
                DEFAULT_NAME
            }
        };
        self.name.as_deref().unwrap_or(default)
    }
}

#[cfg(test)]
mod tests;
