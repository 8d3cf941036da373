use super::*;

#[test]
fn entering_ones_own_namespace_returns_home_even_after_a_panic() {
    let home = NetNs::current().unwrap();
    // A process needs CAP_SYS_ADMIN to enter a namespace; an ordinary user is refused before the closure runs.
    let entered = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| home.enter(|| panic!("inside"))));
    match entered {
        Ok(refused) => {
            let refused: io::Result<()> = refused;
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        }
        Err(_) => assert_eq!(NetNs::current().unwrap(), home),
    }
}

#[test]
fn something_else_than_a_namespace_is_refused() {
    let ns = NetNs::from_fd(File::open("/proc/self/status").unwrap().into()).unwrap();
    assert!(ns.enter(|| ()).is_err());
}
