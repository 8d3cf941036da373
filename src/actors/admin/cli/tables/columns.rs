//! The columns of each table.

#[cfg(test)]
mod tests;

use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::actors::admin::cli::{
    screen::Colour,
    table::{Cell, Column, bytes, count, number, text, time as shown_time},
};

/// A column that every table has.
pub(super) const fn narrow(heading: &'static str, cell: fn(&Value) -> Cell) -> Column {
    Column { heading, is_wide: false, cell }
}

/// A column of wide tables.
pub(super) const fn wide(heading: &'static str, cell: fn(&Value) -> Cell) -> Column {
    Column { heading, is_wide: true, cell }
}

pub(super) const PODS: &[Column] = &[
    narrow("POD", |row| Cell::Text(text(row, "name"))),
    narrow("STATE", |row| state(&text(row, "state"))),
    narrow("IN", |row| count(row, "inbound")),
    narrow("OUT", |row| count(row, "outbound")),
    narrow("TUNNELS", |row| {
        let tunnels = number(row, "dialled") + number(row, "accepted");
        Cell::Number(format!("{tunnels:.0}"), tunnels)
    }),
    narrow("OPENED", |row| count(row, "opened")),
    narrow("RECEIVED", |row| volume(row, "received")),
    narrow("SENT", |row| volume(row, "sent")),
    wide("ADDRESSES", |row| Cell::Text(text(row, "addresses"))),
    wide("SERVICE ACCOUNT", |row| Cell::Text(text(row, "serviceAccount"))),
    wide("UID", |row| Cell::Text(text(row, "uid"))),
    narrow("DETAIL", |row| Cell::Text(text(row, "detail"))),
];

pub(super) const CONNECTIONS: &[Column] = &[
    narrow("POD", |row| Cell::Text(text(row, "pod"))),
    narrow("DIRECTION", |row| Cell::Text(text(row, "direction"))),
    narrow("PEER", |row| Cell::Text(or(text(row, "peer"), || peer_address(row)))),
    narrow("PATH", |row| path(&text(row, "path"))),
    narrow("AGE", |row| seconds(row, "ageSeconds")),
    narrow("IDLE", |row| seconds(row, "idleSeconds")),
    narrow("RECEIVED", |row| volume(row, "received")),
    narrow("SENT", |row| volume(row, "sent")),
    narrow("BYTES/s", |row| rate_of_bytes(number(row, "receivedPerSecond") + number(row, "sentPerSecond"))),
    narrow("ID", |row| Cell::Text(text(row, "id"))),
    wide("SOURCE", |row| Cell::Text(text(row, "source"))),
    wide("DESTINATION", |row| Cell::Text(text(row, "destination"))),
    wide("NEXT HOP", |row| Cell::Text(text(row, "nextHop"))),
    wide("HOST", |row| Cell::Text(text(row, "host"))),
    wide("SHARD", |row| count(row, "shard")),
    wide("IDENTITY", |row| Cell::Text(text(row, "identity"))),
];

pub(super) const TUNNELS: &[Column] = &[
    narrow("POD", |row| Cell::Text(text(row, "pod"))),
    narrow("DIRECTION", |row| Cell::Text(text(row, "direction"))),
    narrow("PEER", |row| Cell::Text(or(text(row, "peer"), || text(row, "address")))),
    narrow("STATE", |row| state(&text(row, "state"))),
    narrow("AGE", |row| seconds(row, "ageSeconds")),
    narrow("SHARD", |row| count(row, "shard")),
    wide("ADDRESS", |row| Cell::Text(text(row, "address"))),
    narrow("IDENTITY", |row| Cell::Text(text(row, "identity"))),
];

pub(super) const CERTS: &[Column] = &[
    narrow("IDENTITY", |row| Cell::Text(text(row, "identity"))),
    narrow("STATE", |row| state(&text(row, "state"))),
    narrow("EXPIRES IN", |row| left(row).map_or_else(none, |left| Cell::Number(shown_time(left), -left))),
    narrow("VALID", |row| {
        let valid = leaf(row).and_then(|leaf| Some(at(leaf, "expirationTime")? - at(leaf, "validFrom")?));
        valid.map_or_else(none, |valid| Cell::Number(shown_time(valid), valid))
    }),
    wide("ISSUED", |row| Cell::Text(leaf(row).map_or_else(String::new, |leaf| text(leaf, "validFrom")))),
    wide("SERIAL", |row| Cell::Text(leaf(row).map_or_else(String::new, |leaf| text(leaf, "serialNumber")))),
];

