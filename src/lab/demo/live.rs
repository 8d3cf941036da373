//! A live connection: one echo per millisecond, and the moment of its end.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use super::demo_mesh::{SOON, text};
use crate::lab::{
    apps::{AppError, Background, Route, Stop, background_thread},
    node::wait,
};

const PACE: Duration = Duration::from_millis(1);
const MESSAGE_BYTES: usize = 64;
/// The number of answers after which a connection counts as live.
const ENOUGH: u64 = 10;

/// An echo connection that another part of the demo may cut.
#[derive(Debug)]
pub(super) struct Live {
    background: Background<io::Result<Ended>>,
    answered: Arc<AtomicU64>,
}

/// The end of a live connection.
#[derive(Debug)]
pub(super) struct Ended {
    /// The time when the client noticed the end; none if only the demo itself ended the connection.
    pub(super) at: Option<Instant>,
    /// The number of answers until then.
    pub(super) answered: u64,
    /// The client's view of the end.
    pub(super) how: String,
}

// === impl Live ===

impl Live {
    /// Connects, and waits for the first answers.
    pub(super) fn open(route: &Route) -> Result<Self, String> {
        let (to, answered) = (route.to, Arc::new(AtomicU64::new(0)));
        let counted = answered.clone();
        let talk = move |stop: Stop| {
            let mut stream = TcpStream::connect_timeout(&to, SOON)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(SOON))?;
            Ok(talk(&mut stream, &counted, &stop))
        };
        let background = background_thread(&route.from, talk).map_err(text)?;
        let live = Self { background, answered };
        let is_live = wait(SOON, || match live.answered.load(Relaxed) {
            0..ENOUGH if live.background.is_finished() => Ok(false),
            0..ENOUGH => Err("a live connection gets no answers".to_owned()),
            _ => Ok(true),
        })?;
        if is_live { Ok(live) } else { live.end().and_then(|ended| Err(ended.how)) }
    }

    /// Waits until the connection is cut, or ends it after a while, and describes the end.
    pub(super) fn end(self) -> Result<Ended, String> {
        // A connection that is not cut by then is ended here, and its result tells that.
        let _ = wait(SOON, || if self.background.is_finished() { Ok(()) } else { Err(String::new()) });
        self.background.finish().map_err(|error: AppError| text(error))?.map_err(text)
    }
}

fn talk(stream: &mut TcpStream, answered: &AtomicU64, stop: &Stop) -> Ended {
    let mut answer = [0; MESSAGE_BYTES];
    for number in 0_u64.. {
        if stop.is_stopped() {
            break;
        }
        let mut message = [0x5a; MESSAGE_BYTES];
        for (place, byte) in message.iter_mut().zip(number.to_le_bytes()) {
            *place = byte;
        }
        let exchange = stream.write_all(&message).and_then(|()| stream.read_exact(&mut answer));
        let at = Some(Instant::now());
        let ended = |how: String| Ended { at, answered: answered.load(Relaxed), how };
        match exchange {
            Ok(()) if answer == message => answered.fetch_add(1, Relaxed),
            Ok(()) => return ended(format!("answer {number} is not what was sent")),
            Err(error) => return ended(error.to_string()),
        };
        thread::park_timeout(PACE);
    }
    Ended { at: None, answered: answered.load(Relaxed), how: "it went on and on".to_owned() }
}
