//! The applications that a mesh file's `run` names: `http PORT [TEXT]`, `echo PORT`, `bulk PORT`,
//! `gateway PORT`.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use super::{AppError, Background, bulk, echo, http};
use crate::lab::net::Namespace;

/// One of the lab's servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    kind: Kind,
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Http { text: String },
    Echo,
    Bulk,
    Gateway,
}

/// The words of a `run` entry that name no application.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of `http PORT [TEXT]`, `echo PORT`, `bulk PORT`, `gateway PORT`")]
pub struct NoApp(String);

// === impl App ===

impl App {
    /// The port that the application listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the application is a gateway, which needs the lab's services to start.
    pub fn is_gateway(&self) -> bool {
        self.kind == Kind::Gateway
    }

    /// Starts the application in `namespace` on all addresses, until the value is dropped; its answers contain
    /// `name`.
    pub fn start(&self, namespace: &Namespace, name: &str) -> Result<Background<u64>, AppError> {
        let v6 = crate::lab::net::fabric::has_ipv6();
        let any = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        match &self.kind {
            Kind::Http { text } if text.is_empty() => http::serve(namespace, any, self.port, name),
            Kind::Http { text } => http::serve(namespace, any, self.port, &format!("{name} text={text:?}")),
            Kind::Echo => echo::serve(namespace, any, self.port),
            Kind::Bulk => bulk::serve(namespace, any, self.port),
            Kind::Gateway => Err(AppError::Unable { name: namespace.name().to_owned() }),
        }
    }
}

impl FromStr for App {
    type Err = NoApp;

    fn from_str(words: &str) -> Result<Self, NoApp> {
        let error = || NoApp(words.to_owned());
        let (kind, rest) = words.trim().split_once(' ').ok_or_else(error)?;
        let rest = rest.trim_start();
        let (port, text) = rest.split_once(' ').unwrap_or((rest, ""));
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(error)?;
        let kind = match (kind, text.trim()) {
            ("http", text) => Kind::Http { text: text.to_owned() },
            ("echo", "") => Kind::Echo,
            ("bulk", "") => Kind::Bulk,
            ("gateway", "") => Kind::Gateway,
            _ => return Err(error()),
        };
        Ok(Self { kind, port })
    }
}

#[cfg(test)]
mod tests;
