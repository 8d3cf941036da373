//! The keeper, which holds live connections while no proxy of the node runs (docs/upgrades.md).

use std::time::Duration;

use serde::Serialize;

use super::{
    Inputs, Invalid, LogConfig, SeccompMode, inpod,
    node::ProxyMode,
    reader::{self, Reader},
    summary,
    var::Var,
};

const UDS: Var = Var::new(
    "WARREN_KEEPER_UDS",
    "path",
    "`keeper.sock` beside `WARREN_HANDOVER_UDS`",
    "The Unix socket at which `warren keeper` takes live connections of a proxy that stops while there is no next one. Set \
     and empty, a proxy does not look for a keeper.",
);
const HOLD: Var = Var::duration(
    "WARREN_KEEPER_HOLD",
    "15s",
    "For `warren keeper`: how long it holds a connection for the next proxy, from 1s to 60s. The connection is reset after \
     that.",
);

/// The least time that a connection is held.
/// Limit: least time that the keeper may be set to hold a connection: 1 s; past it: the setting is refused.
const LEAST_HOLD: Duration = Duration::from_secs(1);
/// The longest time that a connection is held.
/// Limit: longest time that the keeper may be set to hold a connection: 60 s; past it: the setting is refused.
const LONGEST_HOLD: Duration = Duration::from_secs(60);

/// The name of the socket beside that of the hand-over.
const NAME: &str = "keeper.sock";

/// The keeper, as it and proxies know it.
#[derive(Clone, Debug, Serialize)]
pub struct KeeperConfig {
    /// The socket of the keeper; none if proxies do not look for one.
    pub uds: Option<String>,
    /// How long the keeper holds a connection.
    #[serde(serialize_with = "summary::duration")]
    pub hold: Duration,
}

/// Everything that `warren keeper` is told.
#[derive(Clone, Debug)]
pub struct KeeperSettings {
    /// The socket at which it takes connections.
    pub uds: String,
    /// The socket of the next proxy.
    pub handover_uds: String,
    /// How long it holds a connection.
    pub hold: Duration,
    /// What is logged.
    pub log: LogConfig,
    /// What becomes of system calls that are not needed.
    pub seccomp: SeccompMode,
    /// The faults that could be ignored.
    pub warnings: Vec<Invalid>,
}

// === impl KeeperConfig ===

impl KeeperConfig {
    pub(super) fn read(r: &mut Reader<'_>, handover_uds: Option<&str>) -> Self {
        let uds = match (r.raw(&UDS), handover_uds) {
            (_, None) | (Some(""), _) => None,
            (Some(_), _) => r.parse(&UDS, inpod::path),
            (None, Some(handover)) => inpod::beside(handover, NAME),
        };
        Self { uds, hold: r.duration(&HOLD, LEAST_HOLD..=LONGEST_HOLD) }
    }
}

// === impl KeeperSettings ===

impl KeeperSettings {
    /// Reads the settings of the keeper. Those of proxies alone are not looked at.
    ///
    /// # Errors
    /// Every value that is malformed or out of range, and sockets that are turned off.
    pub fn parse(inputs: &Inputs<'_>) -> Result<Self, Vec<Invalid>> {
        let mut r = reader::Reader::new(inputs);
        let (_, handover_uds) = inpod::sockets(&mut r, &ProxyMode::Shared);
        let KeeperConfig { uds, hold } = KeeperConfig::read(&mut r, handover_uds.as_deref());
        let (log, seccomp) = (LogConfig::read(&mut r), SeccompMode::read(&mut r));
        if uds.is_none() {
            r.reject(&UDS, "the keeper needs this socket and that of WARREN_HANDOVER_UDS");
        }
        let (uds, handover_uds) = (uds.unwrap_or_default(), handover_uds.unwrap_or_default());
        Ok(Self { uds, handover_uds, hold, log, seccomp, warnings: r.finish()? })
    }
}
