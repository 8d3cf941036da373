use super::*;

#[test]
fn an_answer_is_whole_with_its_body_and_nothing_after_it() {
    assert!(is_whole(KEEP_RESPONSE).unwrap() && is_whole(CLOSE_RESPONSE).unwrap());
    assert!(
        !is_whole(&KEEP_RESPONSE[..KEEP_RESPONSE.len() - 1]).unwrap()
            && !is_whole(&KEEP_RESPONSE[..20]).unwrap()
    );
    for wrong in [[KEEP_RESPONSE, b"x"].concat(), b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n".to_vec()] {
        assert_eq!(is_whole(&wrong).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
