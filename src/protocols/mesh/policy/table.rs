//! The table of all policies, indexed by key, namespace and mesh.

use std::{
    borrow::Borrow,
    collections::{HashMap, HashSet},
    hash::{Hash, Hasher},
    sync::Arc,
};

use foldhash::fast::RandomState;

use super::{Policy, Scope};

/// A change of the table.
#[derive(Debug)]
pub enum PolicyChange {
    /// Adds a policy, or replaces the policy with the same key.
    Upsert(Policy),
    /// Removes the policy with this key, if there is one.
    Remove(String),
}

/// An immutable table of all policies. A change makes a new table that shares the unchanged policies. Keep the table in
/// an `Arc`.
#[derive(Clone, Debug, Default)]
pub struct PolicyTable {
    by_key: HashSet<ByKey, RandomState>,
    by_namespace: HashMap<Arc<str>, Arc<[Arc<Policy>]>, RandomState>,
    global: Vec<Arc<Policy>>,
}

/// A policy that hashes and compares as its key.
#[derive(Clone, Debug)]
struct ByKey(Arc<Policy>);

/// The indexes that a batch of changes has made stale.
#[derive(Default)]
struct Stale {
    namespaces: HashSet<Box<str>, RandomState>,
    global: bool,
}

// === impl PolicyTable ===

impl PolicyTable {
    /// Returns the table after `changes`, applied in order. The cost is one walk over all policies, however many
    /// changes there are.
    #[must_use]
    pub fn with(&self, changes: Vec<PolicyChange>) -> Self {
        let mut next = self.clone();
        let mut stale = Stale::default();
        for change in changes {
            let old = match change {
                // A policy that is sent again unchanged keeps its place, so that readers see no change.
                PolicyChange::Upsert(policy) if next.get(&policy.key).is_some_and(|old| **old == policy) => {
                    None
                }
                PolicyChange::Upsert(policy) => {
                    stale.note(&policy);
                    next.by_key.replace(ByKey(Arc::new(policy)))
                }
                PolicyChange::Remove(key) => next.by_key.take(key.as_str()),
            };
            if let Some(ByKey(old)) = old {
                stale.note(&old);
            }
        }
        next.reindex(&stale);
        next
    }

    /// The policy with the given key.
    pub fn get(&self, key: &str) -> Option<&Arc<Policy>> {
        self.by_key.get(key).map(|ByKey(policy)| policy)
    }

    /// All policies, in arbitrary order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.by_key.iter().map(|ByKey(policy)| policy)
    }

    /// The policies of a whole namespace, by key.
    pub fn of_namespace(&self, namespace: &str) -> &[Arc<Policy>] {
        self.by_namespace.get(namespace).map_or(&[], |policies| policies)
    }

    /// The policies of the whole mesh, by key.
    pub fn global(&self) -> &[Arc<Policy>] {
        &self.global
    }

    /// The number of policies.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether the table holds no policy.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    fn reindex(&mut self, stale: &Stale) {
        if !stale.global && stale.namespaces.is_empty() {
            return;
        }
        let mut global = Vec::new();
        let mut namespaces: HashMap<&str, Vec<Arc<Policy>>, RandomState> =
            stale.namespaces.iter().map(|name| (&**name, Vec::new())).collect();
        for ByKey(policy) in &self.by_key {
            match policy.scope {
                Scope::Global if stale.global => global.push(policy.clone()),
                Scope::Namespace | Scope::Unknown => {
                    if let Some(list) = namespaces.get_mut(&*policy.namespace) {
                        list.push(policy.clone());
                    }
                }
                Scope::Global | Scope::WorkloadSelector => {}
            }
        }
        // The list is sorted so that the policy named in a denial does not depend on chance.
        let sort = |list: &mut Vec<Arc<Policy>>| list.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        if stale.global {
            sort(&mut global);
            self.global = global;
        }
        for (name, mut list) in namespaces {
            sort(&mut list);
            if list.is_empty() {
                self.by_namespace.remove(name);
            } else {
                self.by_namespace.insert(name.into(), list.into());
            }
        }
    }
}

// === impl Stale ===

impl Stale {
    fn note(&mut self, policy: &Policy) {
        match policy.scope {
            Scope::Global => self.global = true,
            Scope::Namespace | Scope::Unknown => {
                self.namespaces.insert(policy.namespace.clone());
            }
            Scope::WorkloadSelector => {}
        }
    }
}

// === impl ByKey ===

impl Borrow<str> for ByKey {
    fn borrow(&self) -> &str {
        &self.0.key
    }
}

impl Hash for ByKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key.hash(state);
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for ByKey {}
