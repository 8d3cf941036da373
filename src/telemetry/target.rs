//! The target of exported spans.

/// The target of all spans that are exported, and of nothing else: no log filter is asked about them.
pub(crate) const TRACE_TARGET: &str = "trace";
