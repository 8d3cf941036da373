use std::io;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;
use crate::protocols::relay::{Side, tests::tcp};

async fn accepted() -> (TcpStream, EarlyData<TcpStream>) {
    let (client, accepted) = tcp().await;
    (client, EarlyData::new(accepted))
}

/// The client's early data, once some bytes have arrived.
async fn heard(early: &EarlyData<TcpStream>) -> Bytes {
    loop {
        let said = early.said();
        if !said.is_empty() {
            return said;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_was_heard_stays_the_same_and_the_rest_is_left() {
    let (mut client, early) = accepted().await;
    assert_eq!(early.said(), "");
    client.write_all(b"first").await.unwrap();
    assert_eq!(heard(&early).await, "first");
    client.write_all(b"second").await.unwrap();
    assert_eq!(early.said(), "first");
    let (rest, said) = early.through(false).unwrap();
    assert!(matches!(said, ClientBytes::Pending(said) if said == "first"));
    let mut got = [0; 6];
    let rest = rest.plain().unwrap();
    rest.readable().await.unwrap();
    assert_eq!(rest.try_read(&mut got).unwrap(), 6);
    assert_eq!(&got, b"second");
}

#[tokio::test]
async fn a_client_that_was_heard_in_vain_is_reset_and_no_other() {
    for said in ["", "hello"] {
        let (mut client, early) = accepted().await;
        client.write_all(said.as_bytes()).await.unwrap();
        if !said.is_empty() {
            assert_eq!(heard(&early).await, said);
        }
        drop(early);
        let end = client.read(&mut [0; 8]).await;
        match said {
            "" => assert_eq!(end.unwrap(), 0),
            _ => assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset),
        }
    }
}

#[tokio::test]
async fn a_client_that_went_through_is_not_reset() {
    let (mut client, early) = accepted().await;
    client.write_all(b"hello").await.unwrap();
    heard(&early).await;
    let (side, said) = early.through(true).unwrap();
    assert!(matches!(said, ClientBytes::Forwarded(5)));
    drop(side);
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
}
