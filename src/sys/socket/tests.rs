use std::time::Duration;

use super::*;
use crate::protocols::relay::tests::tcp;

#[test]
fn keepalive_and_user_timeout_are_really_set() {
    let keepalive = Keepalive {
        time: Duration::from_secs(180),
        interval: Duration::from_secs(170),
        retries: 9,
        user_timeout: Some(Duration::from_secs(180 + 9 * 170)),
    };
    let to = "127.0.0.1:9".parse().unwrap();
    let socket = connecting(to, &Connect { keepalive: Some(keepalive), ..Connect::default() }).unwrap();
    assert!(socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), keepalive.time);
    assert_eq!(socket.tcp_keepalive_interval().unwrap(), keepalive.interval);
    assert_eq!(socket.tcp_keepalive_retries().unwrap(), 9);
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(180 + 9 * 170)));
    assert!(socket.tcp_nodelay().unwrap());
}

#[tokio::test]
async fn a_half_closed_connection_is_probed_soon_if_it_is_probed_at_all() {
    // The time and the interval in seconds, and the number of probes.
    let cases = [
        (true, (180, 180, 9), (20, 20, 81)),
        (true, (5, 6, 9), (5, 6, 9)),
        (true, (300, 1000, 100), (20, 20, 127)),
        (false, (180, 180, 9), (180, 180, 9)),
    ];
    for (is_on, before, after) in cases {
        let (stream, _far) = tcp().await;
        let socket = SockRef::from(&stream);
        let [time, interval] = [before.0, before.1].map(Duration::from_secs);
        set_keepalive(socket, Keepalive { time, interval, retries: before.2, user_timeout: None }).unwrap();
        let socket = SockRef::from(&stream);
        socket.set_keepalive(is_on).unwrap();
        AppEnding::keep_half_closed(&stream);
        let [time, interval] = [socket.tcp_keepalive_time(), socket.tcp_keepalive_interval()];
        let is =
            (time.unwrap().as_secs(), interval.unwrap().as_secs(), socket.tcp_keepalive_retries().unwrap());
        assert_eq!((socket.keepalive().unwrap(), is), (is_on, after));
    }
}

#[test]
fn reuse_port_lets_a_second_listener_in_and_its_absence_does_not() {
    for reuse_port in [true, false] {
        let mut how = Listen {
            addr: "127.0.0.1:0".parse().unwrap(),
            mark: None,
            unpaced: None,
            reuse_port,
            transparent: Some(false),
            redirected: false,
            keepalive: None,
        };
        let first = listen(&how).unwrap();
        assert!(!first.transparent);
        how.addr = first.listener.local_addr().unwrap();
        assert_eq!(listen(&how).is_ok(), reuse_port);
    }
}

#[test]
fn a_redirected_listener_is_not_transparent_though_it_might_be() {
    for redirected in [true, false] {
        let how = Listen {
            addr: "127.0.0.1:0".parse().unwrap(),
            mark: None,
            unpaced: None,
            reuse_port: false,
            transparent: None,
            redirected,
            keepalive: None,
        };
        let bound = listen(&how).unwrap();
        let is = SockRef::from(&bound.listener).ip_transparent_v4().unwrap();
        assert_eq!(is, bound.transparent && !redirected);
    }
}

#[test]
fn what_an_unpaced_listener_accepts_is_not_paced_and_other_connections_are_as_they_were() {
    let congestion = |socket: &std::net::TcpStream| SockRef::from(socket).tcp_congestion().unwrap();
    for unpaced in [Some(PathScope::Host), None] {
        let how = Listen {
            addr: "127.0.0.1:0".parse().unwrap(),
            mark: None,
            unpaced,
            reuse_port: false,
            transparent: Some(false),
            redirected: false,
            keepalive: None,
        };
        let bound = listen(&how).unwrap();
        bound.listener.set_nonblocking(false).unwrap();
        let client = std::net::TcpStream::connect(bound.listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = bound.listener.accept().unwrap();
        if unpaced.is_some() && bound.paced {
            assert!(congestion(&accepted).starts_with(b"reno"));
        } else {
            assert_eq!(congestion(&accepted), congestion(&client));
        }
    }
}

#[test]
fn a_connection_within_the_host_is_there_at_once_and_so_is_a_refusal() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    // On a busy machine the kernel may defer a handshake.
    let tried = || {
        let socket = connecting(to, &Connect::default()).unwrap();
        connect(&socket, to)
    };
    assert!((0..100).any(|_| tried().unwrap()));
    drop(listener);
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    assert!((0..100).any(|_| tried().is_err_and(refused)));
}

#[test]
fn a_connection_that_takes_time_is_not_there_yet() {
    // A listener with a full queue does not answer.
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    listener.listen(0).unwrap();
    let to = listener.local_addr().unwrap().as_socket().unwrap();
    let _first = std::net::TcpStream::connect(to).unwrap();
    let socket = connecting(to, &Connect::default()).unwrap();
    assert!(!connect(&socket, to).unwrap());
    assert!(socket.take_error().unwrap().is_none());
}

#[test]
fn only_a_connection_that_began_with_the_mark_of_the_rules_goes_on_with_their_other() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for (mark, after) in [(Some(0x539), 0x111), (Some(0x1539), 0x111), (Some(0x540), 0x540), (None, 0)] {
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = SockRef::from(&stream);
        if let Some(mark) = mark {
            socket.set_mark(mark).unwrap();
        }
        settle(&stream, mark);
        assert_eq!(socket.mark().unwrap(), after, "began with {mark:x?}");
    }
}

#[test]
fn addresses_of_the_namespace_are_told_from_others() {
    for (ip, own) in [("127.0.0.1", true), ("192.0.2.1", false), ("2001:db8::1", false)] {
        assert_eq!(is_own(ip.parse().unwrap()), own, "{ip}");
    }
}

#[test]
fn a_connection_that_was_not_redirected_has_no_original_destination() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    assert_eq!(original_dst(&server, true), None);
    drop(client);
}

#[test]
fn new_connections_go_to_the_newer_of_two_listeners_and_to_the_only_one() {
    let how = |port| Listen {
        addr: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        mark: None,
        unpaced: None,
        reuse_port: true,
        transparent: Some(false),
        redirected: false,
        keepalive: None,
    };
    let old = listen(&how(0)).unwrap().listener;
    let addr = old.local_addr().unwrap();
    let dial = || std::net::TcpStream::connect(addr).unwrap();
    yield_to_newer(&old).unwrap();
    let _alone = dial();
    old.accept().unwrap();
    let new = listen(&how(addr.port())).unwrap().listener;
    let dialled: Vec<_> = (0..64).map(|_| dial()).collect();
    for _ in &dialled {
        new.accept().unwrap();
    }
    assert_eq!(old.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop(old);
    let _last = dial();
    new.accept().unwrap();
    let alone = listen(&Listen { reuse_port: false, ..how(0) }).unwrap().listener;
    let _ = yield_to_newer(&alone);
    let _one = std::net::TcpStream::connect(alone.local_addr().unwrap()).unwrap();
    alone.accept().unwrap();
}
