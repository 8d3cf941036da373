use super::*;

fn identity(account: &str) -> Identity {
    Identity::new("cluster.local", "default", account).unwrap()
}

fn refused() -> Arc<IssueError> {
    let (code, message) = ("Unauthenticated".to_owned(), "no such account".to_owned());
    Arc::new(IssueError::PeerRefused { code, message })
}

#[test]
fn identities_without_a_certificate_are_counted_and_the_first_is_named() {
    let mut lacking = Lacking::default();
    assert_eq!((lacking.to_string().as_str(), lacking.is_all()), ("", false));
    lacking.add(&identity("b"), Some(&refused()));
    lacking.add(&identity("a"), Some(&refused()));
    assert!(lacking.is_all());
    lacking.add(&identity("c"), None);
    assert!(!lacking.is_all());
    let want = "2 of 3 identities, such as spiffe://cluster.local/ns/default/sa/a: certificate authority refused: \
                Unauthenticated: no such account";
    assert_eq!(lacking.to_string(), want);
}
