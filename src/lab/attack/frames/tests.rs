//! Frames that are right are taken by a server of another library.

use bytes::Bytes;
use tokio::io::AsyncWriteExt;

use super::*;

#[test]
fn a_frame_has_its_length_kind_flags_and_stream() {
    assert_eq!(frame(DATA, END_STREAM, 3, b"ab"), [0, 0, 2, 0, 1, 0, 0, 0, 3, b'a', b'b']);
    assert_eq!(frames(2, PING, 0, &[0; 8]).len(), 2 * 17);
    assert_eq!((stream(0), stream(1)), (1, 3));
}

#[tokio::test]
async fn a_server_reads_requests_written_out_remembered_and_of_long_fields() {
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let long = vec![b'a'; 3_000];
    let (first, again) = remembered_connect(&[&long[..], b":80"].concat());
    let blocks =
        [connect(b"10.0.0.1:80"), [connect(b"10.0.0.1:81"), field(b"baggage", &long)].concat(), first, again];
    let mut bytes = opening(&[(INITIAL_WINDOW_SIZE, 0)]);
    for (n, block) in (0..).zip(&blocks) {
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream(n), block));
    }
    client.write_all(&bytes).await.unwrap();
    let mut connection =
        h2::server::Builder::new().max_header_list_size(1 << 16).handshake::<_, Bytes>(server).await.unwrap();
    let mut authorities = Vec::new();
    for _ in &blocks {
        let (request, _) = connection.accept().await.unwrap().unwrap();
        assert_eq!(request.method(), http::Method::CONNECT);
        let fields = request.headers().get("baggage").map_or(0, |value| value.len());
        authorities.push((request.uri().authority().unwrap().as_str().len(), fields));
    }
    assert_eq!(authorities, [(11, 0), (11, 3_000), (3_003, 0), (3_003, 0)]);
}
