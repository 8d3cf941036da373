//! Whether pods of this node are joined without a tunnel.

use serde::Serialize;

use super::reader::Reader;

/// Connections between two pods of this node.
#[derive(Clone, Debug, Serialize)]
pub struct JoinConfig {
    /// They are joined inside the proxy; otherwise they take a tunnel like those between any two pods.
    pub enabled: bool,
}

impl JoinConfig {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        Self { enabled: r.boolean("WARREN_LOCAL_JOIN", true) }
    }
}
