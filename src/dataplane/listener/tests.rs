use super::*;

#[tokio::test]
async fn a_canary_is_known_by_its_port_and_family() {
    let canaries = Canaries::default();
    let v4: SocketAddr = "10.0.0.1:4000".parse().unwrap();
    canaries.arrived("[2001:db8::2]:4000".parse().unwrap());
    canaries.arrived("10.0.0.1:4001".parse().unwrap());
    let mut arrival = Box::pin(canaries.arrival(v4));
    assert!(futures_poll(&mut arrival).await.is_none());
    canaries.arrived(v4);
    arrival.await;
}

/// The result of a single poll of the future.
async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    std::future::poll_fn(|cx| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(cx) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}
