//! What all tables take, and the formats that they are printed in.

use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::actors::admin::cli::{
    request::{AdminPort, CommandError},
    screen::Screen,
    table::{Column, Layout, draw},
};

/// What a table shows, and how.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct TableArgs {
    /// Only what is of this pod: NAMESPACE/NAME
    #[arg(long, value_name = "POD")]
    pub(super) pod: Option<String>,
    /// Only what has this in the peer's name, address or identity
    #[arg(long, value_name = "TEXT")]
    pub(super) peer: Option<String>,
    /// The heading of the column to sort by
    #[arg(long, value_name = "COLUMN")]
    pub(super) sort: Option<String>,
    /// Show it again every second
    #[arg(long)]
    pub(super) watch: bool,
    /// How it is printed
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(super) output: TableFormat,
    #[command(flatten)]
    pub(crate) admin: AdminPort,
}

/// How a table is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum TableFormat {
    /// Columns that fit the terminal.
    Table,
    /// All columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// The rows in a format.
pub(super) fn printed(
    columns: &[Column],
    rows: Vec<Value>,
    format: TableFormat,
    screen: &Screen,
) -> Result<String, CommandError> {
    Ok(match format {
        TableFormat::Table => draw(columns, &rows, Layout { screen, is_wide: false }),
        TableFormat::Wide => draw(columns, &rows, Layout { screen, is_wide: true }),
        TableFormat::Json => format!("{:#}\n", Value::Array(rows)),
        TableFormat::Yaml => serde_saphyr::to_string(&rows).map_err(|e| CommandError::Yaml(e.to_string()))?,
    })
}
