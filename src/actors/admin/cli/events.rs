//! `warren events`: the last events of a proxy, and those that follow.

#[cfg(test)]
mod tests;

use std::{net::SocketAddr, time::Duration};

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::{
    request::{AdminPort, CommandError, REDRAW_INTERVAL, asked},
    screen::{Colour, Screen, print},
};
use crate::actors::admin::{
    client::{ask_within, encode_value},
    draw::printable,
};

/// Limit: an answer to `warren events` that waits for news: 30 s; past it: the command asks again.
const NEWS_WITHIN: Duration = Duration::from_secs(30);
/// How long the proxy is asked to wait for news.
/// No limit: the proxy has its own bound.
const WAIT_SECONDS: u64 = 20;

/// Which events are shown, and how.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct EventsArgs {
    /// Only what is of this pod: NAMESPACE/NAME
    #[arg(long, value_name = "POD")]
    pod: Option<String>,
    /// Only events of this kind: pod, tunnel, certificate, push, actor, quarantine, denial, operator
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// Go on with events as they come
    #[arg(short, long)]
    follow: bool,
    /// How they are printed
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: EventsFormat,
    #[command(flatten)]
    pub(super) admin: AdminPort,
}

/// How events are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum EventsFormat {
    /// A line each.
    Text,
    /// A line of JSON each.
    Json,
}

/// An answer of `/events`.
#[derive(Debug, Deserialize)]
struct Answer {
    last: u64,
    missed: u64,
    events: Vec<ShownEvent>,
}

#[derive(Debug, Deserialize, Serialize)]
struct ShownEvent {
    number: u64,
    at: String,
    kind: String,
    pod: Option<String>,
    says: String,
}

/// Asks and prints, and goes on for as long as events are followed.
pub(super) async fn perform(args: &EventsArgs, admin: SocketAddr) -> Result<(), CommandError> {
    let screen = Screen::of_stdout();
    let first = asked(admin, "GET", &target(args, 0, 0)).await?;
    let mut answer: Answer = serde_json::from_str(&first)?;
    loop {
        print(&lines(&answer, args.output, &screen)?)?;
        let after = answer.last;
        if !args.follow {
            return Ok(());
        }
        answer = loop {
            let news = ask_within(admin, "GET", &target(args, after, WAIT_SECONDS), NEWS_WITHIN).await;
            match news {
                Ok((200, text)) => break serde_json::from_str(&text)?,
                Ok((_, refused)) => return Err(CommandError::Refused(refused.trim_end().to_owned())),
                // A proxy that is started again has new events.
                Err(error) => eprintln!("{error}"),
            }
            sleep(REDRAW_INTERVAL).await;
        };
    }
}

fn target(args: &EventsArgs, after: u64, wait: u64) -> String {
    let mut target = format!("/events?after={after}&wait={wait}");
    for (name, value) in [("pod", &args.pod), ("kind", &args.kind)] {
        if let Some(value) = value {
            target.push_str(&format!("&{name}={}", encode_value(value)));
        }
    }
    target
}

fn lines(answer: &Answer, format: EventsFormat, screen: &Screen) -> Result<String, CommandError> {
    let mut lines = String::new();
    if answer.missed > 0 && format == EventsFormat::Text {
        lines.push_str(&format!("({} events are missing here)\n", answer.missed));
    }
    for event in &answer.events {
        lines.push_str(&match format {
            EventsFormat::Text => event.line(screen),
            EventsFormat::Json => serde_json::to_string(event)?,
        });
        lines.push('\n');
    }
    Ok(lines)
}

// === impl ShownEvent ===

impl ShownEvent {
    fn line(&self, screen: &Screen) -> String {
        let colour = match self.kind.as_str() {
            "denial" | "quarantine" => Colour::Red,
            "actor" | "operator" => Colour::Yellow,
            _ => Colour::Green,
        };
        let kind = screen.paint(colour, &format!("{:11}", printable(&self.kind)));
        let pod = self.pod.as_deref().map_or_else(String::new, |pod| format!("{}: ", printable(pod)));
        format!("{} {kind} {pod}{}", printable(&self.at), printable(&self.says))
    }
}
