//! A pipe between a program's output and its log file, whose reader can be made slow.

use std::{
    fs::File,
    io::{self, PipeReader, PipeWriter, Read, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

/// The number of bytes that an open valve reads at once.
const READ_BYTES: u64 = 64 << 10;
/// The time from one read of a slow reader to its next.
const TURN: Duration = Duration::from_millis(100);
/// The number of such reads in a second.
const TURNS_A_SECOND: u64 = 10;

/// How fast the output of programs is read. All clones are one valve.
#[derive(Clone, Debug, Default)]
pub struct Valve(Arc<AtomicU64>);

// === impl Valve ===

impl Valve {
    /// Has the output read at this rate from now on.
    pub fn narrow(&self, bytes_a_second: u64) {
        self.0.store(bytes_a_second.max(TURNS_A_SECOND), Relaxed);
    }

    /// Has the output read as fast as it comes.
    pub fn open(&self) {
        self.0.store(0, Relaxed);
    }

    /// A pipe, whose reader copies to the end of `log` until every writer is gone.
    ///
    /// # Errors
    /// There is no pipe, or no thread for its reader.
    pub(super) fn pipe(&self, log: File) -> io::Result<PipeWriter> {
        let (reader, writer) = io::pipe()?;
        let valve = self.clone();
        // The thread ends with the last writer, which is the program.
        thread::Builder::new().name("lab-valve".to_owned()).spawn(move || valve.copy(reader, log))?;
        Ok(writer)
    }

    fn copy(&self, mut reader: PipeReader, mut log: File) {
        let mut bytes = Vec::new();
        loop {
            let rate = self.0.load(Relaxed);
            let most = if rate == 0 { READ_BYTES } else { (rate / TURNS_A_SECOND).min(READ_BYTES) };
            bytes.resize(usize::try_from(most).unwrap_or(0), 0);
            match reader.read(&mut bytes) {
                Ok(0) => return,
                // A log that cannot be written is not a reason to stop the program.
                Ok(read) => drop(log.write_all(bytes.get(..read).unwrap_or_default())),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
            if rate > 0 {
                thread::park_timeout(TURN);
            }
        }
    }
}
