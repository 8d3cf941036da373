//! What a collector answers.

use super::{
    input::Input,
    wire::{Scripted, in_time},
};
use crate::telemetry::collector_says;

/// A genuine answer, of which the pieces may be parts.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 9\r\n\r\n\n\x07\x08\x02\x12\x03odd";

/// The bytes of a collector, in any pieces. The request ends, and what is rejected is told.
pub fn otlp(data: &[u8]) {
    let mut input = Input::new(data);
    let wire = Scripted::of(&mut input, ANSWER);
    match in_time(collector_says(wire)) {
        Ok((status, rejected)) => {
            assert!((100..1000).contains(&status));
            assert!(rejected.is_none_or(|(items, reason)| items > 0 || !reason.is_empty()));
        }
        Err(error) => assert!(!error.is_empty()),
    }
}
