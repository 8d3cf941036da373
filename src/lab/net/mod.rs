//! Network namespaces without any external binary: netlink messages set up links, addresses, routes and the in-pod
//! redirection rules. All traffic stays inside: nothing is forwarded to or from the machine's own network.

pub mod cell;
mod error;
pub mod fabric;
mod link;
mod namespace;
mod netlink;
mod nft;
pub mod redirect;

pub use self::{error::NetError, namespace::Namespace};
