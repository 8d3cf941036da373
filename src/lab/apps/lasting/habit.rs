//! What a lasting stream does, and the request in which a client says so.

use serde::{Deserialize, Serialize};

/// What a stream does from its opening to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Habit {
    /// Nothing, between a first and a last numbered message.
    Idle,
    /// Numbered messages at a pace, each answered before the next.
    Paced,
    /// As many bytes as there is room for, in both directions at once.
    Saturated,
    /// The client writes until there is no room, and the server reads only at the end.
    ServerStopped,
    /// The server writes until there is no room, and the client reads only at the end.
    ClientStopped,
    /// The client has ended its direction, and the server answers at the end.
    HalfClosed,
}

/// What a client says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) habit: Habit,
    /// The seed of the bytes of this stream.
    pub(super) seed: u64,
}

/// The number of bytes of a request.
pub(super) const REQUEST_BYTES: usize = 9;

// === impl Habit ===

impl Habit {
    /// All habits.
    pub(crate) const ALL: [Self; 6] = [
        Self::Idle,
        Self::Paced,
        Self::Saturated,
        Self::ServerStopped,
        Self::ClientStopped,
        Self::HalfClosed,
    ];

    fn code(self) -> u8 {
        match self {
            Self::Idle => b'i',
            Self::Paced => b'p',
            Self::Saturated => b's',
            Self::ServerStopped => b'w',
            Self::ClientStopped => b'r',
            Self::HalfClosed => b'h',
        }
    }
}

// === impl Request ===

impl Request {
    pub(super) fn encode(self) -> [u8; REQUEST_BYTES] {
        let mut bytes = [self.habit.code(); REQUEST_BYTES];
        bytes[1..].copy_from_slice(&self.seed.to_le_bytes());
        bytes
    }

    /// The request in `bytes`, if there is one.
    pub(super) fn decode([code, seed @ ..]: [u8; REQUEST_BYTES]) -> Option<Self> {
        let habit = Habit::ALL.into_iter().find(|habit| habit.code() == code)?;
        Some(Self { habit, seed: u64::from_le_bytes(seed) })
    }
}
