//! What becomes of a policy that a workload names and nobody has sent (docs/spec/dataplane.md 5.1).

use serde::Serialize;

use super::{reader::Reader, var::Var};

const MISSING: Var = Var::new(
    "WARREN_MISSING_POLICY",
    "`ignore` or `deny`",
    "ignore",
    "What becomes of a policy that a workload names and the control plane does not have. With `ignore` there is no such \
     policy, once the control plane has had its say. With `deny` nobody gets in.",
);

/// Authorization policies.
#[derive(Clone, Debug, Serialize)]
pub struct PolicyConfig {
    /// What becomes of a policy that a workload names and the control plane does not have.
    pub missing: MissingPolicy,
}

/// What becomes of a policy that a workload names and the control plane does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MissingPolicy {
    /// There is no such policy.
    Ignore,
    /// The policy denies everybody.
    Deny,
}

impl PolicyConfig {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let missing = |text: &str| match text {
            "ignore" => Ok(MissingPolicy::Ignore),
            "deny" => Ok(MissingPolicy::Deny),
            _ => Err("not ignore or deny".into()),
        };
        Self { missing: r.parse_or_default(&MISSING, missing).unwrap_or(MissingPolicy::Ignore) }
    }
}
