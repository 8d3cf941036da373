use super::*;

fn seen(paths: &[&str]) -> Vec<ActorStatus> {
    paths.iter().map(|path| ActorStatus { path: (*path).to_owned(), ..ActorStatus::default() }).collect()
}

const SMALL: &str = "
limits: {kill: {repairMs: 5}}
kinds:
  - {kind: root, path: root}
  - {kind: conns, path: root/*/conns, loses: [first], hang: endured}
";

#[test]
fn the_standard_file_has_a_limit_for_every_stall_and_a_row_for_every_known_kind() {
    let allowed = Allowed::parse(STANDARD).unwrap();
    assert!(Fault::ALL.iter().all(|fault| allowed.stall(*fault).is_some()));
    assert_eq!(allowed.repair(Fault::Kill), Some(Duration::from_secs(2)));
    assert_eq!(allowed.clone().times(3).detect(Fault::Hang), Some(Duration::from_secs(3)));
    let row = allowed.row_of("root/dataplane/pods/self/inbound").unwrap();
    assert_eq!((row.kind.as_str(), row.ends(Fault::Hang)), ("capture inbound", true));
    assert!(Flow::ALL.iter().all(|flow| !row.may_lose(Fault::Kill, *flow)));
    let tunnel = allowed.row_of("root/dataplane/pods/x/tunnels/10.0.0.1:15008-ab").unwrap();
    assert!(tunnel.may_lose(Fault::Panic, Flow::First) && !tunnel.may_lose(Fault::Hang, Flow::First));
}

#[test]
fn actors_without_a_row_and_rows_without_an_actor_are_named() {
    let allowed = Allowed::parse(SMALL).unwrap();
    allowed.check(&seen(&["root", "root/a/conns"])).unwrap();
    let error = allowed.check(&seen(&["root", "root/a"])).unwrap_err().to_string();
    assert!(error.contains("root/a is in no row"), "{error}");
    assert!(error.contains("conns: the tree has nothing at root/*/conns"), "{error}");
    assert!(!allowed.kinds[1].covers("root//conns") && !allowed.kinds[1].covers("root/a/conns/b"));
}

#[test]
fn a_file_with_a_word_too_many_is_refused() {
    let error = Allowed::parse(&SMALL.replace("loses", "looses")).unwrap_err().to_string();
    assert!(error.contains("looses"), "{error}");
}
