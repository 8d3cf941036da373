use std::{
    io::{Read, Write},
    thread,
};

use super::*;

fn listener() -> Shared<TcpListener> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    Shared::new(listener)
}

fn on_a_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

#[test]
fn threads_accept_from_one_descriptor_until_the_last_lets_go_of_it() {
    let shared = listener();
    let addr = shared.local_addr().unwrap();
    for _ in 0..2 {
        let theirs = shared.clone();
        let accepting = thread::spawn(move || {
            on_a_runtime(async {
                let watched = theirs.watch().await.unwrap();
                let (mut stream, from) = watched.accept().await.unwrap();
                stream.set_nonblocking(false).unwrap();
                let mut said = [0; 2];
                stream.read_exact(&mut said).unwrap();
                (said, from)
            })
        });
        let mut client = TcpStream::connect(addr).unwrap();
        client.write_all(b"hi").unwrap();
        assert_eq!(accepting.join().unwrap(), (*b"hi", client.local_addr().unwrap()));
    }
    drop(shared);
    assert!(TcpStream::connect(addr).is_err());
}

#[test]
fn what_one_watcher_leaves_waiting_the_next_accepts() {
    let shared = listener();
    let addr = shared.local_addr().unwrap();
    on_a_runtime(async { drop(shared.clone().watch().await.unwrap()) });
    let client = TcpStream::connect(addr).unwrap();
    let (_, from) = on_a_runtime(async { shared.watch().await.unwrap().accept().await.unwrap() });
    assert_eq!(from, client.local_addr().unwrap());
}

#[test]
fn a_watcher_that_is_about_to_end_is_waited_for() {
    let shared = listener();
    let _client = TcpStream::connect(shared.local_addr().unwrap()).unwrap();
    on_a_runtime(async {
        let before = shared.clone().watch().await.unwrap();
        let ending = async {
            tokio::task::yield_now().await;
            drop(before);
        };
        let (next, ()) = tokio::join!(shared.clone().watch(), ending);
        next.unwrap().accept().await.unwrap();
    });
}

#[test]
fn accepted_connections_are_nonblocking() {
    let shared = listener();
    let _client = TcpStream::connect(shared.local_addr().unwrap()).unwrap();
    let (mut stream, _) = on_a_runtime(async { shared.watch().await.unwrap().accept().await.unwrap() });
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn a_listener_that_is_shut_down_ends_the_wait_of_its_watcher() {
    let shared = listener();
    let theirs = shared.clone();
    let waiting = thread::spawn(move || on_a_runtime(async { theirs.watch().await.unwrap().accept().await }));
    socket2::SockRef::from(&*shared).shutdown(std::net::Shutdown::Both).unwrap();
    assert_eq!(waiting.join().unwrap().unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn datagrams_are_read_after_a_wait_or_not_at_all() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let (addr, client) = (socket.local_addr().unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    on_a_runtime(async {
        let watched = Shared::new(socket).watch().await.unwrap();
        let mut room = [0; 8];
        assert_eq!(watched.try_recv_from(&mut room).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        client.send_to(b"one", addr).unwrap();
        watched.readable().await.unwrap();
        assert_eq!(watched.try_recv_from(&mut room).unwrap(), (3, client.local_addr().unwrap()));
        assert_eq!(watched.try_recv_from(&mut room).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    });
}
