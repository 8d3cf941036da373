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
