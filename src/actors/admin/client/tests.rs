use super::*;
use crate::actors::admin::http::percent_decode;

#[test]
fn answers_are_parsed_and_others_refused() {
    for (answer, parsed) in [
        ("HTTP/1.1 200 OK\r\na: b\r\n\r\nbody\r\n\r\n", Some((200, "body\r\n\r\n".to_owned()))),
        ("HTTP/1.1 403 Forbidden\r\n\r\n", Some((403, String::new()))),
        ("HTTP/1.1 200 OK\r\n", None),
        ("SSH-2.0-x\r\n\r\n", None),
        ("HTTP/1.1 2\r\n\r\n", None),
    ] {
        assert_eq!(parse(answer.as_bytes()), parsed, "{answer}");
    }
}

#[test]
fn what_is_encoded_is_decoded_to_the_same() {
    for path in ["root/xds", "root/pods/é/[::1]:15008-0a+b", "50%"] {
        let encoded = encode(path);
        assert!(encoded.is_ascii() && !encoded.contains(['[', '+', ' ']), "{encoded}");
        assert_eq!(percent_decode(&encoded), path);
    }
}
