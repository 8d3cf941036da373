use super::*;

fn state() -> State {
    let host = |(role, name): (&str, &str)| HostState {
        role: role.to_owned(),
        name: name.to_owned(),
        ips: Vec::new(),
        fd: 3,
        redirected: false,
    };
    let hosts = [("node", "one"), ("pod", "default/one"), ("pod", "shop/web"), ("pod", "blog/web")];
    let started = start_time("self").unwrap();
    let holder = cell::outer_pid().unwrap();
    let (mesh, programs) = (PathBuf::from("mesh.yaml"), Vec::new());
    State { holder, started, mesh, hosts: hosts.map(host).to_vec(), programs }
}

#[test]
fn hosts_are_found_by_what_is_clear() {
    let state = state();
    let found = |name| state.find(name).map(HostState::full_name);
    assert_eq!(found("one").unwrap(), "node:one");
    assert_eq!(found("pod:one").unwrap(), "pod:default/one");
    assert_eq!(found("shop/web").unwrap(), "pod:shop/web");
    assert_eq!(found("web").unwrap_err(), "web may be pod:shop/web, pod:blog/web");
    assert!(found("x").unwrap_err().starts_with("there is no x; there are: node:one, "));
}

#[test]
fn a_lab_is_up_as_long_as_its_very_process_runs() {
    let base = env::temp_dir().join(format!("warren-state-{}", std::process::id()));
    let directory = Directory(base.join("test"));
    let mut state = state();
    directory.create().unwrap();
    assert!(matches!(directory.read(), Err(StateError::NotUp { .. })));
    directory.write(&state).unwrap();
    assert_eq!(directory.read().unwrap(), state);
    assert!(matches!(directory.create(), Err(StateError::AlreadyUp { .. })));
    state.started += 1;
    directory.write(&state).unwrap();
    assert!(matches!(directory.read(), Err(StateError::NotUp { .. })));
    directory.create().unwrap();
    fs::remove_dir_all(base).unwrap();
}

#[test]
fn a_name_cannot_leave_the_directory() {
    for name in ["", "../x", "a/b", "a b", "aaaaaaaaaaaaaaaaaaaaa"] {
        assert!(matches!(Directory::of(name), Err(StateError::Name(_))), "{name}");
    }
    assert!(Directory::of("my-lab-2").is_ok());
}
