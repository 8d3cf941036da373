//! `warren tree`, `warren crashes`, `warren quarantine` and `warren chaos`: what operators ask a running proxy for from a
//! shell.

use std::{
    io::{self, IsTerminal, Write},
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Subcommand};
use tokio::time::sleep;

use super::{
    client::{AskError, ask, encode},
    crashes,
    draw::{QuarantinedInput, ShownNode, draw, list},
};
use crate::help_heading;

/// How often a watched tree is drawn.
/// Limit: time between two drawings of `warren tree --watch`: 1 s; past it: the tree is drawn again.
const REDRAW_INTERVAL: Duration = Duration::from_secs(1);

const CHAOS_EXAMPLES: &str = concat!(
    help_heading!("Examples"),
    "  warren chaos kill xds                      kill the actor whose path ends in xds
  warren chaos hang root/telemetry --ms 250  let it not answer for a quarter of a second
  warren chaos tasks                         list the kinds of tasks
  warren chaos panic-task tunnel/dial        let the next dial of a tunnel panic

The proxy must have been started with WARREN_CHAOS=true."
);

/// What is asked of a running proxy.
#[allow(missing_docs, reason = "clap takes a comment on a group of options for the help of the command")]
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum AdminCommand {
    /// Draw the supervision tree of a running proxy
    Tree {
        /// Draw it again every second
        #[arg(long)]
        watch: bool,
        #[command(flatten)]
        admin: AdminPort,
    },
    /// List what has crashed in a running proxy, and why
    Crashes {
        /// Show the report of this number in full
        number: Option<u64>,
        #[command(flatten)]
        admin: AdminPort,
    },
    /// List what a running proxy has quarantined for crashing, and when it tries again
    Quarantine {
        #[command(flatten)]
        admin: AdminPort,
    },
    /// Break something in a running proxy, on purpose
    #[command(after_help = CHAOS_EXAMPLES)]
    Chaos {
        #[command(subcommand)]
        fault: ChaosCommand,
        /// Address and port of the proxy's admin server [default: 127.0.0.1:15000]
        #[arg(long = "admin", value_name = "ADDR", global = true)]
        admin: Option<SocketAddr>,
    },
}

/// Where a proxy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Args)]
pub struct AdminPort {
    /// Address and port of the proxy's admin server [default: 127.0.0.1:15000]
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
}

/// What is broken, and how.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum ChaosCommand {
    /// Kill an actor
    Kill {
        /// Path of the actor in the tree, or the end of the path
        id: String,
    },
    /// Let an actor panic
    Panic {
        /// Path of the actor in the tree, or the end of the path
        id: String,
    },
    /// Let an actor not answer for a while
    Hang {
        /// Path of the actor in the tree, or the end of the path
        id: String,
        /// For how many milliseconds [default: 5000]
        #[arg(long, value_name = "N")]
        ms: Option<u64>,
    },
    /// Let each message of an actor wait longer for a while
    Slow {
        /// Path of the actor in the tree, or the end of the path
        id: String,
        /// By how many milliseconds [default: 100]
        #[arg(long, value_name = "N")]
        ms: Option<u64>,
        /// For how many seconds [default: 10]
        #[arg(long = "for", value_name = "S")]
        seconds: Option<u64>,
    },
    /// Let the next starts of an actor fail
    FailStarts {
        /// Path of the actor in the tree, or the end of the path
        id: String,
        /// How many starts; 0 takes it back [default: 1]
        #[arg(long, value_name = "N")]
        times: Option<u64>,
    },
    /// Let the next tasks of a kind panic
    PanicTask {
        /// Kind of task, as `warren chaos tasks` lists it
        kind: String,
        /// How many tasks [default: 1]
        #[arg(long, value_name = "N")]
        times: Option<u64>,
    },
    /// List the kinds of tasks
    Tasks,
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("the proxy refuses: {0}")]
    Refused(String),
    #[error("there is no crash report {0}, or it is no longer kept")]
    NoReport(u64),
    #[error("the proxy's answer makes no sense: {0}")]
    Answer(#[from] serde_json::Error),
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}

