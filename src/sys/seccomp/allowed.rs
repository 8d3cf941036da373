//! The system calls that the proxy makes, and the arguments of those that could do harm with others.

use seccompiler::{
    BackendError, SeccompCmpArgLen::Dword, SeccompCmpOp, SeccompCmpOp::Eq, SeccompCmpOp::MaskedEq,
    SeccompCondition, SeccompRule,
};

/// The calls of all processors that may have any arguments.
const COMMON: &[libc::c_long] = &[
    // Files that are open, and where they are.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_statfs,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_pipe2,
    libc::SYS_splice,
    // The socket of the hand-over, which replaces the former process's by a rename (docs/upgrades.md).
    libc::SYS_fchmodat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
    // Waiting.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
    libc::SYS_futex,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    // Sockets.
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvmmsg,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    // Threads and signals.
    libc::SYS_clone3,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_set_tid_address,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Time, chance, and who and where the process is.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrusage,
    libc::SYS_capget,
    libc::SYS_sysinfo,
    libc::SYS_uname,
];

/// The older names of calls, by which libraries make them on x86-64.
#[cfg(target_arch = "x86_64")]
const OLDER: &[libc::c_long] = &[
    libc::SYS_access,
    libc::SYS_arch_prctl,
    libc::SYS_chmod,
    libc::SYS_dup2,
    libc::SYS_epoll_wait,
    libc::SYS_getrlimit,
    libc::SYS_lstat,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_stat,
    libc::SYS_time,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[libc::c_long] = &[];

/// The calls that a filter of their own refuses without a line of the kernel's log. Libraries start threads by clone3(2),
/// whose flags are out of a filter's reach, and fall back to clone(2).
pub(super) const REFUSED_IN_SILENCE: &[libc::c_long] = &[libc::SYS_clone3];

/// The operations of prctl(2): names of threads and memory, and what the process may do.
const PRCTL: &[libc::c_int] = &[
    libc::PR_SET_NAME,
    libc::PR_GET_NAME,
    libc::PR_SET_VMA,
    libc::PR_GET_DUMPABLE,
    libc::PR_SET_THP_DISABLE,
    libc::PR_GET_THP_DISABLE,
    libc::PR_GET_NO_NEW_PRIVS,
    libc::PR_CAPBSET_READ,
];

/// The operations of ioctl(2): on descriptors, terminals that the log is written to, names of interfaces, and namespaces
/// of sockets.
const IOCTL: &[libc::Ioctl] = &[
    libc::FIONBIO,
    libc::FIOCLEX,
    libc::FIONREAD,
    libc::TIOCOUTQ,
    libc::TCGETS,
    libc::TIOCGWINSZ,
    libc::SIOCGIFFLAGS,
    libc::SIOCGIFINDEX,
    libc::SIOCGIFNAME,
    libc::SIOCGSKNS,
];

/// The protocols of netlink: interfaces and addresses, and news of rules.
const NETLINK: &[libc::c_int] = &[libc::NETLINK_ROUTE, libc::NETLINK_NETFILTER];

/// The flags of an open that makes or changes a file.
const WRITES: libc::c_int = libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC;

/// The flags of clone(2) that a thread has, and those of new namespaces.
const THREAD: libc::c_int = libc::CLONE_VM | libc::CLONE_THREAD;
const NAMESPACES: libc::c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

/// A condition on the low half of an argument.
struct Argument {
    index: u8,
    operator: SeccompCmpOp,
    value: u64,
}

/// All calls that may have any arguments.
pub(super) fn always() -> impl Iterator<Item = libc::c_long> {
    COMMON.iter().chain(OLDER).copied()
}

/// The calls that may have certain arguments only: each with the rules of which one has to hold.
///
/// # Errors
/// None, as long as the indexes of arguments are right.
pub(super) fn with_arguments() -> Result<Vec<(libc::c_long, Vec<SeccompRule>)>, BackendError> {
    let (inet, inet6) = (libc::AF_INET, libc::AF_INET6);
    let kind = |kind: libc::c_int| masked(1, 0xF, kind);
    let internet = [inet, inet6].into_iter().flat_map(|family| {
        [libc::SOCK_STREAM, libc::SOCK_DGRAM].map(|of| vec![equal(0, family), kind(of)]) //
    });
    let netlink = NETLINK.iter().map(|protocol| vec![equal(0, libc::AF_NETLINK), equal(2, *protocol)]);
    let unix = || vec![equal(0, libc::AF_UNIX)];
    let ioctl =
        IOCTL.iter().map(|operation| vec![Argument { index: 1, operator: Eq, value: low(*operation) }]);
    // Memory is written to or executed, never both.
    let pages = || vec![vec![masked(2, libc::PROT_EXEC, 0)], vec![masked(2, libc::PROT_WRITE, 0)]];
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let mut calls = vec![
        (libc::SYS_clone, vec![vec![masked(0, THREAD | NAMESPACES, THREAD)]]),
        (libc::SYS_setns, vec![vec![equal(1, libc::CLONE_NEWNET)]]),
        (libc::SYS_socket, internet.chain(netlink).chain([unix()]).collect()),
        (libc::SYS_socketpair, vec![unix()]),
        (libc::SYS_mmap, pages()),
        (libc::SYS_mprotect, pages()),
        (libc::SYS_openat, vec![vec![masked(2, WRITES, 0)]]),
        (libc::SYS_prctl, PRCTL.iter().map(|operation| vec![equal(0, *operation)]).collect()),
        (libc::SYS_ioctl, ioctl.collect()),
        (libc::SYS_setitimer, vec![vec![equal(0, libc::ITIMER_PROF)]]),
        (libc::SYS_prlimit64, vec![vec![equal(0, 0)]]),
        (libc::SYS_tgkill, vec![vec![equal(0, own)]]),
    ];
    #[cfg(target_arch = "x86_64")]
    calls.extend([
        (libc::SYS_open, vec![vec![masked(1, WRITES, 0)]]),
        (libc::SYS_setrlimit, vec![vec![equal(0, libc::RLIMIT_NOFILE.cast_signed())]]),
    ]);
    calls
        .into_iter()
        .map(|(call, rules)| Ok((call, rules.into_iter().map(rule).collect::<Result<_, _>>()?)))
        .collect()
}

fn equal(index: u8, value: libc::c_int) -> Argument {
    Argument { index, operator: Eq, value: u64::from(value.cast_unsigned()) }
}

fn masked(index: u8, mask: libc::c_int, value: libc::c_int) -> Argument {
    let operator = MaskedEq(u64::from(mask.cast_unsigned()));
    Argument { operator, ..equal(index, value) }
}

/// The low half of an operation's number.
fn low(operation: libc::Ioctl) -> u64 {
    operation & u64::from(u32::MAX)
}

fn rule(arguments: Vec<Argument>) -> Result<SeccompRule, BackendError> {
    let condition =
        |Argument { index, operator, value }| SeccompCondition::new(index, Dword, operator, value);
    SeccompRule::new(arguments.into_iter().map(condition).collect::<Result<_, _>>()?)
}
