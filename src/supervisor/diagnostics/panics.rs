//! What the panic hook saw: where a thread panicked, and the way there.

use std::{backtrace::Backtrace, cell::RefCell, panic::PanicHookInfo};

/// Frames kept of a backtrace.
/// Limit: frames of a backtrace in a crash report: 48; past it: the backtrace is cut.
const MAX_FRAMES: usize = 48;
/// Characters kept of a frame.
/// Limit: one frame in a crash report: 200 characters; past it: the frame is cut.
const FRAME_CHARS: usize = 200;

thread_local! {
    static LATEST: RefCell<Option<Panic>> = const { RefCell::new(None) };
}

/// What the hook saw of a panic.
#[derive(Debug)]
pub(crate) struct Panic {
    location: String,
    backtrace: Backtrace,
}

/// Keeps where this thread panics, for the report. The process's panic hook calls this; symbols are not looked up here.
pub fn note_panic(info: &PanicHookInfo<'_>) {
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    let panic = Panic { location, backtrace: Backtrace::force_capture() };
    LATEST.with(|latest| latest.replace(Some(panic)));
}

/// What the hook saw last on this thread.
pub(crate) fn take_panic() -> Option<Panic> {
    LATEST.with(RefCell::take)
}

impl Panic {
    /// File, line and column.
    pub(super) fn location(&self) -> &str {
        &self.location
    }

    /// The backtrace as text. Looking the symbols up takes tens of milliseconds.
    pub(super) fn backtrace(&self) -> String {
        self.backtrace.to_string()
    }
}

/// The frames of a backtrace's text, a line each, from below the machinery of the panic.
pub(crate) fn frames(text: &str) -> Vec<String> {
    let mut frames: Vec<String> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(place) = line.strip_prefix("at ") {
            if let Some(frame) = frames.last_mut() {
                *frame = cut(&format!("{frame} at {}", relative(place)), FRAME_CHARS);
            }
        } else if let Some((_, name)) = line.split_once(": ") {
            // The innermost frames are the hook's and the panic's own. What catches panics, further out, is not meant.
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

/// A place of this crate from its root on.
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
