//! `warren top`: which pods do what now, by two looks a second apart.

#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{
    args::{TableArgs, TableFormat, printed},
    columns::{narrow, rate_of_bytes, state},
    rates::add_rates,
};
use crate::actors::admin::{
    cli::{
        request::{CommandError, REDRAW_INTERVAL, asked},
        screen::Screen,
        table::{Cell, Column, bytes, count, number, sort, text, time},
    },
    client::encode_value,
};

/// The heading by which rows are sorted unless another one is asked for.
const BUSIEST: &str = "RECEIVED/s";

pub(super) const COLUMNS: &[Column] = &[
    narrow("POD", |row| Cell::Text(text(row, "name"))),
    narrow("STATE", |row| state(&text(row, "state"))),
    narrow("IN", |row| count(row, "inbound")),
    narrow("OUT", |row| count(row, "outbound")),
    narrow("CPU", |row| {
        let share = number(row, "cpuSecondsPerSecond") * 100.0;
        Cell::Number(format!("{share:.1}%"), share)
    }),
    narrow("OPENED/s", |row| rate(number(row, "openedPerSecond"))),
    narrow(BUSIEST, |row| rate_of_bytes(number(row, "receivedPerSecond"))),
    narrow("SENT/s", |row| rate_of_bytes(number(row, "sentPerSecond"))),
];

/// The pods with their rates, below a line about the process.
pub(super) async fn shown(
    args: &TableArgs,
    admin: SocketAddr,
    screen: &Screen,
) -> Result<String, CommandError> {
    let (before, since) = (look(args, admin).await?, Instant::now());
    sleep(REDRAW_INTERVAL).await;
    let (now, seconds) = (look(args, admin).await?, since.elapsed().as_secs_f64());
    let mut rows = rates(&before, &now, seconds);
    sort(COLUMNS, &mut rows, args.sort.as_deref().unwrap_or(BUSIEST)).map_err(CommandError::NotThere)?;
    let table = printed(COLUMNS, rows, args.output, screen)?;
    Ok(match args.output {
        TableFormat::Table | TableFormat::Wide => format!("{}\n{table}", process(&before, &now, seconds)),
        TableFormat::Json | TableFormat::Yaml => table,
    })
}

async fn look(args: &TableArgs, admin: SocketAddr) -> Result<Value, CommandError> {
    let pod = args.pod.as_deref().map_or_else(String::new, |pod| format!("&workload={}", encode_value(pod)));
    let answer = asked(admin, "GET", &format!("/live?only=pods,process{pod}")).await?;
    Ok(serde_json::from_str(&answer)?)
}

/// The pods of the second look, with what has changed since the first.
fn rates(before: &Value, now: &Value, seconds: f64) -> Vec<Value> {
    let pods = |look: &Value| look.get("pods").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut rows = pods(now);
    add_rates(&pods(before), &mut rows, ("uid", &["opened", "received", "sent", "cpuSeconds"]), seconds);
    rows
}

/// The line about the process.
fn process(before: &Value, now: &Value, seconds: f64) -> String {
    let of = |look: &Value| look.get("process").cloned().unwrap_or_default();
    let (before, now) = (of(before), of(now));
    let shards = |look: &Value| look.get("shards").and_then(Value::as_array).cloned().unwrap_or_default();
    let used = shards(&now).into_iter().zip(shards(&before)).map(|(now, before)| {
        let used = (number(&now, "cpuSeconds") - number(&before, "cpuSeconds")).max(0.0);
        format!("{:.0}%", used / seconds * 100.0)
    });
    let sum = |field: &str| shards(&now).iter().map(|shard| number(shard, field)).sum::<f64>();
    format!(
        "up {}, {} resident, {:.0} connections, {:.0} tunnels, processor by shard: {}",
        time(number(&now, "uptimeSeconds")),
        bytes(number(&now, "residentBytes")),
        sum("connections"),
        sum("tunnels"),
        used.collect::<Vec<_>>().join(" "),
    )
}

fn rate(rate: f64) -> Cell {
    Cell::Number(if rate == 0.0 { "0".to_owned() } else { format!("{rate:.1}") }, rate)
}
