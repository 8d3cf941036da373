//! `warren top`, `pods`, `connections`, `tunnels`, `certs`, `services` and `policies`: what a proxy has, as tables.

mod args;
mod columns;
mod rates;
mod top;

use std::net::SocketAddr;

use clap::Subcommand;
use serde_json::Value;
use tokio::time::{Instant, sleep};

pub(super) use self::args::TableArgs;
use self::{
    args::printed,
    columns::{CERTS, CONNECTIONS, PODS, POLICIES, SERVICES, TUNNELS},
    rates::add_rates,
};
use super::{
    request::{AdminPort, CommandError, REDRAW_INTERVAL, asked},
    screen::{Screen, print},
    table::{Column, sort},
};
use crate::actors::admin::client::encode_value;

/// What is done with connections beside listing them.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum ConnectionsCommand {
    /// End a live connection
    Cut {
        /// The connection, as the list has it in the column ID
        id: String,
        /// End it also where WARREN_CHAOS is not set
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        admin: AdminPort,
    },
}

/// A table that a proxy can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    Top,
    Pods,
    Connections,
    Tunnels,
    Certs,
    Services,
    Policies,
}

/// Asks and prints, once or again and again.
pub(super) async fn perform(table: Table, args: &TableArgs, admin: SocketAddr) -> Result<(), CommandError> {
    loop {
        let screen = Screen::of_stdout();
        let shown = match table {
            Table::Top => top::shown(args, admin, &screen).await,
            _ => shown(table, args, admin, &screen).await,
        };
        if !args.watch {
            return Ok(print(&shown?)?);
        }
        // A proxy that is away is what somebody who watches wants to see.
        let shown = shown.unwrap_or_else(|error| format!("{error}\n"));
        print(&format!("{}{shown}", screen.clear()))?;
        if !table.has_rates() {
            sleep(REDRAW_INTERVAL).await;
        }
    }
}

/// Has a connection cut.
pub(super) async fn cut(id: &str, yes: bool, admin: SocketAddr) -> Result<(), CommandError> {
    let yes = if yes { "?yes=true" } else { "" };
    let target = format!("/connections/{}/cut{yes}", encode_value(id));
    Ok(print(&asked(admin, "POST", &target).await?)?)
}

async fn shown(
    table: Table,
    args: &TableArgs,
    admin: SocketAddr,
    screen: &Screen,
) -> Result<String, CommandError> {
    let mut shown = rows(table, args, admin).await?;
    if table.has_rates() {
        let since = Instant::now();
        sleep(REDRAW_INTERVAL).await;
        let before = std::mem::replace(&mut shown, rows(table, args, admin).await?);
        let seconds = since.elapsed().as_secs_f64();
        add_rates(&before, &mut shown, ("id", &["received", "sent"]), seconds);
    }
    let columns = table.columns();
    let by =
        args.sort.as_deref().or_else(|| columns.first().map(|column| column.heading)).unwrap_or_default();
    sort(columns, &mut shown, by).map_err(CommandError::NotThere)?;
    printed(columns, shown, args.output, screen)
}

/// The rows that a proxy has for a table.
async fn rows(table: Table, args: &TableArgs, admin: SocketAddr) -> Result<Vec<Value>, CommandError> {
    let (path, section) = table.section();
    let mut target = format!("{path}?only={section}");
    for (name, value) in [("workload", &args.pod), ("peer", &args.peer)] {
        if let Some(value) = value {
            target.push_str(&format!("&{name}={}", encode_value(value)));
        }
    }
    let mut answer: Value = serde_json::from_str(&asked(admin, "GET", &target).await?)?;
    let mut rows = match answer.get_mut(section).map(Value::take) {
        Some(Value::Array(rows)) => rows,
        _ => Vec::new(),
    };
    // What is no connection or tunnel is filtered here: it has no peer.
    if let Some(peer) = args.peer.as_deref().filter(|_| path != LIVE) {
        rows.retain(|row| row.to_string().contains(peer));
    }
    Ok(rows)
}

const LIVE: &str = "/live";
const DUMP: &str = "/config_dump";

// === impl Table ===

impl Table {
    /// The path and section that have the rows.
    fn section(self) -> (&'static str, &'static str) {
        match self {
            Self::Top | Self::Pods => (LIVE, "pods"),
            Self::Connections => (LIVE, "connections"),
            Self::Tunnels => (LIVE, "tunnels"),
            Self::Certs => (DUMP, "certificates"),
            Self::Services => (DUMP, "services"),
            Self::Policies => (DUMP, "policies"),
        }
    }

    /// Whether rows have rates, which takes two looks.
    fn has_rates(self) -> bool {
        matches!(self, Self::Top | Self::Connections)
    }

    fn columns(self) -> &'static [Column] {
        match self {
            Self::Top => top::COLUMNS,
            Self::Pods => PODS,
            Self::Connections => CONNECTIONS,
            Self::Tunnels => TUNNELS,
            Self::Certs => CERTS,
            Self::Services => SERVICES,
            Self::Policies => POLICIES,
        }
    }
}
