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

/// Modules of the incumbent, and the targets here that tell of the same. A module that is not listed is as the nearest
/// one above it.
const INCUMBENT: [(&str, &[&str]); 14] = [
    (
        "ztunnel",
        &[
            "warren",
            "admin",
            "audit",
            "capture",
            "conn",
            "drain",
            "grpc",
            "main",
            "memory",
            "mesh",
            "otlp",
            "panic",
            "pods",
            "rbac",
            "shard",
            "supervisor",
            "sys",
            "tunnel",
            "xds",
        ],
    ),
    ("ztunnel::admin", &["admin", "warren::actors::admin"]),
    ("ztunnel::app", &["main"]),
    ("ztunnel::config", &["main"]),
    ("ztunnel::dns", &["dns", "warren::dataplane::dns"]),
    ("ztunnel::drain", &["drain"]),
    ("ztunnel::identity", &["grpc", "warren::actors::control::certs"]),
    ("ztunnel::inpod", &["pods", "capture", "audit", "warren::actors::control::zds"]),
    ("ztunnel::proxy", &["conn", "tunnel", "warren::dataplane"]),
    ("ztunnel::proxy::h2", &["tunnel", "warren::dataplane::tunnel"]),
    ("ztunnel::proxy::pool", &["tunnel", "warren::dataplane::tunnel"]),
    ("ztunnel::rbac", &["rbac"]),
    ("ztunnel::state", &["mesh", "rbac", "warren::actors::control::mesh"]),
    ("ztunnel::xds", &["xds", "grpc", "warren::actors::control::xds"]),
];

/// Translates `filter` for `tracing`. A target may be written as lines show it, without the crate's name:
/// `actors::control::xds`, or just `xds`. A module of the incumbent stands for the parts that do the same.
pub(super) fn targets(filter: &LogFilter) -> Targets {
    // The targets come in the order of their names, so a module comes after the one that it is in, and wins.
    let mapped = filter
        .targets()
        .flat_map(|(target, level)| incumbent(target).iter().map(move |&here| (here.to_owned(), level)));
    // The process's own modules also match their short names; a full name wins over a short one by its length.
    let targets = filter
        .targets()
        .flat_map(|(target, level)| OWN.into_iter().map(move |prefix| (format!("{prefix}{target}"), level)));
    // Targets that the operator gave in full come last and win.
    let exact = filter.targets().map(|(target, level)| (target.to_owned(), level));
    Targets::new()
        .with_default(filter.default_level())
        .with_targets(mapped)
        .with_targets(targets)
        .with_targets(exact)
}

/// The targets here that tell what the module `name` of the incumbent tells; none for any other name.
fn incumbent(name: &str) -> &'static [&'static str] {
    let mut module = name;
    loop {
        if let Some((_, targets)) = INCUMBENT.iter().find(|(known, _)| *known == module) {
            return targets;
        }
        match module.rsplit_once("::") {
            Some((above, _)) => module = above,
            None => return &[],
        }
    }
}

#[cfg(test)]
mod tests;
