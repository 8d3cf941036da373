//! The panic hook's record of a panic: its place and its backtrace.

use std::{backtrace::Backtrace, cell::RefCell, panic::PanicHookInfo};

/// The number of frames kept of a backtrace.
/// Limit: frames of a backtrace in a crash report: 48; past it: the backtrace is cut.
const MAX_FRAMES: usize = 48;
/// The number of characters kept of a frame.
/// Limit: one frame in a crash report: 200 characters; past it: the frame is cut.
const FRAME_CHARS: usize = 200;

thread_local! {
    static LATEST: RefCell<Option<Panic>> = const { RefCell::new(None) };
}

/// The panic hook's record of a panic.
#[derive(Debug)]
pub(crate) struct Panic {
    location: String,
    backtrace: Backtrace,
}

/// Records the place of this thread's panic for the report. The process's panic hook calls this function, which looks
/// no symbols up.
pub fn note_panic(info: &PanicHookInfo<'_>) {
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    let panic = Panic { location, backtrace: Backtrace::force_capture() };
    LATEST.with(|latest| latest.replace(Some(panic)));
}

/// Takes the panic hook's latest record of this thread.
pub(crate) fn take_panic() -> Option<Panic> {
    LATEST.with(RefCell::take)
}

impl Panic {
    /// The file, line and column of the panic.
    pub(super) fn location(&self) -> &str {
        &self.location
    }

    /// The backtrace as text. The lookup of the symbols takes tens of milliseconds.
    pub(super) fn backtrace(&self) -> String {
        self.backtrace.to_string()
    }
}

/// The frames of a backtrace's text, one per line, without the panic's own frames.
pub(crate) fn frames(text: &str) -> Vec<String> {
    let mut frames: Vec<String> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(place) = line.strip_prefix("at ") {
            if let Some(frame) = frames.last_mut() {
                *frame = cut(&format!("{frame} at {}", relative(place)), FRAME_CHARS);
            }
        } else if let Some((_, name)) = line.split_once(": ") {
            // The innermost frames belong to the hook and to the panic itself. The outer frames that catch panics
            // stay.
            let machinery = [
                "core::panicking::",
                "std::panicking::begin_panic",
                "rust_begin_unwind",
                "__rustc::rust_begin",
            ];
            if machinery.iter().any(|start| name.starts_with(start)) && frames.len() < MAX_FRAMES {
                frames.clear();
            } else if frames.len() < MAX_FRAMES {
                frames.push(cut(name, FRAME_CHARS));
            } else {
                break;
            }
        }
    }
    frames
}

/// The path of a place of this crate, from the crate's root on.
fn relative(place: &str) -> &str {
    place
        .find("/src/")
        .and_then(|at| place.get(at + 1..))
        .filter(|_| !place.contains("/.cargo/"))
        .unwrap_or(place)
}

/// The first `chars` characters of `text`.
pub(super) fn cut(text: &str, chars: usize) -> String {
    text.char_indices().nth(chars).and_then(|(at, _)| text.get(..at)).unwrap_or(text).to_owned()
}
