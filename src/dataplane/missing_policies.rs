//! Policies that workloads name and the tables do not hold: whether they may still come (docs/spec/dataplane.md 5.1).

use std::{collections::HashMap, sync::Arc, time::Duration};

use foldhash::fast::RandomState;
use parking_lot::RwLock;
use tokio::time::Instant;

use crate::protocols::{config::MissingPolicy, mesh::Mesh};

/// Since when the control plane's stream is open; `None` while the stream is down.
pub(crate) type StreamOpen = Arc<dyn Fn() -> Option<Instant> + Send + Sync>;

/// The policies that workloads name and the tables do not hold. The process has one value.
///
/// Limit: missing policies that are remembered: as many as the node's workloads name; past it: none can be.
pub(crate) struct MissingPolicies {
    setting: MissingPolicy,
    /// How long a policy may take to come while the stream is open.
    within: Duration,
    open: StreamOpen,
    known: RwLock<HashMap<Box<str>, Missing, RandomState>>,
}

/// A policy that is not in the tables.
struct Missing {
    /// The moment at which the policy was missed first.
    since: Instant,
    /// Whether the control plane has had its say and does not have the policy.
    absent: bool,
}

/// What is to be thought of a policy that is not in the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The control plane does not have the policy: there is none.
    Absent,
    /// The policy may still come.
    MayCome {
        /// The last moment at which a live connection has to wait no more.
        until: Instant,
    },
}

// === impl MissingPolicies ===

impl MissingPolicies {
    /// No policy is missing. A missing policy is waited for `within`. `open` tells of the control plane's stream.
    pub(crate) fn new(setting: MissingPolicy, within: Duration, open: StreamOpen) -> Self {
        Self { setting, within, open, known: RwLock::default() }
    }

    /// The standing of the policy `key`, which the tables of `mesh` do not hold and a workload names.
    ///
    /// While the stream is open, the policy is absent once the control plane has answered about policies after the
    /// workload named the policy, or has not for as long as a policy may take. What is absent stays so while the stream
    /// is down.
    pub(crate) fn standing(&self, mesh: &Mesh, key: &str) -> Standing {
        if self.known.read().get(key).is_some_and(|missing| missing.absent) {
            return Standing::Absent;
        }
        let (now, open) = (Instant::now(), (self.open)());
        let mut known = self.known.write();
        let missing = known.entry(key.into()).or_insert(Missing { since: now, absent: false });
        let Some(open) = open.filter(|_| self.setting == MissingPolicy::Ignore) else {
            return Standing::MayCome { until: missing.since + self.within };
        };
        let until = missing.since.max(open) + self.within;
        if !mesh.has_answered(key) && now < until {
            return Standing::MayCome { until };
        }
        if !std::mem::replace(&mut missing.absent, true) {
            tracing::warn!(target: "rbac", policy = key, "a workload names a policy that the control plane does not have");
        }
        Standing::Absent
    }

    /// Whether the policy `key`, which the tables of `mesh` do not hold, is known to be none. Unlike
    /// [`Self::standing`], the call remembers nothing.
    pub(crate) fn is_absent(&self, mesh: &Mesh, key: &str) -> bool {
        let is_answered =
            self.setting == MissingPolicy::Ignore && (self.open)().is_some() && mesh.has_answered(key);
        is_answered || self.known.read().get(key).is_some_and(|missing| missing.absent)
    }

    /// Forgets the missing policies that have come since, or that are not among `named`.
    pub(crate) fn retain(&self, mesh: &Mesh, named: impl Fn(&str) -> bool) {
        if self.known.read().is_empty() {
            return;
        }
        let policies = mesh.policies();
        self.known.write().retain(|key, _| policies.get(key).is_none() && named(key));
    }

    /// The number of policies that the control plane does not have.
    pub(crate) fn absent(&self) -> usize {
        self.known.read().values().filter(|missing| missing.absent).count()
    }
}
