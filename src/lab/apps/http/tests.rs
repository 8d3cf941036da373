use super::*;

#[test]
fn heads_are_found_whole_and_their_headers_whatever_the_case() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 12\r\nConnection: Close\r\n\r\n";
    assert_eq!(head_length(head.as_bytes()), Some(head.len()));
    assert_eq!(head_length(&head.as_bytes()[..head.len() - 1]), None);
    assert_eq!(content_length(head), Some(12));
    assert!(wants_close(head.as_bytes()));
    assert!(!wants_close(b"GET /close HTTP/1.1\r\n\r\n"));
}
