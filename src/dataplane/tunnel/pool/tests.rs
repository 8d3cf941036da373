use bytes::Bytes;
use h2::client::SendRequest;

use super::*;
use crate::protocols::{config::Http2Config, route::Sans};

fn key() -> TunnelKey {
    let identity = "spiffe://td/ns/n/sa/s".parse().unwrap();
    TunnelKey { to: "10.0.0.1:15008".parse().unwrap(), identity, sans: Sans::default() }
}

async fn send() -> SendRequest<Bytes> {
    let (io, _peer) = tokio::io::duplex(1000);
    crate::protocols::hbone::client::handshake(io, &Http2Config::default()).await.unwrap().0
}

#[tokio::test]
async fn a_retired_tunnel_is_never_picked_and_an_unhealthy_one_last() {
    let pool = PodPool::default();
    let peer = pool.peer(&key());
    let first = peer.add(send().await, 10);
    let second = peer.add(send().await, 1);
    let lease = pool.ready(&key()).unwrap();
    assert!(Rc::ptr_eq(&lease.0, &first));
    lease.mark_unhealthy();
    let other = pool.ready(&key()).unwrap();
    assert!(Rc::ptr_eq(&other.0, &second));
    // The second tunnel is full, so the pool takes the unhealthy tunnel.
    let third = pool.ready(&key()).unwrap();
    assert!(Rc::ptr_eq(&third.0, &first));
    third.retire();
    assert!(pool.ready(&key()).is_none());
    drop(other);
    assert!(Rc::ptr_eq(&pool.ready(&key()).unwrap().0, &second));
}

#[tokio::test]
async fn a_peer_is_forgotten_with_its_last_tunnel() {
    let pool = PodPool::default();
    let tunnel = pool.peer(&key()).add(send().await, 10);
    pool.tidy(&key());
    assert_eq!(pool.peers.borrow().len(), 1);
    pool.peer(&key()).remove(&tunnel);
    pool.tidy(&key());
    assert!(pool.peers.borrow().is_empty());
}

#[tokio::test]
async fn a_peer_tells_when_it_was_used_last_and_is_released_unless_it_is_in_use() {
    let pool = PodPool::default();
    let tunnel = pool.peer(&key()).add(send().await, 10);
    let lease = pool.ready(&key()).unwrap();
    assert_eq!(pool.last_uses(), [(key(), None)], "a stream is open");
    let keys = HashSet::from_iter([key()]);
    pool.release(&keys);
    assert!(!tunnel.is_released());
    drop(lease);
    assert_eq!(pool.last_uses(), [(key(), Some(tunnel.idle_since.get()))]);
    pool.release(&keys);
    assert!(tunnel.is_released() && pool.ready(&key()).is_none());
}
