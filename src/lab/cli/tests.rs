use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    lab: LabArgs,
}

fn parse(line: &str) -> Result<LabArgs, String> {
    let words = std::iter::once("warren lab").chain(line.split_whitespace());
    Line::try_parse_from(words).map(|line| line.lab).map_err(|error| error.to_string())
}

#[test]
fn commands_are_read_with_their_options_wherever_these_stand() {
    for line in [
        "up --dns mesh.yaml --name x --env A=b=c --proxy /bin/p",
        "--name x up --env A=b=c --proxy=/bin/p --dns mesh.yaml",
    ] {
        let up = parse(line).unwrap();
        let expected = UpArgs {
            file: "mesh.yaml".into(),
            proxy: Some("/bin/p".into()),
            env: vec![("A".into(), "b=c".into())],
            dns: true,
            no_proxy: false,
        };
        assert_eq!((up.name(), &up.command), ("x", &LabCommand::Up(expected)));
    }
}

#[test]
fn what_follows_the_host_is_the_command_options_and_all() {
    let exec = |args: &[&str]| LabCommand::Exec {
        host: "web".into(),
        command: args.iter().map(|arg| (*arg).to_owned()).collect(),
    };
    assert_eq!(parse("exec web -- curl -s --name x").unwrap().command, exec(&["curl", "-s", "--name", "x"]));
    let line = parse("exec --name y web curl -s").unwrap();
    assert_eq!((line.name(), &line.command), ("y", &exec(&["curl", "-s"])));
}

#[test]
fn a_lab_is_called_as_its_command_unless_a_name_is_given() {
    for (line, name) in [
        ("demo", "demo"),
        ("bench", "bench"),
        ("chaos --seed 7 --soak", "chaos"),
        ("upgrade --streams 8 --only mixed,mute --seconds 0", "upgrade"),
        ("down", "lab"),
        ("status --name y", "y"),
        ("--name z demo", "z"),
    ] {
        assert_eq!(parse(line).unwrap().name(), name, "{line}");
    }
}

#[test]
fn wrong_lines_are_said_to_be_wrong_where_they_are() {
    for (line, error) in [
        ("", "Usage: "),
        ("demos", "unrecognized subcommand 'demos'"),
        ("demo mesh.yaml", "unexpected argument 'mesh.yaml' found"),
        ("up", "the following required arguments were not provided:\n  <FILE>"),
        ("up a b", "unexpected argument 'b' found"),
        ("up a --env A", "invalid value 'A' for '--env <NAME=VALUE>'"),
        ("up a --no-proxy --proxy b", "cannot be used with"),
        ("status --dns", "unexpected argument '--dns' found"),
        ("demo --seed 3", "unexpected argument '--seed' found"),
        ("chaos --seed x", "invalid value 'x' for '--seed <N>'"),
        ("chaos --json", "a value is required for '--json <FILE>'"),
        ("upgrade --streams 7", "7 is not in 8..=4000"),
        ("down --name", "a value is required for '--name <NAME>'"),
        ("exec web", "the following required arguments were not provided:\n  <COMMAND>..."),
    ] {
        let said = parse(line).unwrap_err();
        assert!(said.contains(error), "{line}: {said}");
    }
}
