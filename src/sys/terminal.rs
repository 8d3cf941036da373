//! The terminal that the program writes to.

use std::os::fd::{AsRawFd, BorrowedFd};

/// The number of columns of a terminal. `None` if `output` is no terminal, or the terminal does not say.
pub(crate) fn columns(output: BorrowedFd<'_>) -> Option<usize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the call writes a `winsize`, which `size` is.
    let answered = unsafe { libc::ioctl(output.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (answered == 0 && size.ws_col > 0).then(|| size.ws_col.into())
}
