use super::*;

#[test]
fn an_answer_is_whole_with_its_body_and_nothing_after_it() {
    assert!(is_whole(KEPT).unwrap() && is_whole(CLOSED).unwrap());
    assert!(!is_whole(&KEPT[..KEPT.len() - 1]).unwrap() && !is_whole(&KEPT[..20]).unwrap());
    for wrong in [[KEPT, b"x"].concat(), b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n".to_vec()] {
        assert_eq!(is_whole(&wrong).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
