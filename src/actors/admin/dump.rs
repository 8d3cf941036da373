//! `/config_dump`: written piece by piece on a thread of its own, so that neither its size nor its reader costs anybody
//! else.

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{StatusCode, request::Parts};
use serde_json::Value;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, timeout, timeout_at},
};

use super::http::{Answer, Chunk, JSON, query, streamed, text};

/// The size of a piece of a dump.
/// Limit: a piece of a dump: 32 KiB; past it: the piece is sent.
const CHUNK_BYTES: usize = 32 * 1024;
/// The number of pieces that wait for the reader.
/// Limit: pieces of a dump that wait for the reader: 2; past it: the dump waits.
const CHUNKS_WAITING: usize = 2;
/// Limit: time in which a reader has to take a piece of a dump: 10 s; past it: the dump is cut.
const CHUNK_WITHIN: Duration = Duration::from_secs(10);
/// Limit: time for a whole dump: 120 s; past it: the dump is cut.
const DUMP_WITHIN: Duration = Duration::from_secs(120);
/// Limit: time that a dump waits for the dump before it: 20 s; past it: the answer is 503.
const TURN_WITHIN: Duration = Duration::from_secs(20);

/// The part of the mesh that a dump is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DumpFilter {
    /// `namespace/name` of the only workload to show, with what concerns it.
    pub(crate) workload: Option<String>,
    /// A part of the name, address or identity of the only peers to show, where a section has peers.
    pub(crate) peer: Option<String>,
}

/// The content of a section. Lists and maps are made while they are written.
pub(crate) enum Content {
    /// One value.
    Value(Value),
    /// A list.
    List(Box<dyn Iterator<Item = Value>>),
    /// A map, whose keys are sorted.
    Map(Box<dyn Iterator<Item = (String, Value)>>),
}

/// Makes the content of a section. The call happens on the thread that writes the dump.
pub(crate) type Gather = Arc<dyn Fn(&DumpFilter) -> Content + Send + Sync>;

/// Says why there is nothing to show for a filter: names what does not exist and what does.
pub(crate) type Refuse = Arc<dyn Fn(&DumpFilter) -> Option<String> + Send + Sync>;

/// What `/config_dump` shows. A clone is cheap.
/// Limit: dumps at a time: 1; past it: the others wait.
#[derive(Clone)]
pub struct Dump {
    sections: Arc<[(&'static str, Gather)]>,
    refuse: Refuse,
    turns: Arc<Semaphore>,
    /// The time in which a reader has to take a piece.
    chunk_within: Duration,
}

/// The reader is gone, or too slow.
#[derive(Debug, thiserror::Error)]
#[error("the reader is gone or too slow")]
struct Cut;

/// Writes to the reader.
struct Writer {
    buffer: Vec<u8>,
    reader: mpsc::Sender<Chunk>,
    runtime: Handle,
    until: Instant,
    chunk_within: Duration,
}

// === impl Dump ===

impl Dump {
    /// A dump of `sections`, which are sorted by name.
    pub(crate) fn new(mut sections: Vec<(&'static str, Gather)>, refuse: Refuse) -> Self {
        sections.sort_by_key(|(name, _)| *name);
        let turns = Arc::new(Semaphore::new(1));
        Self { sections: sections.into(), refuse, turns, chunk_within: CHUNK_WITHIN }
    }

    /// Answers a request: all sections, or those that `?only=` names, of all workloads or of the one that `?workload=`
    /// names. Other parameters have no effect, because istioctl and Kiali may send some.
    pub(super) async fn answer(&self, request: &Parts) -> Answer {
        let parameters = query(request.uri.query().unwrap_or_default());
        let find = |wanted: &str| {
            let found = parameters.iter().find(|(name, value)| name == wanted && !value.is_empty());
            found.map(|(_, value)| value.clone())
        };
        let filter = DumpFilter { workload: find("workload"), peer: find("peer") };
        let sections = match self.chosen(find("only").as_deref()) {
            Ok(sections) => sections,
            Err(unknown) => return text(StatusCode::NOT_FOUND, unknown),
        };
        if let Some(refused) = (self.refuse)(&filter) {
            return text(StatusCode::NOT_FOUND, format!("{refused}\n"));
        }
        let Ok(Ok(turn)) = timeout(TURN_WITHIN, self.turns.clone().acquire_owned()).await else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "another dump is being written: try again\n");
        };
        let (reader, chunks) = mpsc::channel(CHUNKS_WAITING);
        let writer = Writer {
            buffer: Vec::with_capacity(CHUNK_BYTES * 2),
            reader,
            runtime: Handle::current(),
            until: Instant::now() + DUMP_WITHIN,
            chunk_within: self.chunk_within,
        };
        // The write ends by itself: each piece has its time. Nobody waits for the thread.
        drop(tokio::task::spawn_blocking(move || write(writer, &sections, &filter, turn)));
        streamed(JSON, chunks)
    }

    /// The sections that a list of names means; all sections without one.
    fn chosen(&self, only: Option<&str>) -> Result<Vec<(&'static str, Gather)>, String> {
        let Some(only) = only else { return Ok(self.sections.to_vec()) };
        let mut chosen = Vec::new();
        for wanted in only.split(',') {
            let Some(section) = self.sections.iter().find(|(name, _)| *name == wanted) else {
                let names: Vec<&str> = self.sections.iter().map(|(name, _)| *name).collect();
                return Err(format!("no section {wanted:?}; there are: {}\n", names.join(", ")));
            };
            chosen.push(section.clone());
        }
        chosen.sort_by_key(|(name, _)| *name);
        chosen.dedup_by_key(|(name, _)| *name);
        Ok(chosen)
    }
}

impl std::fmt::Debug for Dump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dump").finish_non_exhaustive()
    }
}

