//! What a thread that is confined may still do. Each test has a thread of its own, since nothing is given back.

use std::{collections::BTreeMap, fs, io, thread};

use super::{KEPT, confine};
use crate::protocols::config::SeccompMode;

/// What the calling thread's status says, by field.
fn status() -> BTreeMap<String, String> {
    let text = fs::read_to_string("/proc/thread-self/status").unwrap();
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

fn on_thread<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(run).join().unwrap())
}

#[test]
fn a_confined_thread_has_the_capabilities_it_needs_no_new_privileges_and_a_filter() {
    for (mode, filtered) in [(SeccompMode::Enforce, "2"), (SeccompMode::Log, "2"), (SeccompMode::Off, "0")] {
        let (before, status, child) = on_thread(|| {
            let before = status();
            confine(mode).unwrap();
            (before, status(), on_thread(status))
        });
        let needed = KEPT.iter().fold(0, |set, capability| set | capability.bitmask());
        let permitted = u64::from_str_radix(&before["CapPrm"], 16).unwrap();
        let kept = format!("{:016x}", permitted & needed);
        for status in [&status, &child] {
            let seen = ["CapPrm", "CapEff", "CapInh", "CapAmb"].map(|name| status[name].as_str());
            let none = "0000000000000000";
            assert_eq!(seen, [&kept, &kept, none, none]);
            assert_eq!((status["NoNewPrivs"].as_str(), status["Seccomp"].as_str()), ("1", filtered));
        }
    }
}

/// The error of a raw system call, if there is one.
fn call(number: libc::c_long, args: [libc::c_long; 3]) -> Option<i32> {
    // SAFETY: the calls of these tests take integers and null pointers, which the kernel checks.
    let answer = unsafe { libc::syscall(number, args[0], args[1], args[2]) };
    (answer < 0).then(|| io::Error::last_os_error().raw_os_error().unwrap())
}

/// Calls that the proxy never makes, or never with these arguments. Without a filter each would succeed or fail
/// otherwise.
fn forbidden() -> Vec<(&'static str, libc::c_long, [libc::c_long; 3])> {
    let long = |flags: libc::c_int| libc::c_long::from(flags);
    vec![
        ("execve", libc::SYS_execve, [0, 0, 0]),
        ("execveat", libc::SYS_execveat, [-1, 0, 0]),
        ("ptrace", libc::SYS_ptrace, [-1, 0, 0]),
        ("process_vm_readv", libc::SYS_process_vm_readv, [0, 0, 0]),
        ("bpf", libc::SYS_bpf, [-1, 0, 0]),
        ("mount", libc::SYS_mount, [0, 0, 0]),
        ("unshare", libc::SYS_unshare, [long(libc::CLONE_FS), 0, 0]),
        ("keyctl", libc::SYS_keyctl, [0, 0, 0]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [1, 0, 0]),
        ("perf_event_open", libc::SYS_perf_event_open, [0, 0, 0]),
        ("init_module", libc::SYS_init_module, [0, 0, 0]),
        ("kill", libc::SYS_kill, [1, 0, 0]),
        ("a new process", libc::SYS_clone, [long(libc::SIGCHLD), 0, 0]),
        ("clone3", libc::SYS_clone3, [0, 0, 0]),
        ("a mount namespace", libc::SYS_setns, [-1, long(libc::CLONE_NEWNS), 0]),
        ("any namespace", libc::SYS_setns, [-1, 0, 0]),
        ("a packet socket", libc::SYS_socket, [long(libc::AF_PACKET), long(libc::SOCK_RAW), 0]),
        ("a raw socket", libc::SYS_socket, [long(libc::AF_INET), long(libc::SOCK_RAW), 1]),
        ("a vsock", libc::SYS_socket, [long(libc::AF_VSOCK), long(libc::SOCK_STREAM), 0]),
        (
            "another netlink",
            libc::SYS_socket,
            [long(libc::AF_NETLINK), long(libc::SOCK_RAW), long(libc::NETLINK_AUDIT)],
        ),
        (
            "code that can be written",
            libc::SYS_mprotect,
            [0, 0, long(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC)],
        ),
        (
            "a file to write",
            libc::SYS_openat,
            [long(libc::AT_FDCWD), c"/dev/null".as_ptr() as libc::c_long, long(libc::O_WRONLY)],
        ),
        ("another's limits", libc::SYS_prlimit64, [1, 0, 0]),
        ("input for the terminal", libc::SYS_ioctl, [-1, libc::TIOCSTI as libc::c_long, 0]),
    ]
}

#[test]
fn the_filter_refuses_what_the_proxy_never_calls_as_if_the_kernel_had_no_such_call() {
    on_thread(|| {
        confine(SeccompMode::Enforce).unwrap();
        for (name, number, args) in forbidden() {
            assert_eq!(call(number, args), Some(libc::ENOSYS), "{name}");
        }
    });
}

#[test]
fn a_filter_that_logs_refuses_nothing() {
    let foreign = (libc::SYS_setns, [-1, libc::c_long::from(libc::CLONE_NEWNS), 0]);
    let answer = on_thread(|| {
        confine(SeccompMode::Log).unwrap();
        call(foreign.0, foreign.1)
    });
    assert_eq!(answer, Some(libc::EBADF));
}

#[test]
fn a_confined_thread_reads_files_makes_sockets_and_starts_threads() {
    on_thread(|| {
        confine(SeccompMode::Enforce).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        thread::spawn(move || std::net::TcpStream::connect(to).unwrap()).join().unwrap();
        listener.accept().unwrap();
        assert!(fs::read_dir("/proc/self/fd").unwrap().count() > 0);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let found = runtime.block_on(tokio::net::lookup_host(("localhost", 1)));
        assert!(found.unwrap().count() > 0);
    });
}
