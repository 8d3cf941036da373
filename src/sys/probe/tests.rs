use super::*;

#[test]
fn a_listener_that_was_shut_down_does_not_listen() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    assert!(is_listening(&listener));
    assert_eq!(waiting(&listener).unwrap().now, 0);
    let addr = listener.local_addr().unwrap();
    let _client = std::net::TcpStream::connect(addr).unwrap();
    let Waiting { now, most } = waiting(&listener).unwrap();
    assert!(now == 1 && most >= 1, "{now} of {most}");
    SockRef::from(&listener).shutdown(std::net::Shutdown::Both).unwrap();
    assert!(!is_listening(&listener));
}
