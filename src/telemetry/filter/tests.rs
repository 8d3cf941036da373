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

#[test]
fn modules_of_the_incumbent_stand_for_the_parts_that_do_the_same() {
    let filter: LogFilter =
        "warn,ztunnel=info,ztunnel::proxy::outbound=debug,ztunnel::xds=trace,hickory_server::server=trace"
            .parse()
            .unwrap();
    let targets = targets(&filter);
    for (target, level, want) in [
        ("pods", Level::INFO, true),
        ("warren::actors::control::zds", Level::INFO, true),
        ("conn", Level::DEBUG, true),
        ("warren::dataplane::outbound", Level::DEBUG, true),
        ("xds", Level::TRACE, true),
        ("pods", Level::DEBUG, false),
        ("access", Level::INFO, false),
        ("dns", Level::INFO, false),
    ] {
        assert_eq!(targets.would_enable(target, &level), want, "{target} {level}");
    }
}

#[test]
fn a_target_alone_is_all_that_is_logged() {
    let targets = targets(&"access=debug".parse().unwrap());
    assert!(targets.would_enable("access", &Level::DEBUG));
    assert!(!targets.would_enable("main", &Level::ERROR));
}