fn write(
    mut writer: Writer,
    sections: &[(&'static str, Gather)],
    filter: &DumpFilter,
    turn: OwnedSemaphorePermit,
) {
    let written = writer.sections(sections, filter).and_then(|()| writer.send(Chunk::End));
    if let Err(error) = written {
        tracing::debug!(target: "admin", %error, "a dump was cut");
    }
    drop(turn);
}

// === impl Writer ===

impl Writer {
    fn sections(&mut self, sections: &[(&'static str, Gather)], filter: &DumpFilter) -> Result<(), Cut> {
        self.put("{")?;
        for (index, (name, gather)) in sections.iter().enumerate() {
            self.put(if index == 0 { "\n  " } else { ",\n  " })?;
            self.put(&format!("\"{name}\": "))?;
            match gather(filter) {
                Content::Value(value) => self.value(&value, "  ")?,
                Content::List(values) => self.members(("[", "]"), values.map(|value| (None, value)))?,
                Content::Map(values) => {
                    self.members(("{", "}"), values.map(|(key, value)| (Some(key), value)))?;
                }
            }
        }
        self.put("\n}\n")?;
        self.flush()
    }

    /// Writes a list or a map, one member at a time.
    fn members(
        &mut self,
        brackets: (&str, &str),
        members: impl Iterator<Item = (Option<String>, Value)>,
    ) -> Result<(), Cut> {
        self.put(brackets.0)?;
        let mut any = false;
        for (key, value) in members {
            self.put(if any { ",\n    " } else { "\n    " })?;
            any = true;
            if let Some(key) = key {
                self.put(&format!("{}: ", Value::from(key)))?;
            }
            self.value(&value, "    ")?;
        }
        self.put(if any { "\n  " } else { "" })?;
        self.put(brackets.1)
    }

    /// Writes a value whose lines after the first are indented. JSON text holds line breaks only between its parts.
    fn value(&mut self, value: &Value, indent: &str) -> Result<(), Cut> {
        let mut lines = format!("{value:#}");
        if lines.contains('\n') {
            lines = lines.replace('\n', &format!("\n{indent}"));
        }
        self.put(&lines)
    }

    fn put(&mut self, text: &str) -> Result<(), Cut> {
        self.buffer.extend_from_slice(text.as_bytes());
        if self.buffer.len() < CHUNK_BYTES { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<(), Cut> {
        let chunk = Bytes::copy_from_slice(&self.buffer);
        self.buffer.clear();
        self.send(Chunk::Bytes(chunk))
    }

    fn send(&self, chunk: Chunk) -> Result<(), Cut> {
        let until = self.until.min(Instant::now() + self.chunk_within);
        let sent = self.runtime.block_on(async { timeout_at(until, self.reader.send(chunk)).await });
        sent.map_err(|_| Cut)?.map_err(|_| Cut)
    }
}
