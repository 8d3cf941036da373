//! Network interfaces.

use std::{ffi::CStr, io, mem, os::fd::RawFd};

/// The name of a network interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interface([libc::c_char; libc::IFNAMSIZ]);

// === impl Interface ===

impl Interface {
    /// Makes the name; `None` if no interface can have the name.
    pub(super) fn named(name: &CStr) -> Option<Self> {
        let mut padded = [0; libc::IFNAMSIZ];
        let bytes = name.to_bytes_with_nul();
        padded.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from as libc::c_char);
        (bytes.len() <= padded.len()).then_some(Self(padded))
    }

    /// Whether the interface is up and has a carrier, in the namespace of `socket`.
    pub(super) fn is_up(self, socket: RawFd) -> io::Result<bool> {
        // SAFETY: zeroes are a valid value of this structure of integers and a union of such.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        request.ifr_name = self.0;
        // SAFETY: the request outlives the call, which sets its flags.
        if unsafe { libc::ioctl(socket, libc::SIOCGIFFLAGS as _, &raw mut request) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has set the flags.
        let flags = i32::from(unsafe { request.ifr_ifru.ifru_flags });
        let wanted = libc::IFF_UP | libc::IFF_RUNNING;
        Ok(flags & wanted == wanted)
    }
}
