//! `/events`: the last events, and news as they come.

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use http::{StatusCode, request::Parts};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::sync::Semaphore;

use super::http::{Answer, JSON, body, query, text};
use crate::telemetry::events::{Event, EventKind, Events, EventsRead};

/// Limit: time that a reader of events waits for news: 20 s; past it: the answer has no events, and the reader asks again.
const WAIT_AT_MOST: Duration = Duration::from_secs(20);
/// Limit: readers of events that wait at a time: 16; past it: the answer is 503.
const WAITING_AT_A_TIME: usize = 16;

/// What answers `/events`. A clone is cheap.
#[derive(Clone, Debug)]
pub struct EventsPage {
    events: Arc<Events>,
    waiting: Arc<Semaphore>,
}

/// What a reader asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    /// The number of the last event that the reader has.
    after: u64,
    wait: Duration,
    pod: Option<String>,
    kind: Option<&'static str>,
}

// === impl EventsPage ===

impl EventsPage {
    /// Shows `events`.
    pub(crate) fn new(events: Arc<Events>) -> Self {
        Self { events, waiting: Arc::new(Semaphore::new(WAITING_AT_A_TIME)) }
    }

    /// The events of `?after=`, of `?pod=` and `?kind=` alone. With `?wait=` seconds the answer waits for an event.
    pub(super) async fn answer(&self, request: &Parts) -> Answer {
        let wanted = match Wanted::parse(request.uri.query().unwrap_or_default()) {
            Ok(wanted) => wanted,
            Err(wrong) => return text(StatusCode::NOT_FOUND, format!("{wrong}\n")),
        };
        let read = if wanted.wait.is_zero() {
            self.events.after(wanted.after)
        } else {
            let Ok(_waiting) = self.waiting.try_acquire() else {
                return text(StatusCode::SERVICE_UNAVAILABLE, "too many readers wait for events\n");
            };
            self.events.wait_after(wanted.after, wanted.wait).await
        };
        body(StatusCode::OK, JSON, format!("{:#}\n", shown(&read, &wanted)))
    }
}

// === impl Wanted ===

impl Wanted {
    /// An error names the parameter that is wrong, and what there is.
    fn parse(text: &str) -> Result<Self, String> {
        let mut wanted = Self::default();
        for (name, value) in query(text) {
            let number = || value.parse::<u64>().map_err(|_| format!("{name}={value} is no number"));
            match name.as_str() {
                "after" => wanted.after = number()?,
                "wait" => wanted.wait = Duration::from_secs(number()?).min(WAIT_AT_MOST),
                "pod" if !value.is_empty() => wanted.pod = Some(value),
                "kind" if !value.is_empty() => {
                    let mut words = EventKind::ALL.iter().map(|kind| kind.as_str());
                    let known = EventKind::ALL.map(EventKind::as_str).join(", ");
                    let word = words.find(|word| *word == value);
                    wanted.kind =
                        Some(word.ok_or_else(|| format!("no events {value:?}; there are: {known}"))?);
                }
                _ => {}
            }
        }
        Ok(wanted)
    }

    fn has(&self, event: &Event) -> bool {
        self.kind.is_none_or(|kind| kind == event.kind.as_str())
            && (self.pod.is_none() || self.pod.as_deref() == event.pod.as_deref())
    }
}

fn shown(read: &EventsRead, wanted: &Wanted) -> Value {
    let event = |event: &Event| {
        let at = timestamp(event.at.into());
        let (kind, pod) = (event.kind.as_str(), event.pod.as_deref());
        json!({"number": event.number, "at": at, "kind": kind, "pod": pod, "says": &*event.says})
    };
    let events = read.events.iter().filter(|event| wanted.has(event)).map(event);
    json!({"last": read.last, "missed": read.missed, "events": events.collect::<Value>()})
}

/// A time to the millisecond, always of the same length.
fn timestamp(at: OffsetDateTime) -> String {
    let (date, (hour, minute, second, milli)) = (at.date(), at.time().as_hms_milli());
    format!("{date}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}
