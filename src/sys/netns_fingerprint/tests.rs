use super::*;

#[test]
fn lists_of_tables_are_read_up_to_a_bound() {
    assert!(names(b"").unwrap().is_empty());
    let two = names(b"nat\nmangle\n").unwrap();
    assert_eq!(two.len(), 2);
    assert!(two[0].starts_with(b"nat\0") && two[1].starts_with(b"mangle\0"));
    assert!(names(&[b'x'; 31]).is_ok());
    assert!(names(&[b'x'; 32]).is_err());
    assert!(names(&b"nat\n".repeat(MAX_LEGACY_TABLES)).is_ok());
    assert!(names(&b"nat\n".repeat(MAX_LEGACY_TABLES + 1)).is_err());
}

#[test]
fn an_interface_is_up_or_gone() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let up = |name| Interface::named(name).unwrap().is_up(listener.as_raw_fd());
    assert!(up(c"lo").unwrap());
    assert_eq!(up(c"warren-none").unwrap_err().raw_os_error(), Some(libc::ENODEV));
    assert_eq!(Interface::named(c"sixteen-letters."), None);
}
