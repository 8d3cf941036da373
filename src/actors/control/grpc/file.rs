//! Reads of small files, one for each connection or request.

use std::{io, path::Path, time::Duration};

/// Limit: reading a token or root file: 5 s; past it: the attempt fails.
const FILE_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads a small file. A slow file system does not block the runtime.
pub(super) async fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || std::fs::read(path));
    match tokio::time::timeout(FILE_TIMEOUT, read).await {
        Ok(Ok(result)) => result,
        Ok(Err(e)) => Err(io::Error::other(e)),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the file system does not answer")),
    }
}
