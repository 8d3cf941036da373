//! The policy keys that the workloads of the own node name, and whether the control plane has answered since.

use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::RandomState;
use parking_lot::Mutex;

use super::workload::Workload;

/// The policy keys that workloads of the own node name.
#[derive(Default)]
pub(super) struct NamedPolicies {
    keys: Mutex<std::collections::HashMap<Box<str>, Named, RandomState>>,
    /// The number of answers of the control plane about policies that were applied.
    answers: AtomicU64,
}

struct Named {
    /// The number of workloads that name the key.
    workloads: usize,
    /// The number of answers when the first of these workloads named the key.
    answers: u64,
}

// === impl NamedPolicies ===

impl NamedPolicies {
    /// Notes that `workload` names its keys.
    pub(super) fn add(&self, workload: &Workload) {
        if workload.policies().is_empty() {
            return;
        }
        let (mut keys, answers) = (self.keys.lock(), self.answers.load(Ordering::Relaxed));
        for key in workload.policies() {
            match keys.get_mut(&**key) {
                Some(named) => named.workloads += 1,
                None => _ = keys.insert(Box::from(&**key), Named { workloads: 1, answers }),
            }
        }
    }

    /// Notes that `workload` names its keys no more.
    pub(super) fn remove(&self, workload: &Workload) {
        if workload.policies().is_empty() {
            return;
        }
        let mut keys = self.keys.lock();
        for key in workload.policies() {
            let Some(named) = keys.get_mut(&**key) else { continue };
            named.workloads = named.workloads.saturating_sub(1);
            if named.workloads == 0 {
                keys.remove(&**key);
            }
        }
    }

    /// Notes that an answer about policies was applied.
    pub(super) fn answered(&self) {
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether an answer about policies was applied after the first workload named `key`.
    pub(super) fn is_answered(&self, key: &str) -> bool {
        let answers = self.answers.load(Ordering::Relaxed);
        self.keys.lock().get(key).is_some_and(|named| answers > named.answers)
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn len(&self) -> usize {
        self.keys.lock().len()
    }
}
