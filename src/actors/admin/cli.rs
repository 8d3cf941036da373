//! `warren tree`, `warren why` and their kin: what operators ask a running proxy for from a shell.

mod events;
mod request;
mod screen;
mod table;
mod tables;
mod why;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
};

use clap::Subcommand;
use tokio::time::sleep;

use self::{
    events::EventsArgs,
    request::{AdminPort, CommandError, REDRAW_INTERVAL, asked},
    screen::{Screen, print},
    tables::{ConnectionsCommand, Table, TableArgs},
    why::WhyArgs,
};
use super::{
    client::{encode, encode_value},
    crashes,
    draw::{QuarantinedInput, ShownNode, draw, list},
};
use crate::{command_line::WRONG_USAGE, help_heading};

const CHAOS_EXAMPLES: &str = concat!(
    help_heading!("Examples"),
    "  warren chaos kill xds                      kill the actor whose path ends in xds
  warren chaos hang root/telemetry --ms 250  let it not answer for a quarter of a second
  warren chaos tasks                         list the kinds of tasks
  warren chaos panic-task tunnel/dial        let the next dial of a tunnel panic

The proxy must have been started with WARREN_CHAOS=true."
);

const WHY_EXAMPLES: &str = concat!(
    help_heading!("Examples"),
    "  warren why shop/cart-1 shop/db:5432           from a pod to a service
  warren why shop/cart-1 db.shop:5432           the same by its name
  warren why 10.0.0.9 10.244.1.7:80             from one address to another
  warren why shop/cart-1 shop/db --to ADDR      let the destination's proxy say what it decides

The status is 0 for a connection that gets through, 1 for one that is refused, and 2 where that is not known."
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
    /// Show which pods carry how much now
    Top(TableArgs),
    /// List the pods of a running proxy
    Pods(TableArgs),
    /// List live connections, or cut one
    #[command(args_conflicts_with_subcommands = true)]
    Connections {
        #[command(subcommand)]
        command: Option<ConnectionsCommand>,
        #[command(flatten)]
        table: TableArgs,
    },
    /// List the tunnels of pods
    Tunnels(TableArgs),
    /// List certificates and how long they are valid
    Certs(TableArgs),
    /// List the services that the proxy knows
    Services(TableArgs),
    /// List the policies that the proxy knows
    Policies(TableArgs),
    /// Show what has happened, and what happens
    Events(EventsArgs),
    /// Show the log levels of a running proxy, or change them
    Log {
        /// LEVEL or TARGET=LEVEL, such as debug or access=debug
        levels: Vec<String>,
        /// Go back to the levels of the start first
        #[arg(long)]
        reset: bool,
        #[command(flatten)]
        admin: AdminPort,
    },
    /// Explain what becomes of a connection, without sending a packet
    #[command(after_help = WHY_EXAMPLES)]
    Why(WhyArgs),
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

/// Asks what the command line says, at the address that it gives or at `default`.
pub fn run(command: &AdminCommand, default: Option<SocketAddr>) -> ExitCode {
    let admin = command.admin().or(default).unwrap_or((Ipv4Addr::LOCALHOST, 15000).into());
    let done = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CommandError::Write)
        .and_then(|runtime| runtime.block_on(perform(command, admin)));
    match done {
        Ok(code) => ExitCode::from(code),
        // Whoever read has seen enough.
        Err(CommandError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}");
            match (command, error) {
                (AdminCommand::Why(_), _) | (_, CommandError::NotThere(_)) => ExitCode::from(WRONG_USAGE),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

async fn perform(command: &AdminCommand, admin: SocketAddr) -> Result<u8, CommandError> {
    match command {
        AdminCommand::Why(args) => return why::perform(args, admin).await,
        AdminCommand::Top(args) => tables::perform(Table::Top, args, admin).await?,
        AdminCommand::Pods(args) => tables::perform(Table::Pods, args, admin).await?,
        AdminCommand::Connections { command: Some(ConnectionsCommand::Cut { id, yes, .. }), .. } => {
            tables::cut(id, *yes, admin).await?;
        }
        AdminCommand::Connections { command: None, table } => {
            tables::perform(Table::Connections, table, admin).await?;
        }
        AdminCommand::Tunnels(args) => tables::perform(Table::Tunnels, args, admin).await?,
        AdminCommand::Certs(args) => tables::perform(Table::Certs, args, admin).await?,
        AdminCommand::Services(args) => tables::perform(Table::Services, args, admin).await?,
        AdminCommand::Policies(args) => tables::perform(Table::Policies, args, admin).await?,
        AdminCommand::Events(args) => events::perform(args, admin).await?,
        AdminCommand::Log { levels, reset, .. } => {
            print(&asked(admin, "POST", &logging(levels, *reset)).await?)?;
        }
        AdminCommand::Crashes { number, .. } => {
            let shown = serde_json::from_str(&asked(admin, "GET", "/crashes").await?)?;
            let none = || CommandError::NoReport(number.unwrap_or_default());
            print(&crashes::draw(&shown, *number).ok_or_else(none)?)?;
        }
        AdminCommand::Quarantine { .. } => {
            let aside: Vec<QuarantinedInput> =
                serde_json::from_str(&asked(admin, "GET", "/quarantine").await?)?;
            print(&list(&aside))?;
        }
        AdminCommand::Chaos { fault, .. } => {
            let (method, target) = fault.request();
            print(&asked(admin, method, &target).await?)?;
        }
        AdminCommand::Tree { watch: false, .. } => print(&tree(admin).await?)?,
        AdminCommand::Tree { watch: true, .. } => loop {
            // A proxy that is away is what somebody who watches wants to see.
            let shown = tree(admin).await.unwrap_or_else(|error| format!("{error}\n"));
            print(&format!("{}{shown}", Screen::of_stdout().clear()))?;
            sleep(REDRAW_INTERVAL).await;
        },
    }
    Ok(0)
}

/// The request that shows or changes log levels.
fn logging(levels: &[String], reset: bool) -> String {
    let mut query = Vec::new();
    query.extend(reset.then(|| "reset".to_owned()));
    if !levels.is_empty() {
        query.push(format!("level={}", encode_value(&levels.join(","))));
    }
    if query.is_empty() { "/logging".to_owned() } else { format!("/logging?{}", query.join("&")) }
}

async fn tree(admin: SocketAddr) -> Result<String, CommandError> {
    let roots: Vec<ShownNode> = serde_json::from_str(&asked(admin, "GET", "/actors").await?)?;
    Ok(draw(&roots, Screen::of_stdout().colours))
}

// === impl AdminCommand ===

impl AdminCommand {
    fn admin(&self) -> Option<SocketAddr> {
        match self {
            Self::Tree { admin, .. } | Self::Crashes { admin, .. } | Self::Quarantine { admin } => {
                admin.admin
            }
            Self::Chaos { admin, .. } => *admin,
            Self::Why(args) => args.admin,
            Self::Connections { command: Some(ConnectionsCommand::Cut { admin, .. }), .. } => admin.admin,
            Self::Top(args)
            | Self::Pods(args)
            | Self::Connections { table: args, .. }
            | Self::Tunnels(args)
            | Self::Certs(args)
            | Self::Services(args)
            | Self::Policies(args) => args.admin.admin,
            Self::Events(args) => args.admin.admin,
            Self::Log { admin, .. } => admin.admin,
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
