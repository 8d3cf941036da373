//! `warren why`: asks a proxy what becomes of a connection, and draws the answer as a tree of sentences.

#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use clap::{Args, ValueEnum};

use super::{
    request::{CommandError, asked},
    screen::{Colour, Screen, print, wrap},
};
use crate::{
    actors::admin::client::encode_value,
    protocols::why::{Arrival, Decided, Explanation, Sentence, Verdict},
};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct WhyArgs {
    /// Who connects: NAMESPACE/POD, or an address
    source: String,
    /// What for: NAMESPACE/SERVICE, NAMESPACE/POD, a name or an address, with :PORT unless the service has one port
    destination: String,
    /// The admin server of the destination's proxy, which is asked about the destination's side
    #[arg(long, value_name = "ADDR")]
    to: Option<SocketAddr>,
    /// How the answer is printed
    #[arg(short, long, value_name = "FORMAT", default_value = "tree")]
    output: WhyFormat,
    /// Address and port of the proxy's admin server [default: 127.0.0.1:15000]
    #[arg(long, value_name = "ADDR")]
    pub(super) admin: Option<SocketAddr>,
}

/// How an explanation is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum WhyFormat {
    /// A tree of sentences.
    Tree,
    /// JSON.
    Json,
}

/// The exit code of a connection that gets through.
const ALLOWED: u8 = 0;
/// The exit code of a connection that is refused.
const DENIED: u8 = 1;
/// The exit code where it is not known whether the connection gets through, or who is meant.
pub(super) const UNKNOWN: u8 = 2;

/// Asks, prints the answer, and returns the exit code.
pub(super) async fn perform(args: &WhyArgs, admin: SocketAddr) -> Result<u8, CommandError> {
    let target =
        format!("/why?source={}&destination={}", encode_value(&args.source), encode_value(&args.destination));
    let mut explained: Explanation = serde_json::from_str(&asked(admin, "GET", &target).await?)?;
    if let Some(to) = args.to
        && let Some(arrival) = &explained.arrival
    {
        let decided: Decided = serde_json::from_str(&asked(to, "GET", &arrival_target(arrival)).await?)?;
        explained.inbound = Some(decided);
        explained.conclude();
    }
    match args.output {
        WhyFormat::Tree => print(&draw(&explained, &Screen::of_stdout()))?,
        WhyFormat::Json => print(&format!("{}\n", serde_json::to_string_pretty(&explained)?))?,
    }
    Ok(match explained.verdict {
        Verdict::Allowed => ALLOWED,
        Verdict::Denied => DENIED,
        Verdict::Unknown => UNKNOWN,
    })
}

/// The request that asks about an arrival.
fn arrival_target(Arrival { client, identity, to, authority }: &Arrival) -> String {
    let mut target = format!("/why?client={client}&to={}", encode_value(&to.to_string()));
    if let Some(identity) = identity {
        target.push_str(&format!("&identity={}", encode_value(identity.as_str())));
    }
    if let Some(authority) = authority {
        target.push_str(&format!("&authority={}", encode_value(&authority.to_string())));
    }
    target
}

/// The verdict, and below it what supports it.
fn draw(explained: &Explanation, screen: &Screen) -> String {
    let colour = match explained.verdict {
        Verdict::Allowed => Colour::Green,
        Verdict::Denied => Colour::Red,
        Verdict::Unknown => Colour::Yellow,
    };
    let verdict = screen.paint(colour, &explained.verdict.to_string());
    let question = wrap(&format!("{} to {}", explained.source, explained.destination), usize::MAX);
    let mut text = format!("{verdict}: {}\n", question.join(" "));
    let sides = [&explained.outbound, &explained.inbound];
    let decided = sides.into_iter().flatten().map(|decided| &decided.sentence);
    let sentences: Vec<&Sentence> = explained.named.iter().chain(decided).collect();
    below(&sentences, "", screen, &mut text);
    text
}

fn below(sentences: &[&Sentence], indent: &str, screen: &Screen, text: &mut String) {
    let last = sentences.len().saturating_sub(1);
    for (index, sentence) in sentences.iter().enumerate() {
        let (branch, beside) = if index == last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        let inner = format!("{indent}{beside}");
        let columns = screen.columns.saturating_sub(inner.chars().count());
        let trunk = if sentence.because.is_empty() { "" } else { "│  " };
        for (row, line) in wrap(&sentence.says, columns.saturating_sub(3)).into_iter().enumerate() {
            let line = match row {
                0 => format!("{indent}{branch}{line}"),
                _ => format!("{inner}{trunk:3}{line}"),
            };
            text.push_str(&line);
            text.push('\n');
        }
        let because: Vec<&Sentence> = sentence.because.iter().collect();
        below(&because, &inner, screen, text);
    }
}
