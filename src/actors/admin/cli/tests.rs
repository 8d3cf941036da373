use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(subcommand)]
    command: AdminCommand,
}

fn parse(line: &str) -> Result<AdminCommand, String> {
    let words = std::iter::once("warren").chain(line.split_whitespace());
    let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
    Ok(line.command)
}

#[test]
fn the_address_stands_before_or_after_the_rest() {
    let address: Option<SocketAddr> = Some("[::1]:1".parse().unwrap());
    for line in [
        "tree --watch --admin [::1]:1",
        "tree --admin=[::1]:1 --watch",
        "crashes --admin [::1]:1 7",
        "quarantine --admin [::1]:1",
        "chaos --admin [::1]:1 kill root/xds",
        "chaos kill root/xds --admin=[::1]:1",
        "chaos tasks --admin=[::1]:1",
    ] {
        assert_eq!(parse(line).unwrap().admin(), address, "{line}");
    }
    assert_eq!(parse("tree").unwrap().admin(), None);
}

#[test]
fn reports_are_chosen_by_number() {
    let number = |line| match parse(line).unwrap() {
        AdminCommand::Crashes { number, .. } => number,
        other => panic!("{other:?}"),
    };
    assert_eq!((number("crashes"), number("crashes 7")), (None, Some(7)));
}

#[test]
fn chaos_becomes_requests() {
    for (line, method, target) in [
        ("chaos tasks", "GET", "/tasks"),
        ("chaos kill root/xds", "POST", "/actors/root/xds/kill"),
        ("chaos hang a --ms 250", "POST", "/actors/a/hang?ms=250"),
        ("chaos hang a", "POST", "/actors/a/hang"),
        ("chaos slow a --for 3 --ms=20", "POST", "/actors/a/slow?ms=20&for=3"),
        ("chaos fail-starts a --times 5", "POST", "/actors/a/fail-starts?times=5"),
        ("chaos panic [::1]:1", "POST", "/actors/%5B::1%5D:1/panic"),
        ("chaos panic-task xds/stream --times=2", "POST", "/tasks/xds/stream/panic?times=2"),
    ] {
        let AdminCommand::Chaos { fault, .. } = parse(line).unwrap() else { panic!("{line}") };
        assert_eq!(fault.request(), (method, target.to_owned()), "{line}");
    }
}

#[test]
fn mistakes_are_named() {
    for (line, error) in [
        ("tree x", "unexpected argument 'x' found"),
        ("crashes x", "invalid value 'x' for '[NUMBER]'"),
        ("tree --ms 3", "unexpected argument '--ms' found"),
        ("tree --admin", "a value is required for '--admin <ADDR>'"),
        ("tree --admin 15000", "invalid value '15000' for '--admin <ADDR>'"),
        ("quarantine x", "unexpected argument 'x' found"),
        ("chaos", "Usage: warren chaos [OPTIONS] <COMMAND>"),
        ("chaos kill", "the following required arguments were not provided:\n  <ID>"),
        ("chaos kill a --ms 3", "unexpected argument '--ms' found"),
        ("chaos hang a --ms x", "invalid value 'x' for '--ms <N>'"),
        ("chaos hang a --for 3", "unexpected argument '--for' found"),
        ("chaos slow a --times 3", "unexpected argument '--times' found"),
        ("chaos maim a", "unrecognized subcommand 'maim'"),
        ("chaos kill a --force", "unexpected argument '--force' found"),
    ] {
        let said = parse(line).unwrap_err();
        assert!(said.contains(error), "{line}: {said}");
    }
}

#[test]
fn levels_of_the_log_become_a_request() {
    for (line, target) in [
        ("log", "/logging"),
        ("log debug access=info", "/logging?level=debug%2Caccess%3Dinfo"),
        ("log --reset", "/logging?reset"),
        ("log --reset debug", "/logging?reset&level=debug"),
    ] {
        let AdminCommand::Log { levels, reset, .. } = parse(line).unwrap() else { panic!("{line}") };
        assert_eq!(logging(&levels, reset), target, "{line}");
    }
}

#[test]
fn tables_take_filters_and_connections_can_be_cut() {
    for line in [
        "connections",
        "connections --pod ns/a --peer 10.0.0.1 --sort age --watch -o wide",
        "pods -o yaml",
        "tunnels --pod ns/a",
        "events --follow --kind denial -o json",
        "connections cut 1-0-7 --yes --admin [::1]:1",
        "why ns/a web:80 --to 127.0.0.1:1 -o json",
    ] {
        parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
    let cut = parse("connections cut 1-0-7 --admin [::1]:1").unwrap();
    assert_eq!(cut.admin(), Some("[::1]:1".parse().unwrap()));
    for line in ["connections cut", "connections --pod ns/a cut 1", "pods -o html", "why ns/a"] {
        assert!(parse(line).is_err(), "{line}");
    }
}
