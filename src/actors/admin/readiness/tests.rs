use super::*;

#[test]
fn ready_when_every_task_is_done() {
    let readiness = Readiness::new();
    assert!(readiness.is_ready());
    let pods = readiness.register(WORKLOAD_PROXY_MANAGER);
    let state = readiness.register(STATE_MANAGER);
    let proxy = readiness.register(PROXY);
    state.pending("no response for Address");
    assert_eq!(
        readiness.pending(),
        ["proxy", "state manager (no response for Address)", "workload proxy manager"]
    );
    proxy.done();
    state.done();
    drop((state, proxy));
    assert_eq!(readiness.pending(), ["workload proxy manager"]);
    pods.done();
    assert!(readiness.is_ready());
    readiness.register(STATE_MANAGER);
    assert!(readiness.is_ready(), "a restart takes nothing back");
    pods.pending("pod a/b");
    assert_eq!(readiness.pending(), ["workload proxy manager (pod a/b)"]);
}

#[test]
fn a_task_whose_owner_died_stays_pending() {
    let readiness = Readiness::new();
    drop(readiness.register(PROXY));
    assert_eq!(readiness.pending(), [PROXY]);
}

#[test]
fn notes_are_told_by_heading_and_keep_nobody_from_being_ready() {
    let readiness = Readiness::new();
    readiness.note(WITHOUT_CERTIFICATE, "1 of 2 identities");
    readiness.note(OUT_OF_THE_MESH, "pod a");
    assert!(readiness.is_ready());
    assert_eq!(readiness.notes(), ["out of the mesh: pod a", "without a certificate: 1 of 2 identities"]);
    readiness.note(OUT_OF_THE_MESH, "");
    assert_eq!(readiness.notes(), ["without a certificate: 1 of 2 identities"]);
}
