//! What happens to a connection, from accept to close, on one shard.

pub mod accept;
pub mod connection;
pub mod dns;
pub mod early_data;
pub mod inbound;
pub mod listener;
pub mod local_hop;
pub mod node;
pub mod outbound;
pub mod plaintext;
pub mod pod;
pub mod pod_directory;
pub mod report;
pub mod tunnel;
