use tracing::Level;

use super::*;

#[test]
fn the_most_specific_target_decides() {
    let filter: LogFilter = "warn,xds=debug,xds::node=off,access=info".parse().unwrap();
    let targets = targets(&filter);
    for (target, level, want) in [
        ("anything", Level::INFO, false),
        ("anything", Level::WARN, true),
        ("xds", Level::DEBUG, true),
        ("warren::actors::xds", Level::DEBUG, true),
        ("warren::actors::xds::stream", Level::DEBUG, true),
        ("warren::protocols::xds::node", Level::ERROR, false),
        ("warren::actors::certs", Level::INFO, false),
        ("access", Level::INFO, true),
        ("access", Level::DEBUG, false),
        ("ractor::actor", Level::ERROR, false),
    ] {
        assert_eq!(targets.would_enable(target, &level), want, "{target} {level}");
    }
}
