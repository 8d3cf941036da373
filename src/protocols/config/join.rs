//! Whether pods of this node are joined without a tunnel.

use serde::Serialize;

use super::{reader::Reader, var::Var};

const LOCAL_JOIN: Var = Var::flag(
    "WARREN_LOCAL_JOIN",
    "true",
    "Pods of this node are joined inside the proxy, after the same decisions and with the same metrics and log lines. \
     With `false` they take tunnels, which their links then see.",
);

/// Connections between two pods of this node.
#[derive(Clone, Debug, Serialize)]
pub struct JoinConfig {
    /// Pods of this node are joined inside the proxy. Otherwise they take tunnels, as any two pods do.
    pub enabled: bool,
}

impl JoinConfig {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        Self { enabled: r.boolean(&LOCAL_JOIN) }
    }
}
