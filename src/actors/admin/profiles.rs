//! `/debug/pprof`: profiles of processor time and of the memory in use (docs/spec/controlplane.md 7.1).

#[cfg(test)]
mod tests;

use std::{
    io::{self, Write},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{StatusCode, request::Parts};
use prost::Message;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc},
    time::{Instant, sleep, timeout},
};

use super::http::{Answer, Chunk, body, empty, query, streamed, text};
use crate::{
    protocols::pprof::{Kind, ProfileBuilder, ProfileHead, stands_for},
    sys::profiler::{
        cpu::{CpuProfile, CpuProfileError, CpuProfiler, DRAIN_INTERVAL},
        heap::{self, HEAP_PERIOD, HeapProfile, HeapProfileError},
        symbols::{self, Symbols},
    },
};

/// Limit: time of a processor profile: 300 s; past it: the request is refused.
const SECONDS: RangeInclusive<u32> = 1..=300;
/// Limit: samples of a processor profile for each second of processor time: 1000; past it: the request is refused.
const FREQUENCY: RangeInclusive<u32> = 1..=1000;
/// The time of a profile, unless the request says otherwise.
/// No limit: a default within `SECONDS`.
const DEFAULT_SECONDS: u32 = 10;
/// The frequency of a profile, unless the request says otherwise.
/// No limit: a default within `FREQUENCY`.
const DEFAULT_FREQUENCY: u32 = 100;
/// Limit: a piece of a processor profile: 32 KiB; past it: the piece is sent.
const PIECE_BYTES: usize = 32 * 1024;
/// Limit: pieces of a processor profile that wait for the reader: 2; past it: the rest waits.
const PIECES_WAITING: usize = 2;
/// Limit: time in which a reader has to take a piece of a processor profile: 10 s; past it: the profile is cut.
const PIECE_WITHIN: Duration = Duration::from_secs(10);

/// The media type of both profiles.
const PROTOBUF: &str = "application/octet-stream";
/// The allocator's own functions, which are the innermost of each stack of a heap profile.
const ALLOCATOR: &str =
    "(<|)warren::sys::profiler::.*|backtrace::.*|(<|)alloc::(alloc|raw_vec)::.*|.*__rust_.*alloc.*";

/// What takes profiles. A clone is cheap.
/// Limit: processor profiles, and answers with a heap profile, at a time: 1; past it: the answer is 409.
#[derive(Clone, Debug)]
pub struct Profiles {
    heap_turns: Arc<Semaphore>,
}

