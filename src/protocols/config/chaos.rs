//! Breaking things on purpose.

use serde::Serialize;

use super::{reader::Reader, var::Var};

const CHAOS: Var =
    Var::flag("WARREN_CHAOS", "false", "Actors and tasks may be broken on purpose, through the admin port.");

/// Whether operators may break things on purpose.
#[derive(Clone, Debug, Serialize)]
pub struct ChaosConfig {
    /// Operators may break things on purpose.
    pub enabled: bool,
}

impl ChaosConfig {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        Self { enabled: r.boolean(&CHAOS) }
    }
}
