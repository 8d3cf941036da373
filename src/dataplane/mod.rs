//! The data plane: the path of a connection from accept to close, on one shard.

pub(crate) mod accept;
pub(crate) mod accepted;
pub(crate) mod adopted_tunnel;
pub(crate) mod application;
pub(crate) mod arrival;
pub(crate) mod authorize;
pub(crate) mod certificates;
pub(crate) mod config;
pub(crate) mod dns;
pub(crate) mod dns_config;
pub(crate) mod early_data;
pub(crate) mod gateway_hop;
mod handshakes;
pub(crate) mod inbound;
pub(crate) mod inbound_context;
pub(crate) mod listener;
pub(crate) mod local_hop;
pub(crate) mod mesh_view;
pub(crate) mod missing_policies;
pub(crate) mod movable;
pub(crate) mod on_demand;
pub(crate) mod outbound;
pub(crate) mod outbound_context;
pub(crate) mod plaintext;
pub(crate) mod pod;
pub(crate) mod pod_directory;
pub(crate) mod report;
pub(crate) mod resolver;
pub(crate) mod socks;
pub(crate) mod stream;
pub(crate) mod suspicions;
pub(crate) mod timed_relay;
pub(crate) mod tracked_hop;
mod trying;
pub(crate) mod tunnel;

#[cfg(any(test, fuzzing))]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
