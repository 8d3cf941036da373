//! What the DNS proxy answers (docs/spec/dataplane.md 7): names of the mesh from its tables, everything else by the
//! name servers of the node.

pub mod answer;
pub mod forward;
pub mod lookup;
pub mod names;
pub mod query;
pub mod resolvers;

#[cfg(test)]
mod tests;
