use clap::{Args, CommandFactory, Subcommand};

use super::*;

#[derive(Debug, Parser)]
#[command(name = "tool")]
struct Tool {
    #[command(subcommand)]
    command: ToolCommand,
}

#[derive(Debug, Subcommand)]
enum ToolCommand {
    Draw(Draw),
    Erase,
}

#[derive(Debug, Args)]
struct Draw {
    #[arg(long)]
    width: Option<u8>,
    file: String,
}

fn said(line: &str) -> (String, String) {
    let args: Vec<OsString> = line.split_whitespace().map(Into::into).collect();
    let error = Tool::try_parse_from(&args).unwrap_err();
    (message(&error.render().to_string()), meant(&Tool::command(), &args).1)
}

#[test]
fn an_error_is_one_line_with_the_nearest_match_and_the_command_that_has_help() {
    for (line, message, path) in [
        ("tool drow", "unrecognized subcommand 'drow'; a similar subcommand exists: 'draw'", "tool"),
        (
            "tool draw --widht 3 x",
            "unexpected argument '--widht' found; a similar argument exists: '--width'",
            "tool draw",
        ),
        ("tool draw", "the following required arguments were not provided: <FILE>", "tool draw"),
        (
            "tool draw --width 300 x",
            "invalid value '300' for '--width <WIDTH>': 300 is not in 0..=255",
            "tool draw",
        ),
    ] {
        assert_eq!(said(line), (message.to_owned(), path.to_owned()));
    }
}

#[test]
fn a_command_that_does_nothing_by_itself_names_its_commands() {
    assert_eq!(choices(&Tool::command(), "tool"), "`tool` needs a command: draw, erase");
}
