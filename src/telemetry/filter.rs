//! The translation of the log's filter for `tracing`.

use tracing_subscriber::filter::Targets;

use crate::protocols::config::LogFilter;

/// The prefixes of this process's own targets.
const OWN: [&str; 6] = [
    "",
    "warren::",
    "warren::actors::",
    "warren::actors::control::",
    "warren::dataplane::",
    "warren::protocols::",
];

/// Translates `filter` for `tracing`. A target may be written as lines show it, without the crate's name:
/// `actors::control::xds`, or just `xds`.
pub(super) fn targets(filter: &LogFilter) -> Targets {
    // The process's own modules also match their short names; a full name wins over a short one by its length.
    let targets = filter
        .targets()
        .flat_map(|(target, level)| OWN.into_iter().map(move |prefix| (format!("{prefix}{target}"), level)));
    // Targets that the operator gave in full come last and win.
    let exact = filter.targets().map(|(target, level)| (target.to_owned(), level));
    Targets::new().with_default(filter.default_level()).with_targets(targets).with_targets(exact)
}

#[cfg(test)]
mod tests;
