//! A tunnel that another process has set up: its HTTP/2 connection goes on from a value (RFC 9113).
//!
//! [`Adopted`] is pure: it takes the peer's bytes and commands, and makes events and bytes to send. It opens no streams
//! and refuses new ones, so it neither encodes nor decodes header blocks. A peer that breaks a rule has its tunnel ended
//! with the error that the rule names.

mod connection;
pub mod driver;
mod input;
mod receive;
pub mod side;
pub mod tunnel;

pub use self::connection::{Adopted, Event};
