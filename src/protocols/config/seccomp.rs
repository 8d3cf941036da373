//! The filter of system calls (docs/security.md).

use serde::Serialize;

use super::{reader::Reader, var::Var};

const SECCOMP: Var = Var::new(
    "WARREN_SECCOMP",
    "`enforce`, `log` or `off`",
    "enforce",
    "What becomes of system calls that the proxy does not need. With `enforce` they fail with ENOSYS, and the kernel logs \
     them. With `log` they are only logged. With `off` there is no filter.",
);

/// What becomes of system calls that the proxy does not need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SeccompMode {
    /// They fail with ENOSYS.
    Enforce,
    /// They succeed, and the kernel logs them.
    Log,
    /// There is no filter.
    Off,
}

impl SeccompMode {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let mode = |text: &str| match text {
            "enforce" => Ok(Self::Enforce),
            "log" => Ok(Self::Log),
            "off" => Ok(Self::Off),
            _ => Err("not enforce, log or off".into()),
        };
        r.parse_or_default(&SECCOMP, mode).unwrap_or(Self::Enforce)
    }
}
