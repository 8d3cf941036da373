//! The answers of the DNS proxy (docs/spec/dataplane.md 7). The mesh tables answer names of the mesh, and the name
//! servers of the node answer all other names.

pub(crate) mod addresses;
pub(crate) mod answer;
pub(crate) mod cache;
pub(crate) mod forward;
pub(crate) mod hosts;
pub(crate) mod lookup;
pub(crate) mod names;
mod own_names;
pub(crate) mod query;
pub(crate) mod resolvers;

#[cfg(test)]
mod tests;
