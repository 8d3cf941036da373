//! `warren tree`, `warren crashes`, `warren quarantine` and `warren chaos`: what operators ask a running proxy for from a
//! shell.

use std::{
    io::{self, IsTerminal, Write},
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use tokio::time::sleep;

use super::{
    client::{AskError, ask, encode},
    crashes,
    draw::{Aside, Shown, draw, list},
};

const USAGE: &str = "\
Usage: warren tree [--watch] [--admin ADDR]
       warren crashes [NUMBER] [--admin ADDR]
       warren quarantine [--admin ADDR]
       warren chaos kill|hang|panic ID [--ms N] [--admin ADDR]
       warren chaos slow ID [--ms N] [--for S] [--admin ADDR]
       warren chaos fail-starts ID [--times N] [--admin ADDR]
       warren chaos panic-task KIND [--times N] [--admin ADDR]

  tree          draw the supervision tree of a running proxy; --watch: again every second
  crashes       list the crash reports of a running proxy, or show one in full
  quarantine    list what is set aside for crashing, and when it is tried again
  chaos         break something in a proxy that runs with WARREN_CHAOS=true
    kill        kill the actor ID: its path in the tree, or the end of it
    hang        let it not answer, for 5000 ms unless --ms says otherwise
    panic       let it panic
    slow        let each message wait 100 ms longer, or --ms, for 10 s, or --for seconds
    fail-starts let its next start fail, or the next N; 0 takes it back
    panic-task  let the next task of this KIND panic, or the next N; \"warren chaos tasks\" lists the kinds

  --admin ADDR  where the proxy's admin port is; default 127.0.0.1:15000
";

/// How often a watched tree is drawn.
/// Limit: time between two drawings of `warren tree --watch`: 1 s; past it: the tree is drawn again.
const REDRAW: Duration = Duration::from_secs(1);

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Command {
    admin: SocketAddr,
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    /// Draw the tree, perhaps again and again.
    Tree(bool),
    /// List the crash reports, or show one.
    Crashes(Option<u64>),
    /// List what is set aside.
    Quarantine,
    /// List the kinds of tasks.
    Tasks,
    /// Post to this path.
    Break(String),
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("the proxy refuses: {0}")]
    Refused(String),
    #[error("there is no crash report {0}, or it is no longer kept")]
    NoReport(u64),
    #[error("the proxy's answer makes no sense: {0}")]
    Answer(#[from] serde_json::Error),
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}

/// `warren NAME ARGS`, where NAME is `tree`, `crashes`, `quarantine` or `chaos`.
pub fn main(name: &str, args: &[String]) -> ExitCode {
    let command = match parse(name, args) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("Error: {error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let done = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CommandError::Write)
        .and_then(|runtime| runtime.block_on(run(&command)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read has seen enough.
        Err(CommandError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(name: &str, args: &[String]) -> Result<Command, String> {
    let mut admin = SocketAddr::from((Ipv4Addr::LOCALHOST, 15000));
    let (mut watch, mut ms, mut times, mut lasting) = (false, None, None, None);
    let mut words: Vec<&str> = Vec::new();
    let mut args = args.iter().map(String::as_str);
    while let Some(arg) = args.next() {
        let (option, inline) = match arg.split_once('=') {
            Some((option, value)) if option.starts_with("--") => (option, Some(value)),
            _ => (arg, None),
        };
        let mut value = || inline.or_else(|| args.next()).ok_or_else(|| format!("{option} needs a value"));
        match option {
            "--admin" => {
                let value = value()?;
                admin = value.parse().map_err(|_| format!("--admin {value:?} is no ADDRESS:PORT"))?;
            }
            "--ms" => ms = Some(number("--ms", value()?)?),
            "--for" => lasting = Some(number("--for", value()?)?),
            "--times" => times = Some(number("--times", value()?)?),
            "--watch" => watch = true,
            other if other.starts_with('-') => return Err(format!("unknown option {other}")),
            word => words.push(word),
        }
    }
    let given = [("ms", ms), ("for", lasting), ("times", times)];
    let given: Vec<(&str, u64)> =
        given.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let what = match (name, words.as_slice(), given.as_slice(), watch) {
        ("tree", [], [], watch) => What::Tree(watch),
        ("crashes", [], [], false) => What::Crashes(None),
        ("crashes", [wanted], [], false) => What::Crashes(Some(number("NUMBER", wanted)?)),
        ("quarantine", [], [], false) => What::Quarantine,
        ("chaos", ["tasks"], [], false) => What::Tasks,
        ("chaos", [verb, id], given, false) if takes(verb).is_some_and(|known| subset(given, known)) => {
            let (whose, verb) = match *verb {
                "panic-task" => ("tasks", "panic"),
                verb => ("actors", verb),
            };
            let query: Vec<String> = given.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
            What::Break(format!("/{whose}/{}/{verb}{query}", encode(id)))
        }
        (name, words, ..) => return Err(format!("cannot make sense of {name} {}", words.join(" "))),
    };
    Ok(Command { admin, what })
}

/// The options of a verb of `warren chaos`, if there is such a verb.
fn takes(verb: &str) -> Option<&'static [&'static str]> {
    Some(match verb {
        "kill" | "panic" => &[],
        "hang" => &["ms"],
        "slow" => &["ms", "for"],
        "fail-starts" | "panic-task" => &["times"],
        _ => return None,
    })
}

fn subset(given: &[(&str, u64)], known: &[&str]) -> bool {
    given.iter().all(|(name, _)| known.contains(name))
}

fn number(option: &str, value: &str) -> Result<u64, String> {
    value.parse().map_err(|_| format!("{option} {value:?} is no number"))
}

async fn run(command: &Command) -> Result<(), CommandError> {
    let admin = command.admin;
    match &command.what {
        What::Crashes(wanted) => {
            let shown = serde_json::from_str(&asked(admin, "GET", "/crashes").await?)?;
            let none = || CommandError::NoReport(wanted.unwrap_or_default());
            print(&crashes::draw(&shown, *wanted).ok_or_else(none)?)
        }
        What::Quarantine => {
            let aside: Vec<Aside> = serde_json::from_str(&asked(admin, "GET", "/quarantine").await?)?;
            print(&list(&aside))
        }
        What::Tasks => print(&asked(admin, "GET", "/tasks").await?),
        What::Break(path) => print(&asked(admin, "POST", path).await?),
        What::Tree(false) => print(&tree(admin).await?),
        What::Tree(true) => loop {
            // A proxy that is away is what somebody who watches wants to see.
            let shown = tree(admin).await.unwrap_or_else(|error| format!("{error}\n"));
            let clear = if io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
            print(&format!("{clear}{shown}"))?;
            sleep(REDRAW).await;
        },
    }
}

async fn tree(admin: SocketAddr) -> Result<String, CommandError> {
    let roots: Vec<Shown> = serde_json::from_str(&asked(admin, "GET", "/actors").await?)?;
    Ok(draw(&roots, io::stdout().is_terminal()))
}

/// The text of an answer that is no refusal.
async fn asked(admin: SocketAddr, method: &str, path: &str) -> Result<String, CommandError> {
    match ask(admin, method, path).await? {
        (200, text) => Ok(text),
        (status, text) if text.trim().is_empty() => Err(CommandError::Refused(format!("status {status}"))),
        (_, text) => Err(CommandError::Refused(text.trim_end().to_owned())),
    }
}

/// Unlike `print!`, lets a closed pipe be an error.
fn print(text: &str) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<(String, What), String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let (name, args) = words.split_first().expect("a command");
        parse(name, args).map(|command| (command.admin.to_string(), command.what))
    }

    #[test]
    fn commands_become_requests() {
        let post = |path: &str| What::Break(path.to_owned());
        for (line, admin, what) in [
            ("tree", "127.0.0.1:15000", What::Tree(false)),
            ("crashes", "127.0.0.1:15000", What::Crashes(None)),
            ("crashes 7", "127.0.0.1:15000", What::Crashes(Some(7))),
            ("tree --watch --admin 127.0.0.1:1", "127.0.0.1:1", What::Tree(true)),
            ("quarantine", "127.0.0.1:15000", What::Quarantine),
            ("chaos tasks --admin=[::1]:1", "[::1]:1", What::Tasks),
            ("chaos kill root/xds", "127.0.0.1:15000", post("/actors/root/xds/kill")),
            ("chaos hang a --ms 250", "127.0.0.1:15000", post("/actors/a/hang?ms=250")),
            ("chaos hang a", "127.0.0.1:15000", post("/actors/a/hang")),
            ("chaos slow a --for 3 --ms=20", "127.0.0.1:15000", post("/actors/a/slow?ms=20&for=3")),
            ("chaos fail-starts a --times 5", "127.0.0.1:15000", post("/actors/a/fail-starts?times=5")),
            ("chaos panic [::1]:1", "127.0.0.1:15000", post("/actors/%5B::1%5D:1/panic")),
            (
                "chaos panic-task xds/stream --times=2",
                "127.0.0.1:15000",
                post("/tasks/xds/stream/panic?times=2"),
            ),
        ] {
            assert_eq!(parsed(line), Ok((admin.to_owned(), what)), "{line}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (line, error) in [
            ("tree x", "cannot make sense of tree x"),
            ("crashes x", "NUMBER \"x\" is no number"),
            ("tree --ms 3", "cannot make sense of tree "),
            ("tree --admin", "--admin needs a value"),
            ("tree --admin 15000", "--admin \"15000\" is no ADDRESS:PORT"),
            ("quarantine x", "cannot make sense of quarantine x"),
            ("chaos", "cannot make sense of chaos "),
            ("chaos kill", "cannot make sense of chaos kill"),
            ("chaos kill a --ms 3", "cannot make sense of chaos kill a"),
            ("chaos hang a --ms x", "--ms \"x\" is no number"),
            ("chaos hang a --for 3", "cannot make sense of chaos hang a"),
            ("chaos slow a --times 3", "cannot make sense of chaos slow a"),
            ("chaos maim a", "cannot make sense of chaos maim a"),
            ("chaos kill a --force", "unknown option --force"),
        ] {
            assert_eq!(parsed(line), Err(error.to_owned()), "{line}");
        }
    }
}
