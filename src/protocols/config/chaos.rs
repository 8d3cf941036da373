//! Breaking things on purpose.

use serde::Serialize;

use super::reader::Reader;

/// Whether operators may break things on purpose.
#[derive(Clone, Debug, Serialize)]
pub struct ChaosConfig {
    /// They may.
    pub enabled: bool,
}

impl ChaosConfig {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        Self { enabled: r.boolean("WARREN_CHAOS", false) }
    }
}
