use std::{fs::File, io::Read, os::fd::AsFd, os::unix::fs::MetadataExt};

use super::*;

/// Sends `bytes` with `count` copies of `fd`, which the public API cannot do.
fn send_many(socket: &SeqPacket, bytes: &[u8], fd: &OwnedFd, count: usize) {
    let fds = vec![fd.as_raw_fd(); count];
    let size = mem::size_of_val(fds.as_slice()) as libc::c_uint;
    let mut control = vec![0u64; 256];
    let mut iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: as in `send`, with `control` large enough for `count` descriptors.
    unsafe {
        let mut message: libc::msghdr = mem::zeroed();
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(size) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size) as _;
        for (i, fd) in fds.iter().enumerate() {
            libc::CMSG_DATA(header).cast::<RawFd>().add(i).write_unaligned(*fd);
        }
        assert!(libc::sendmsg(socket.fd.get_ref().as_raw_fd(), &raw const message, 0) >= 0);
    }
}

fn file() -> OwnedFd {
    File::open("/proc/self/ns/net").unwrap().into()
}

/// Makes a pipe. A read gives EOF once all copies of the write end are closed.
fn pipe() -> (File, OwnedFd) {
    let (read, write) = io::pipe().unwrap();
    (File::from(OwnedFd::from(read)), write.into())
}

#[tokio::test]
async fn packets_keep_their_bounds_and_their_descriptors() {
    let (one, two) = SeqPacket::pair().unwrap();
    let fd = file();
    one.send(b"first", Some(fd.as_fd())).await.unwrap();
    one.send(b"second", None).await.unwrap();
    let first = two.recv().await.unwrap().unwrap();
    assert_eq!((first.bytes.as_slice(), first.fds.len()), (b"first".as_slice(), 1));
    let sent = File::from(fd).metadata().unwrap();
    let got = File::from(first.fds.into_iter().next().unwrap());
    let id = got.metadata().unwrap();
    assert_eq!((id.dev(), id.ino()), (sent.dev(), sent.ino()));
    // SAFETY: queries a flag of a descriptor this test owns.
    let flags = unsafe { libc::fcntl(got.as_raw_fd(), libc::F_GETFD) };
    assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC, "received descriptors are close-on-exec");
    let second = two.recv().await.unwrap().unwrap();
    assert_eq!((second.bytes.as_slice(), second.fds.len()), (b"second".as_slice(), 0));
    drop(one);
    assert!(two.recv().await.unwrap().is_none());
}

#[tokio::test]
async fn a_packet_of_exactly_the_limit_passes_and_one_byte_more_does_not() {
    let (one, two) = SeqPacket::pair().unwrap();
    one.send(&[7; MAX_PACKET_BYTES], None).await.unwrap();
    assert_eq!(two.recv().await.unwrap().unwrap().bytes, vec![7; MAX_PACKET_BYTES]);
    let (mut read, write) = pipe();
    one.send(&[7; MAX_PACKET_BYTES + 1], Some(write.as_fd())).await.unwrap();
    drop(write);
    assert!(matches!(two.recv().await, Err(RecvError::PeerPacketTooLong)));
    assert_eq!(read.read(&mut [0]).unwrap(), 0, "the descriptor of a refused packet is closed");
    one.send(b"next", None).await.unwrap();
    assert_eq!(two.recv().await.unwrap().unwrap().bytes, b"next");
}

#[tokio::test]
async fn several_descriptors_arrive_and_too_many_are_refused_and_closed() {
    let (one, two) = SeqPacket::pair().unwrap();
    let (mut read, write) = pipe();
    send_many(&one, b"a", &write, MAX_FDS);
    assert_eq!(two.recv().await.unwrap().unwrap().fds.len(), MAX_FDS);
    send_many(&one, b"b", &write, MAX_FDS + 2);
    assert!(matches!(two.recv().await, Err(RecvError::PeerTooManyFds)));
    drop(write);
    assert_eq!(read.read(&mut [0]).unwrap(), 0, "every descriptor is closed");
}

#[tokio::test]
async fn clients_reach_a_listener_by_its_path_and_nobody_else_does() {
    let dir = std::env::temp_dir().join(format!("warren-fdpass-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("s.sock");
    assert_eq!(SeqPacket::connect(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
    let listener = SeqListener::bind(&path).unwrap();
    assert_eq!(SeqListener::bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    let client = SeqPacket::connect(&path).unwrap();
    let server = listener.accept().await.unwrap();
    client.send(b"hello", None).await.unwrap();
    assert_eq!(server.recv().await.unwrap().unwrap().bytes, b"hello");
    drop((listener, server));
    assert!(client.recv().await.unwrap().is_none());
    assert!(client.send(b"x", None).await.is_err());
    assert_eq!(SeqPacket::connect(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test]
async fn sending_waits_for_room_and_loses_nothing() {
    let (one, two) = SeqPacket::pair().unwrap();
    let send = async {
        for i in 0..5000u32 {
            one.send(&i.to_be_bytes(), None).await.unwrap();
        }
    };
    let recv = async {
        for i in 0..5000u32 {
            assert_eq!(two.recv().await.unwrap().unwrap().bytes, i.to_be_bytes());
        }
    };
    tokio::join!(send, recv);
}

#[tokio::test]
async fn the_user_at_the_other_end_is_known() {
    let (one, two) = SeqPacket::pair().unwrap();
    assert_eq!((one.peer_user().unwrap(), two.peer_user().unwrap()), (own_user(), own_user()));
}

#[tokio::test]
async fn a_socket_that_refuses_more_keeps_what_has_come_and_its_peer_learns_of_it() {
    let (one, two) = SeqPacket::pair().unwrap();
    one.send(b"in time", None).await.unwrap();
    two.refuse_more();
    assert_eq!(one.send(b"too late", None).await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    let mut room = [0; 64];
    assert_eq!(two.recv_now(&mut room).unwrap().unwrap().bytes, b"in time");
    assert!(two.recv_now(&mut room).unwrap().is_none());
    // A packet of a peer that is gone is there all the same.
    let (one, two) = SeqPacket::pair().unwrap();
    assert!(
        matches!(two.recv_now(&mut room), Err(RecvError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock)
    );
    one.send(b"last words", None).await.unwrap();
    drop(one);
    assert_eq!(two.recv_now(&mut room).unwrap().unwrap().bytes, b"last words");
    assert!(two.recv_now(&mut room).unwrap().is_none());
}

#[tokio::test]
async fn a_listener_takes_the_place_of_another_and_is_its_users_alone() {
    let dir = std::env::temp_dir().join(format!("warren-fdpass-replace-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    let (path, beside) = (dir.join("s.sock"), dir.join("s.sock.new"));
    let old = SeqListener::replace(&path, &beside).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    let waiting = SeqPacket::connect(&path).unwrap();
    let new = SeqListener::replace(&path, &beside).unwrap();
    let client = SeqPacket::connect(&path).unwrap();
    client.send(b"to the new one", None).await.unwrap();
    let (of_old, of_new) = (old.accept().await.unwrap(), new.accept().await.unwrap());
    assert_eq!(of_new.recv().await.unwrap().unwrap().bytes, b"to the new one");
    drop(waiting);
    assert!(of_old.recv().await.unwrap().is_none());
    assert!(!beside.exists());
    std::fs::remove_dir_all(&dir).unwrap();
}
