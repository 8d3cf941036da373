use tokio::io::duplex;

use super::*;

/// What becomes of a client that sends these bytes and no more: the result, what it is sent, and what is not read.
fn served(said: &[u8]) -> (Result<Target, String>, Vec<u8>, Vec<u8>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (mut client, mut proxy) = duplex(4096);
        client.write_all(said).await.unwrap();
        client.shutdown().await.unwrap();
        let target = accept(&mut proxy).await;
        if let Some(code) = target.as_ref().err().and_then(SocksError::reply) {
            reply(&mut proxy, code).await.unwrap();
        }
        let (mut heard, mut rest) = (Vec::new(), Vec::new());
        proxy.read_to_end(&mut rest).await.unwrap();
        drop(proxy);
        client.read_to_end(&mut heard).await.unwrap();
        (target.map_err(|error| error.to_string()), heard, rest)
    })
}

fn request(rest: &[u8]) -> Vec<u8> {
    [&[5, 1, 0, 5], rest].concat()
}

#[test]
fn a_request_names_an_address_or_a_host_and_what_follows_is_not_read() {
    let host = |host: &str| Target::Host { host: host.to_owned(), port: 443 };
    for (rest, target) in [
        (&[1, 0, 1, 10, 0, 0, 1, 1, 187][..], Target::Addr("10.0.0.1:443".parse().unwrap())),
        (
            &[1, 0, 4, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 1, 187],
            Target::Addr("[fd00::9]:443".parse().unwrap()),
        ),
        (b"\x01\x00\x03\x05Web.a\x01\xbb", host("web.a")),
        (b"\x01\x00\x03\x0810.0.0.1\x01\xbb", Target::Addr("10.0.0.1:443".parse().unwrap())),
    ] {
        let (found, heard, rest) = served(&[&request(rest)[..], b"hello"].concat());
        assert_eq!((found, heard, rest), (Ok(target), vec![5, 0], b"hello".to_vec()));
    }
    // Several methods, of which one will do.
    let (found, heard, _) = served(&[5, 3, 2, 1, 0, 5, 1, 0, 1, 10, 0, 0, 1, 0, 80]);
    assert_eq!((found.is_ok(), heard), (true, vec![5, 0]));
}

#[test]
fn what_is_not_supported_is_refused_with_its_code() {
    let refused = |code| [5, 0, 5, code, 0, 1, 0, 0, 0, 0, 0, 0].to_vec();
    for (said, error, heard) in [
        // SOCKS 4, HTTP, TLS: nothing that they would understand.
        (&[4, 1, 0, 80, 10, 0, 0, 1, 0][..], "client speaks version 4 and not 5", vec![]),
        (b"GET / HTTP/1.1\r\n\r\n", "client speaks version 71 and not 5", vec![]),
        (&[5, 1, 2], "client offers no method without authentication", vec![5, 0xff]),
        (&[5, 0], "client offers no method without authentication", vec![5, 0xff]),
        (&[5, 1, 0, 4, 1, 0, 1], "client speaks version 4 and not 5", vec![5, 0]),
        (&request(&[2, 0, 1, 10, 0, 0, 1, 0, 80]), "command 2 is not supported", refused(7)),
        (&request(&[3, 0, 1, 10, 0, 0, 1, 0, 80]), "command 3 is not supported", refused(7)),
        (&request(&[1, 0, 2, 10, 0, 0, 1, 0, 80]), "address type 2 is not supported", refused(7)),
        (&request(&[1, 0, 3, 0, 0, 80]), "the name of the destination is no name", refused(1)),
        (&request(&[1, 0, 3, 2, 0xff, 0xfe, 0, 80]), "the name of the destination is no name", refused(1)),
        (&request(&[1, 0, 1, 10, 0, 0, 1, 0, 0]), "port 0 is no destination", refused(1)),
        (&[], "client: early eof", vec![]),
        (&[5, 9, 0], "client: early eof", vec![]),
        (&request(&[1, 0, 3, 200, b'a']), "client: early eof", vec![5, 0]),
    ] {
        let (found, got, _) = served(said);
        assert_eq!((found, got), (Err(error.to_owned()), heard), "{said:?}");
    }
}
