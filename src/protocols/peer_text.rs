//! Text from peers, cut to a size. What a peer writes reaches labels, log, spans and exports as this type only.

use std::{
    fmt::{self, Display, Write},
    ops::Deref,
};

/// The longest name from a peer, in bytes.
/// Limit: a name that a peer gives: 256 bytes; past it: the rest is cut off.
pub const NAME_MAX_BYTES: usize = 256;
/// The longest label value or namespace of Kubernetes, in bytes.
/// Limit: a namespace, revision, region or zone that a peer gives: 63 bytes; past it: the rest is cut off.
pub const LABEL_MAX_BYTES: usize = 63;
/// The longest hostname, or name of a pod or workload, in bytes.
/// Limit: a hostname, or the name of a workload, that a peer gives: 253 bytes; past it: the rest is cut off.
pub const DNS_NAME_MAX_BYTES: usize = 253;
/// The longest text of an error that a peer may have had a part in, in bytes.
/// Limit: the text of an error in log and traces: 1024 bytes; past it: the rest is cut off.
pub const ERROR_MAX_BYTES: usize = 1024;

/// A text from a peer, of which at most `MAX` bytes are kept. A cut never divides a character.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct PeerText<const MAX: usize = NAME_MAX_BYTES>(Box<str>);

/// A namespace or label value from a peer.
pub type PeerLabel = PeerText<LABEL_MAX_BYTES>;
/// A hostname, or the name of a workload, from a peer.
pub type PeerHost = PeerText<DNS_NAME_MAX_BYTES>;

/// Displays at most `MAX` bytes of a value.
#[derive(Debug)]
pub struct Clipped<T, const MAX: usize = ERROR_MAX_BYTES>(pub T);

/// Passes on what there is room for.
struct Room<'a> {
    out: &'a mut dyn Write,
    left: usize,
}

// === impl PeerText ===

impl<const MAX: usize> PeerText<MAX> {
    /// The text as a peer gave it. What is too long is cut off.
    pub fn new(text: &str) -> Self {
        Self(clip(text, MAX).into())
    }

    /// The display of `value`. What is too long is cut off.
    pub fn of(value: impl Display) -> Self {
        Self(Clipped::<_, MAX>(value).to_string().into())
    }

    /// The text that was kept.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<const MAX: usize> Deref for PeerText<MAX> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<const MAX: usize> From<&str> for PeerText<MAX> {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl<const MAX: usize> Display for PeerText<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<const MAX: usize> fmt::Debug for PeerText<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

// === impl Clipped ===

impl<T: Display, const MAX: usize> Display for Clipped<T, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Room { out: f, left: MAX }, "{}", self.0)
    }
}

impl Write for Room<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let kept = clip(text, self.left);
        // Nothing may follow a cut.
        self.left = if kept.len() < text.len() { 0 } else { self.left - kept.len() };
        self.out.write_str(kept)
    }
}

/// The longest beginning of `text` of at most `max` bytes that divides no character.
pub fn clip(text: &str, max: usize) -> &str {
    text.get(..text.floor_char_boundary(max)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
