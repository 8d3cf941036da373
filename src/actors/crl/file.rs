//! The file of revocation lists: bounded reads, and when a change counts.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};

/// The largest file. A ConfigMap holds at most 1 MiB.
/// Limit: file of revocation lists: 4 MiB; past it: the file is refused, and the lists in force stay.
const MAX_FILE: u64 = 4 << 20;
/// The time between two looks at the file.
/// Limit: time between two looks at the file of revocation lists: 500 ms; past it: the file is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// The time for which a changed file must stay as it is before it is read.
/// Limit: rest of a changed file of revocation lists before it is read: 2 s; past it: the file is read.
const DEBOUNCE: Duration = Duration::from_secs(2);
/// Limit: reading the file of revocation lists: 5 s; past it: the read failed, and the lists in force stay.
const READ_WITHIN: Duration = Duration::from_secs(5);

/// The signs by which a change of the file shows; `None` if there is no file. A look follows symbolic links, so a
/// ConfigMap's swap of its link shows as another inode.
pub(super) type Stamp = Option<Signs>;

/// The signs of a file that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Signs {
    pub(super) inode: (u64, u64),
    pub(super) size: u64,
    pub(super) modified: (i64, i64),
    pub(super) changed: (i64, i64),
}

/// Tells when a changed file has come to rest.
#[derive(Debug)]
pub(super) struct Debounce {
    read: Stamp,
    /// The stamp that differs from the file that was read, and since when.
    changed: Option<(Stamp, Instant)>,
}

/// The watch for changes of one file.
pub(super) struct Watch {
    path: PathBuf,
    debounce: Debounce,
}

/// The stamp of the file as it is now.
pub(super) async fn stamp(path: &Path) -> Stamp {
    let path = path.to_owned();
    let signs = |file: fs::Metadata| Signs {
        inode: (file.dev(), file.ino()),
        size: file.len(),
        modified: (file.mtime(), file.mtime_nsec()),
        changed: (file.ctime(), file.ctime_nsec()),
    };
    // A file system that hangs holds one thread: the next look waits for this one.
    spawn_blocking(move || fs::metadata(path)).await.ok()?.ok().map(signs)
}

/// Reads the file, if it is not too large.
pub(super) async fn read(path: &Path) -> io::Result<Vec<u8>> {
    let path = path.to_owned();
    let reading = spawn_blocking(move || {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the file has more than 4 MiB"));
        }
        Ok(bytes)
    });
    match timeout(READ_WITHIN, reading).await {
        Ok(Ok(read)) => read,
        Ok(Err(error)) => Err(io::Error::other(error)),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the file system does not answer")),
    }
}

// === impl Debounce ===

impl Debounce {
    /// Begins with the stamp of a file that has been read.
    pub(super) fn new(read: Stamp) -> Self {
        Self { read, changed: None }
    }

    /// Notes the stamp of the file at `now`. Returns whether the file is to be read: it has changed and come to rest.
    pub(super) fn look(&mut self, stamp: Stamp, now: Instant) -> bool {
        if stamp == self.read {
            self.changed = None;
            return false;
        }
        match self.changed {
            Some((changed, since)) if changed == stamp => {
                let rests = now.saturating_duration_since(since) >= DEBOUNCE;
                if rests {
                    (self.read, self.changed) = (stamp, None);
                }
                rests
            }
            _ => {
                self.changed = Some((stamp, now));
                false
            }
        }
    }
}

// === impl Watch ===

impl Watch {
    /// A watch of `path`, whose file had the stamp `read` before it was read.
    pub(super) fn new(path: &Path, read: Stamp) -> Self {
        Self { path: path.to_owned(), debounce: Debounce::new(read) }
    }

    /// Waits until the file has changed and come to rest, and reads the file.
    pub(super) async fn changed(&mut self) -> io::Result<Vec<u8>> {
        loop {
            sleep(LOOK_INTERVAL).await;
            let stamp = stamp(&self.path).await;
            if self.debounce.look(stamp, Instant::now()) {
                return read(&self.path).await;
            }
        }
    }
}
