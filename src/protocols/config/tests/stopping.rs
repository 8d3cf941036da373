//! How a proxy stops, and who holds its connections then.

use std::time::Duration;

use super::{super::*, read};

#[test]
fn a_deadline_wins_over_the_grace_period_but_excuses_no_bad_one() {
    let deadline = ("CONNECTION_TERMINATION_DEADLINE", "7s");
    let config = read(&[deadline, ("TERMINATION_GRACE_PERIOD_SECONDS", "30")]).unwrap();
    assert_eq!(config.drain.deadline, Duration::from_secs(7));
    assert!(read(&[deadline, ("TERMINATION_GRACE_PERIOD_SECONDS", "x")]).is_err());
}

/// What `vars` give to the keeper.
fn keeper(vars: &[(&str, &str)]) -> Result<KeeperSettings, Vec<Invalid>> {
    let vars = vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    KeeperSettings::parse(&Inputs {
        vars: &vars,
        mesh_file: None,
        cores: 1,
        memory: Default::default(),
        file_exists: &|_| false,
        fake_ca_allowed: false,
    })
}

#[test]
fn the_keeper_and_the_proxy_know_each_others_sockets() {
    for vars in
        [&[][..], &[("INPOD_UDS", "/a/b")], &[("WARREN_HANDOVER_UDS", "/c"), ("WARREN_KEEPER_UDS", "/d/e")]]
    {
        let (proxy, keeper) = (read(vars).unwrap(), keeper(vars).unwrap());
        assert_eq!(
            (proxy.inpod.handover_uds, proxy.keeper.uds),
            (Some(keeper.handover_uds), Some(keeper.uds))
        );
    }
    let keeper = keeper(&[("WARREN_KEEPER_HOLD", "5s"), ("WARREN_SECCOMP", "log")]).unwrap();
    assert_eq!((keeper.hold, keeper.seccomp), (Duration::from_secs(5), SeccompMode::Log));
}

#[test]
fn a_keeper_without_a_socket_or_with_a_bad_value_does_not_start_and_a_proxys_settings_are_not_looked_at() {
    let names = |vars: &[(&str, &str)]| {
        let invalid = keeper(vars).err().unwrap_or_default();
        invalid.iter().map(|invalid| invalid.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&[("WARREN_KEEPER_UDS", "")]), ["WARREN_KEEPER_UDS"]);
    assert_eq!(names(&[("WARREN_HANDOVER_UDS", "")]), ["WARREN_KEEPER_UDS"]);
    assert_eq!(
        names(&[("WARREN_KEEPER_HOLD", "0s"), ("RUST_LOG", "a=b=c")]),
        ["WARREN_KEEPER_HOLD", "RUST_LOG"]
    );
    assert_eq!(names(&[("XDS_ADDRESS", "a b"), ("PROXY_MODE", "both")]), [""; 0]);
}