pub(super) const SERVICES: &[Column] = &[
    narrow("SERVICE", |row| Cell::Text(format!("{}/{}", text(row, "namespace"), text(row, "hostname")))),
    narrow("PORTS", |row| Cell::Text(ports(row))),
    narrow("ENDPOINTS", |row| {
        let endpoints = row.get("endpoints").and_then(Value::as_object).map_or(0, serde_json::Map::len);
        Cell::Number(endpoints.to_string(), endpoints as f64)
    }),
    narrow("WAYPOINT", |row| {
        Cell::Text(row.get("waypoint").map_or_else(String::new, |waypoint| text(waypoint, "destination")))
    }),
    narrow("BALANCING", |row| {
        Cell::Text(row.get("loadBalancer").map_or_else(String::new, |balancer| text(balancer, "mode")))
    }),
    wide("ADDRESSES", |row| Cell::Text(text(row, "vips"))),
];

pub(super) const POLICIES: &[Column] = &[
    narrow("POLICY", |row| Cell::Text(format!("{}/{}", text(row, "namespace"), text(row, "name")))),
    narrow("ACTION", |row| {
        let action = text(row, "action").to_uppercase();
        Cell::Coloured(if action == "DENY" { Colour::Red } else { Colour::Green }, action)
    }),
    narrow("SCOPE", |row| Cell::Text(text(row, "scope"))),
    narrow("DRY RUN", |row| {
        let is_dry = row.get("dryRun").and_then(Value::as_bool).unwrap_or_default();
        Cell::Text(if is_dry { "yes" } else { "no" }.to_owned())
    }),
    narrow("RULES", |row| {
        let rules = row.get("rules").and_then(Value::as_array).map_or(0, Vec::len);
        Cell::Number(rules.to_string(), rules as f64)
    }),
];

/// A number of bytes.
pub(super) fn volume(row: &Value, field: &str) -> Cell {
    let volume = number(row, field);
    Cell::Number(bytes(volume), volume)
}

fn seconds(row: &Value, field: &str) -> Cell {
    let seconds = number(row, field);
    Cell::Number(shown_time(seconds), seconds)
}

fn none() -> Cell {
    Cell::Text(String::new())
}

fn or(text: String, otherwise: impl FnOnce() -> String) -> String {
    if text.is_empty() { otherwise() } else { text }
}

/// The address of the other side.
fn peer_address(row: &Value) -> String {
    match text(row, "direction").as_str() {
        "inbound" => text(row, "source"),
        _ => or(text(row, "nextHop"), || text(row, "destination")),
    }
}

pub(super) fn state(word: &str) -> Cell {
    let colour = match word {
        "up" | "Available" => Colour::Green,
        "pending" | "opening" | "Initializing" => Colour::Yellow,
        _ => Colour::Red,
    };
    Cell::Coloured(colour, word.to_owned())
}

fn path(word: &str) -> Cell {
    let colour = match word {
        "tunnel" | "local" => Colour::Green,
        _ => Colour::Yellow,
    };
    Cell::Coloured(colour, word.to_owned())
}

fn ports(row: &Value) -> String {
    let ports = row.get("ports").and_then(Value::as_object);
    let shown = ports.into_iter().flatten().map(|(port, target)| match target {
        Value::Number(target) if *target.to_string() == **port || target.as_u64() == Some(0) => port.clone(),
        target => format!("{port}:{target}"),
    });
    shown.collect::<Vec<_>>().join(" ")
}

/// The workload's own certificate.
fn leaf(row: &Value) -> Option<&Value> {
    row.get("certChain")?.as_array()?.first()
}

fn at(certificate: &Value, field: &str) -> Option<f64> {
    let at = OffsetDateTime::parse(certificate.get(field)?.as_str()?, &Rfc3339).ok()?;
    Some(at.unix_timestamp() as f64)
}

/// The seconds for which the certificate is valid yet.
fn left(row: &Value) -> Option<f64> {
    Some(at(leaf(row)?, "expirationTime")? - OffsetDateTime::now_utc().unix_timestamp() as f64)
}

pub(super) fn rate_of_bytes(rate: f64) -> Cell {
    Cell::Number(bytes(rate), rate)
}