/// There is no profile.
#[derive(Debug, thiserror::Error)]
enum ProfileError {
    #[error("{name} is a whole number from {} to {}, not {value:?}", .range.start(), .range.end())]
    Number { name: &'static str, range: RangeInclusive<u32>, value: String },
    #[error("activate is true or false, not {0:?}")]
    Activate(String),
    #[error("a heap profile is being written already: try again when it is done")]
    HeapBusy,
    #[error(transparent)]
    Cpu(#[from] CpuProfileError),
    #[error(transparent)]
    Heap(#[from] HeapProfileError),
    #[error("cannot write the profile: {0}")]
    Write(#[from] io::Error),
    #[error("cannot write the profile: {0}")]
    Task(#[from] tokio::task::JoinError),
}

// === impl Profiles ===

impl Profiles {
    /// Answers what is below `/debug/`.
    pub(super) async fn answer(&self, request: &Parts) -> Answer {
        let parameters = query(request.uri.query().unwrap_or_default());
        let answered = match request.uri.path() {
            "/debug/pprof/profile" => cpu(&parameters),
            "/debug/pprof/heap" => self.heap().await,
            "/debug/pprof/heap/profiling" => switch(&parameters),
            _ => Ok(empty(StatusCode::NOT_FOUND)),
        };
        answered.unwrap_or_else(|error| text(error.status(), format!("{error}\n")))
    }

    /// The memory in use, compressed.
    async fn heap(&self) -> Result<Answer, ProfileError> {
        let Ok(turn) = self.heap_turns.clone().try_acquire_owned() else {
            return Err(ProfileError::HeapBusy);
        };
        let written = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let message = of_heap(&heap::profile()?).encode_to_vec();
            let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
            gzip.write_all(&message)?;
            Ok::<_, ProfileError>(gzip.finish()?)
        });
        Ok(body(StatusCode::OK, PROTOBUF, written.await??))
    }
}

impl Default for Profiles {
    fn default() -> Self {
        Self { heap_turns: Arc::new(Semaphore::new(1)) }
    }
}

// === impl ProfileError ===

impl ProfileError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Number { .. } | Self::Activate(_) => StatusCode::BAD_REQUEST,
            Self::HeapBusy | Self::Cpu(CpuProfileError::Busy) => StatusCode::CONFLICT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// Processor time. The answer begins at once and ends with the profile.
fn cpu(parameters: &[(String, String)]) -> Result<Answer, ProfileError> {
    let seconds = number(parameters, "seconds", SECONDS)?.unwrap_or(DEFAULT_SECONDS);
    let frequency = number(parameters, "frequency", FREQUENCY)?.unwrap_or(DEFAULT_FREQUENCY);
    let profiler = CpuProfiler::start(frequency)?;
    tracing::info!(target: "admin", seconds, frequency, "taking a processor profile");
    let (reader, pieces) = mpsc::channel(PIECES_WAITING);
    let (runtime, until) = (Handle::current(), Instant::now() + Duration::from_secs(seconds.into()));
    // The thread ends by itself: each piece has its time. Nobody waits for the thread.
    drop(tokio::task::spawn_blocking(move || {
        let taken = runtime.block_on(sampled(profiler, until, &reader));
        let Some(profile) = taken else {
            return tracing::info!(target: "admin", "the reader of a processor profile is gone");
        };
        let message = Bytes::from(of_cpu(&profile, frequency).encode_to_vec());
        if !runtime.block_on(send(message, &reader)) {
            tracing::info!(target: "admin", "the reader of a processor profile is gone or too slow");
        }
    }));
    Ok(streamed(PROTOBUF, pieces))
}

/// Samples until a time. `None` if the reader goes away before.
async fn sampled(
    mut profiler: CpuProfiler,
    until: Instant,
    reader: &mpsc::Sender<Chunk>,
) -> Option<CpuProfile> {
    while Instant::now() < until {
        tokio::select! {
            () = reader.closed() => return None,
            () = sleep(DRAIN_INTERVAL) => profiler.drain(),
        }
    }
    Some(profiler.finish())
}

/// Sends a message in pieces. False if the reader is gone or too slow.
async fn send(mut message: Bytes, reader: &mpsc::Sender<Chunk>) -> bool {
    while !message.is_empty() {
        let piece = message.split_to(message.len().min(PIECE_BYTES));
        if !matches!(timeout(PIECE_WITHIN, reader.send(Chunk::Bytes(piece))).await, Ok(Ok(()))) {
            return false;
        }
    }
    matches!(timeout(PIECE_WITHIN, reader.send(Chunk::End)).await, Ok(Ok(())))
}

/// Shows or switches heap profiling.
fn switch(parameters: &[(String, String)]) -> Result<Answer, ProfileError> {
    match value(parameters, "activate") {
        None => {}
        Some(wanted @ ("true" | "false")) => {
            heap::activate(wanted == "true")?;
            tracing::info!(target: "admin", active = wanted, "heap profiling");
        }
        Some(other) => return Err(ProfileError::Activate(other.to_owned())),
    }
    Ok(text(StatusCode::OK, format!("heap profiling active: {}\n", heap::is_active())))
}

fn value<'a>(parameters: &'a [(String, String)], wanted: &str) -> Option<&'a str> {
    parameters.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
}

fn number(
    parameters: &[(String, String)],
    name: &'static str,
    range: RangeInclusive<u32>,
) -> Result<Option<u32>, ProfileError> {
    let Some(given) = value(parameters, name) else { return Ok(None) };
    let number = given.parse().ok().filter(|number| range.contains(number));
    number.map(Some).ok_or_else(|| ProfileError::Number { name, range, value: given.to_owned() })
}

/// The message of a processor profile.
fn of_cpu(profile: &CpuProfile, frequency: u32) -> crate::protocols::pb::profile::Profile {
    const TIME: Kind = ("cpu", "nanoseconds");
    let samples: u64 = profile.stacks.iter().map(|stack| stack.count).sum();
    // A kernel with rare ticks takes fewer samples than were asked for: what the threads used is shared among them.
    let each = profile.used.as_nanos() as f64 / samples.max(1) as f64;
    let head = ProfileHead {
        kinds: [("samples", "count"), TIME],
        period: (TIME, 1_000_000_000 / u64::from(frequency)),
        taken: profile.taken.0,
        duration: profile.taken.1,
        code: symbols::program(),
        left_out: "",
        comments: comments(profile.lost, None),
    };
    let symbols = Symbols::new();
    let mut builder = ProfileBuilder::new(head, |address| symbols.resolve(address));
    for stack in &profile.stacks {
        let values = [stack.count.cast_signed(), (stack.count as f64 * each) as i64];
        builder.add(&stack.addresses, values, Some(&stack.thread));
    }
    builder.finish()
}

/// The message of a heap profile.
fn of_heap(profile: &HeapProfile) -> crate::protocols::pb::profile::Profile {
    let head = ProfileHead {
        kinds: [("inuse_objects", "count"), ("inuse_space", "bytes")],
        period: (("space", "bytes"), HEAP_PERIOD as u64),
        taken: std::time::SystemTime::now(),
        duration: Duration::ZERO,
        code: symbols::program(),
        left_out: ALLOCATOR,
        comments: comments(profile.lost, OffsetDateTime::from(profile.since).format(&Rfc3339).ok()),
    };
    let symbols = Symbols::new();
    let mut builder = ProfileBuilder::new(head, |address| symbols.resolve(address));
    for (stack, sizes) in &profile.stacks {
        let add = |(objects, bytes): (f64, f64), size: &usize| {
            let (more, larger) = stands_for(*size, HEAP_PERIOD);
            (objects + more, bytes + larger)
        };
        let (objects, bytes) = sizes.iter().fold((0.0, 0.0), add);
        builder.add(stack, [objects.round() as i64, bytes.round() as i64], None);
    }
    builder.finish()
}

fn comments(lost: u64, since: Option<String>) -> Vec<String> {
    let mut comments =
        vec![format!("warren {} ({})", env!("CARGO_PKG_VERSION"), env!("WARREN_GIT_REVISION"))];
    comments.extend(since.map(|since| format!("what was allocated since {since}")));
    if lost > 0 {
        comments.push(format!("{lost} samples were left out for want of room"));
    }
    comments
}
