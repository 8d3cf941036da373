//! System calls of the lab that neither std nor socket2 wraps: namespaces, waiting for signals, packet sockets.

use std::{
    ffi::CString,
    io, mem,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::Command,
    ptr,
    time::Duration,
};

/// The kinds of namespace that the lab enters or leaves, combinable with `|`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespaces(libc::c_int);

/// A file that a started process sees in place of another file.
#[derive(Clone, Debug)]
pub struct Bind {
    /// The file to show.
    pub source: CString,
    /// The path at which `source` is shown. The path must exist.
    pub target: CString,
}

/// The steps of a started process between fork and exec.
#[derive(Debug, Default)]
pub struct OnExec {
    /// The network namespace to enter.
    pub network: Option<OwnedFd>,
    /// Whether the process is killed when the starting *thread* ends.
    pub die_with_parent: bool,
    /// Whether the process leads a new session, so that the terminal's Ctrl-C goes to the starter alone.
    pub new_session: bool,
    /// The files that are shown in place of others, in the process's own mount namespace.
    pub binds: Vec<Bind>,
    /// The numbers of the capabilities that the process does not get (capabilities(7)).
    pub without: Vec<libc::c_ulong>,
}

// === impl Namespaces ===

impl Namespaces {
    /// The network namespace.
    pub const NET: Self = Self(libc::CLONE_NEWNET);
    /// The namespace of users and capabilities.
    pub const USER: Self = Self(libc::CLONE_NEWUSER);
    /// The namespace of mounts.
    pub const MOUNT: Self = Self(libc::CLONE_NEWNS);
    /// The namespace of processes, which affects only the children of the caller.
    pub const PID: Self = Self(libc::CLONE_NEWPID);
}

impl std::ops::BitOr for Namespaces {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Moves the calling thread into new namespaces; [`Namespaces::USER`] needs a process of one thread.
pub fn unshare(kinds: Namespaces) -> io::Result<()> {
    // SAFETY: takes an integer only.
    check(unsafe { libc::unshare(kinds.0) })
}

/// Moves the calling thread into the namespace behind `fd`, which must be of kind `kind`.
pub fn enter(fd: BorrowedFd<'_>, kind: Namespaces) -> io::Result<()> {
    // SAFETY: `fd` is open for the duration of the call; the other argument is an integer.
    check(unsafe { libc::setns(fd.as_raw_fd(), kind.0) })
}

/// Hides the mounts of this mount namespace from other mount namespaces.
pub fn isolate_mounts() -> io::Result<()> {
    let (root, flags) = (c"/".as_ptr(), libc::MS_REC | libc::MS_PRIVATE);
    // SAFETY: the paths are NUL-terminated constants, and null is allowed for the type and data of such a call.
    check(unsafe { libc::mount(ptr::null(), root, ptr::null(), flags, ptr::null()) })
}

/// The effective user and group id of the process.
pub fn effective_ids() -> (u32, u32) {
    // SAFETY: neither has arguments nor can fail.
    unsafe { (libc::geteuid(), libc::getegid()) }
}

/// Makes `command` perform `plan` between fork and exec. The command unblocks the signals that the caller has
/// blocked.
pub fn on_exec(command: &mut Command, plan: OnExec) {
    let no_signals = signal_set(&[]);
    let run = move || {
        // SAFETY: `no_signals` is initialised; null says that the old mask is not wanted; async-signal-safe.
        check_code(unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &no_signals, ptr::null_mut()) })?;
        if plan.die_with_parent {
            // SAFETY: integers only; async-signal-safe.
            check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
        }
        if plan.new_session {
            // SAFETY: no arguments; async-signal-safe.
            check(unsafe { libc::setsid() })?;
        }
        for capability in &plan.without {
            // SAFETY: integers only; async-signal-safe.
            check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, *capability, 0, 0, 0) })?;
        }
        if !plan.binds.is_empty() {
            unshare(Namespaces::MOUNT)?;
            isolate_mounts()?;
        }
        for bind in &plan.binds {
            let (from, to) = (bind.source.as_ptr(), bind.target.as_ptr());
            // SAFETY: both are NUL-terminated and live in `plan`; null is allowed for a bind's type and data.
            check(unsafe { libc::mount(from, to, ptr::null(), libc::MS_BIND, ptr::null()) })?;
        }
        plan.network.as_ref().map_or(Ok(()), |fd| enter(std::os::fd::AsFd::as_fd(fd), Namespaces::NET))
    };
    // SAFETY: between fork and exec the closure makes system calls only; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(run) };
}

