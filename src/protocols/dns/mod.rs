//! What the DNS proxy answers (docs/spec/dataplane.md 7): names of the mesh from its tables, everything else by the
//! name servers of the node.

pub(crate) mod answer;
pub(crate) mod forward;
pub(crate) mod lookup;
pub(crate) mod names;
pub(crate) mod query;
pub(crate) mod resolvers;

#[cfg(test)]
mod tests;