/// Asks what the command line says, at the address that it gives or at `default`.
pub fn run(command: &AdminCommand, default: Option<SocketAddr>) -> ExitCode {
    let admin = command.admin().or(default).unwrap_or((Ipv4Addr::LOCALHOST, 15000).into());
    let done = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CommandError::Write)
        .and_then(|runtime| runtime.block_on(perform(command, admin)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read has seen enough.
        Err(CommandError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn perform(command: &AdminCommand, admin: SocketAddr) -> Result<(), CommandError> {
    match command {
        AdminCommand::Crashes { number, .. } => {
            let shown = serde_json::from_str(&asked(admin, "GET", "/crashes").await?)?;
            let none = || CommandError::NoReport(number.unwrap_or_default());
            print(&crashes::draw(&shown, *number).ok_or_else(none)?)
        }
        AdminCommand::Quarantine { .. } => {
            let aside: Vec<QuarantinedInput> =
                serde_json::from_str(&asked(admin, "GET", "/quarantine").await?)?;
            print(&list(&aside))
        }
        AdminCommand::Chaos { fault, .. } => {
            let (method, target) = fault.request();
            print(&asked(admin, method, &target).await?)
        }
        AdminCommand::Tree { watch: false, .. } => print(&tree(admin).await?),
        AdminCommand::Tree { watch: true, .. } => loop {
            // A proxy that is away is what somebody who watches wants to see.
            let shown = tree(admin).await.unwrap_or_else(|error| format!("{error}\n"));
            let clear = if io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
            print(&format!("{clear}{shown}"))?;
            sleep(REDRAW_INTERVAL).await;
        },
    }
}

async fn tree(admin: SocketAddr) -> Result<String, CommandError> {
    let roots: Vec<ShownNode> = serde_json::from_str(&asked(admin, "GET", "/actors").await?)?;
    Ok(draw(&roots, io::stdout().is_terminal()))
}

/// The text of an answer that is no refusal.
async fn asked(admin: SocketAddr, method: &str, path: &str) -> Result<String, CommandError> {
    match ask(admin, method, path).await? {
        (200, text) => Ok(text),
        (status, text) if text.trim().is_empty() => Err(CommandError::Refused(format!("status {status}"))),
        (_, text) => Err(CommandError::Refused(text.trim_end().to_owned())),
    }
}

/// Unlike `print!`, lets a closed pipe be an error.
fn print(text: &str) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

// === impl AdminCommand ===

impl AdminCommand {
    fn admin(&self) -> Option<SocketAddr> {
        match self {
            Self::Tree { admin, .. } | Self::Crashes { admin, .. } | Self::Quarantine { admin } => {
                admin.admin
            }
            Self::Chaos { admin, .. } => *admin,
        }
    }
}

// === impl ChaosCommand ===

impl ChaosCommand {
    /// Method and target of the request that does it.
    fn request(&self) -> (&'static str, String) {
        let (whose, id, verb, options) = match self {
            Self::Tasks => return ("GET", "/tasks".to_owned()),
            Self::Kill { id } => ("actors", id, "kill", vec![]),
            Self::Panic { id } => ("actors", id, "panic", vec![]),
            Self::Hang { id, ms } => ("actors", id, "hang", vec![("ms", ms)]),
            Self::Slow { id, ms, seconds } => ("actors", id, "slow", vec![("ms", ms), ("for", seconds)]),
            Self::FailStarts { id, times } => ("actors", id, "fail-starts", vec![("times", times)]),
            Self::PanicTask { kind, times } => ("tasks", kind, "panic", vec![("times", times)]),
        };
        let given = |(name, value): &(&str, &Option<u64>)| value.map(|value| format!("{name}={value}"));
        let query: Vec<String> = options.iter().filter_map(given).collect();
        let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
        ("POST", format!("/{whose}/{}/{verb}{query}", encode(id)))
    }
}

#[cfg(test)]
mod tests;