/// Blocks `signals` for the process, so that [`next_signal`] can fetch the signals. Call this before threads start.
pub fn block_signals(signals: &[i32]) -> io::Result<()> {
    let set = signal_set(signals);
    // SAFETY: `set` is initialised; null says that the old mask is not wanted.
    check_code(unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, ptr::null_mut()) })
}

/// Waits for one of `signals`, which must be blocked; `None` after `limit`.
pub fn next_signal(signals: &[i32], limit: Duration) -> io::Result<Option<i32>> {
    let set = signal_set(signals);
    let seconds = libc::time_t::try_from(limit.as_secs()).unwrap_or(libc::time_t::MAX);
    let limit = libc::timespec { tv_sec: seconds, tv_nsec: limit.subsec_nanos().into() };
    // SAFETY: `set` and `limit` are initialised; null says that the signal's details are not wanted.
    let signal = unsafe { libc::sigtimedwait(&set, ptr::null_mut(), &limit) };
    if signal > 0 {
        return Ok(Some(signal));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EINTR) => Ok(None),
        _ => Err(error),
    }
}

/// Sends `signal` to process `pid` (to its whole group when negative).
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::kill(pid, signal) })
}

/// Sends `signal` to the process whose directory under /proc is open as `process`. The signal never reaches a later
/// process with the same id. The call also works if /proc numbers processes in another namespace than the caller's.
pub fn signal_process(process: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let info = ptr::null::<libc::siginfo_t>();
    // SAFETY: `process` is open for the duration of the call; null says that the signal carries no details.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, info, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Duplicates descriptor `fd` of process `pid`. The call fails if `pid` or `fd` does not exist or the process is
/// foreign.
pub fn take_descriptor(pid: u32, fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: neither call takes memory of ours; a descriptor that is returned belongs to nobody else.
    unsafe {
        let process = libc::syscall(libc::SYS_pidfd_open, pid, 0) as libc::c_int;
        check(process)?;
        let process = OwnedFd::from_raw_fd(process);
        let taken = libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0) as libc::c_int;
        check(taken)?;
        Ok(OwnedFd::from_raw_fd(taken))
    }
}

/// Binds packet socket `socket` to the interface with index `interface` alone.
pub fn bind_packet_socket(socket: BorrowedFd<'_>, interface: i32) -> io::Result<()> {
    // SAFETY: all zeroes is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = interface;
    let length = mem::size_of_val(&address) as libc::socklen_t;
    // SAFETY: `address` is a sockaddr_ll of `length` bytes that outlives the call.
    check(unsafe { libc::bind(socket.as_raw_fd(), ptr::from_ref(&address).cast(), length) })
}

/// The number of packets that packet socket `socket` has dropped for lack of room since the last call.
pub fn packet_socket_drops(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut length = mem::size_of_val(&statistics) as libc::socklen_t;
    let (level, name) = (libc::SOL_PACKET, libc::PACKET_STATISTICS);
    // SAFETY: `statistics` has room for `length` bytes and both outlive the call.
    check(unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, ptr::from_mut(&mut statistics).cast(), &mut length)
    })?;
    Ok(statistics.tp_drops)
}

fn signal_set(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: all zeroes is a valid sigset_t, which sigemptyset then initialises; sigaddset takes an integer.
    unsafe {
        let mut set = mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in signals {
            libc::sigaddset(&mut set, *signal);
        }
        set
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn check_code(code: libc::c_int) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}
