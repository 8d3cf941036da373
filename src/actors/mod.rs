//! The actors: each owns a resource and is a place of restart.

pub mod admin;
pub mod control;
pub mod health;
pub mod pods;
pub mod quarantine;
pub mod settings;
pub mod telemetry;
pub mod tree;
