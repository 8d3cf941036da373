//! The parts that all command lines of this program share: the colours of help texts, and errors of at most two lines.

use std::{ffi::OsString, process::ExitCode};

use clap::{
    Command, Error, Parser,
    builder::styling::{AnsiColor, Styles},
    error::ErrorKind,
};

/// The exit code for a wrong command line.
pub const WRONG_USAGE: u8 = 2;

/// The colours of help texts. They are left out where the output is no terminal, and with `NO_COLOR`.
pub const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// The heading of a handwritten section, in the colour of the generated headings.
#[macro_export]
macro_rules! help_heading {
    ($heading:literal) => {
        concat!("\x1b[1m\x1b[32m", $heading, ":\x1b[0m\n")
    };
}

/// Reads `args`, the first of which is the program's name.
///
/// # Errors
/// The line is wrong, or asks for help or the version. The text has been printed, and the error is the exit code.
pub fn parse<P: Parser>(args: impl IntoIterator<Item = OsString>) -> Result<P, ExitCode> {
    let args: Vec<OsString> = args.into_iter().collect();
    P::try_parse_from(&args).map_err(|error| refuse(&error, &P::command(), &args))
}

/// Prints the requested help or version, or the reason why the line is wrong.
pub fn refuse(error: &Error, command: &Command, args: &[OsString]) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // A reader that closed the pipe wants no more output.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let (command, path) = meant(command, args);
    let message = match error.kind() {
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            choices(command, &path)
        }
        _ => message(&error.render().to_string()),
    };
    eprintln!("Error: {message}\nSee `{path} --help`.");
    ExitCode::from(WRONG_USAGE)
}

/// One line of an error as clap renders it: what is wrong, and the nearest match.
fn message(rendered: &str) -> String {
    let (message, rest) = rendered.split_once("\n\n").unwrap_or((rendered, ""));
    let message: Vec<&str> = message.split_whitespace().collect();
    let message = message.join(" ");
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    let nearest = rest
        .lines()
        .filter_map(|line| line.trim().strip_prefix("tip: "))
        .find(|tip| tip.starts_with("a similar") || tip.starts_with("some similar"));
    let nearest = nearest.map_or_else(String::new, |tip| format!("; {tip}"));
    format!("{message}{nearest}")
}

/// The subcommands that may follow a command that does nothing by itself.
fn choices(command: &Command, path: &str) -> String {
    let names = command.get_subcommands().filter(|below| !below.is_hide_set()).map(Command::get_name);
    let names: Vec<&str> = names.filter(|name| *name != "help").collect();
    format!("`{path}` needs a command: {}", names.join(", "))
}

/// The command that the line names, and the words that name the command: `warren lab up`.
fn meant<'a>(command: &'a Command, args: &[OsString]) -> (&'a Command, String) {
    let mut command = command;
    let mut path = command.get_bin_name().unwrap_or(command.get_name()).to_owned();
    for arg in args.iter().skip(1) {
        if let Some(below) = command.find_subcommand(arg) {
            path = format!("{path} {}", below.get_name());
            command = below;
        }
    }
    (command, path)
}

#[cfg(test)]
mod tests;
