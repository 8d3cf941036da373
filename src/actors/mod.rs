//! Owners of sockets, tasks, clocks and namespaces.

pub mod admin;
pub mod capture;
pub mod certs;
pub mod dns;
pub mod grpc;
pub mod health;
pub mod lane;
pub mod load;
pub mod mesh;
pub mod node;
pub mod pods;
pub mod serve;
pub mod settings;
pub mod shard;
pub mod sys;
pub mod telemetry;
pub mod tree;
pub mod tunnel;
pub mod xds;
pub mod zds;
