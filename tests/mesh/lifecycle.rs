//! The ends of proxies and pods, and a control plane that goes away.

use std::{
    io::{Read, Write},
    net::Shutdown,
    process::Command,
    thread,
    time::Duration,
};

use warren::{
    lab::{hosts::Role, process::Process, testing::program},
    sys::lab::{OnExec, on_exec},
};

use crate::{
    logs::{access, line},
    metrics::{all_closed, metrics, metrics_show},
    support::*,
};

const ADDRESS: &str = "type.googleapis.com/istio.workload.Address";

/// Tells both proxies to end, and takes them.
pub(crate) fn terminate(lab: &mut Lab) -> [Process; 2] {
    ["one", "two"].map(|node| {
        let mut process = lab.take_proxy(node).unwrap();
        process.signal(libc::SIGTERM).unwrap();
        process
    })
}

pub(crate) fn ends_well(process: &mut Process) {
    let status = process.wait(LIMIT).unwrap();
    assert_eq!(status.code(), Some(0), "{}\n{}", process.name(), process.log_text());
}

pub(crate) fn open_connections_outlive_the_order_to_stop_and_the_proxy_ends_with_them() {
    let settings = [("CONNECTION_TERMINATION_DEADLINE", "60s")];
    let mut lab = raise_with(MESH, &settings, Default::default());
    let mut live = open(&lab, "client", SERVER).unwrap();
    let mut plain = open(&lab, "bare", SERVER).unwrap();
    let mut processes = terminate(&mut lab);
    for (pod, to) in [("client", SERVER), ("client", NEAR), ("server", BARE), ("bare", SERVER)] {
        eventually(&format!("end of new connections from {pod} to {to}"), || {
            open(&lab, pod, to).is_err().then_some(())
        });
    }
    for stream in [&mut live, &mut plain] {
        echo(stream, &vec![7; 100_000]).unwrap();
    }
    assert!(processes.iter_mut().all(|process| process.status().unwrap().is_none()));
    for mut stream in [live, plain] {
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(end_of(&mut stream), End::Closed(Vec::new()));
    }
    processes.iter_mut().for_each(ends_well);
}

pub(crate) fn what_had_connected_before_the_order_to_stop_is_served() {
    const CONNECTIONS: usize = 64;
    let settings = [("CONNECTION_TERMINATION_DEADLINE", "60s"), ("ZTUNNEL_WORKER_THREADS", "2")];
    let mut lab = raise_with(MESH, &settings, Default::default());
    open(&lab, "client", SERVER).unwrap();
    all_closed(&lab, "one");
    let mut process = lab.take_proxy("one").unwrap();
    // The kernel accepts meanwhile, and the proxy hears of all of it and of the order at once.
    process.signal(libc::SIGSTOP).unwrap();
    let mut held: Vec<_> = (0..CONNECTIONS).map(|_| dial(&lab, "client", SERVER).unwrap()).collect();
    process.signal(libc::SIGTERM).unwrap();
    process.signal(libc::SIGCONT).unwrap();
    for stream in &mut held {
        echo(stream, b"in time").unwrap();
    }
    drop(held);
    ends_well(&mut process);
}

pub(crate) fn what_is_open_at_the_deadline_is_cut_and_the_proxy_ends() {
    let settings = [("CONNECTION_TERMINATION_DEADLINE", "1s")];
    let mut lab = raise_with(MESH, &settings, Default::default());
    let mut live = open(&lab, "client", SERVER).unwrap();
    let mut plain = open(&lab, "bare", SERVER).unwrap();
    let mut processes = terminate(&mut lab);
    for stream in [&mut live, &mut plain] {
        assert!(is_turned_away(&end_of(stream)));
    }
    processes.iter_mut().for_each(ends_well);
    let log = processes[1].log_text();
    assert!(log.contains("connection closed due to connection drain"), "{log}");
}

pub(crate) fn a_proxy_without_connections_ends_at_once_however_it_is_told() {
    let settings = [("CONNECTION_TERMINATION_DEADLINE", "600s")];
    let mut lab = raise_with(MESH, &settings, Default::default());
    let mut live = open(&lab, "client", SERVER).unwrap();
    // On node one a connection is open: only the second signal ends it.
    let mut one = lab.take_proxy("one").unwrap();
    one.signal(libc::SIGINT).unwrap();
    eventually("end of new connections", || open(&lab, "client", NEAR).is_err().then_some(()));
    echo(&mut live, b"still here").unwrap();
    one.signal(libc::SIGINT).unwrap();
    ends_well(&mut one);
    assert!(is_turned_away(&end_of(&mut live)));
    // On node two none is left.
    let mut two = lab.take_proxy("two").unwrap();
    let mut admin = dial_from(lab.node("two").unwrap(), addr("127.0.0.1:15000")).unwrap();
    let request = b"POST /quitquitquit HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    admin.write_all(request).unwrap();
    let End::Closed(answer) = end_of(&mut admin) else { panic!("no answer") };
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nshutdown now\n"), "{answer}");
    ends_well(&mut two);
}

pub(crate) fn a_proxy_that_never_heard_of_its_mesh_ends_when_told() {
    let lab = raise_as(MESH, None, Default::default());
    // Nobody listens there; nobody answers there.
    for address in ["https://10.77.0.254:1", "https://10.77.0.199:15012"] {
        let launch = launch().env("XDS_ADDRESS", address);
        let mut process = lab.launch("one", &launch).unwrap();
        let node = lab.node("one").unwrap();
        eventually("state that is not ready", || {
            let answer = warren::lab::testbed::readiness(node).ok()?;
            (answer.status == 500 && answer.body.contains("state manager")).then_some(())
        });
        process.signal(libc::SIGTERM).unwrap();
        ends_well(&mut process);
    }
}

pub(crate) fn the_proxys_own_pod_is_served_only_once_the_state_is_there() {
    let lab = raise_as(MESH, None, Default::default());
    let node = lab.node("one").unwrap();
    let own = addr("127.0.0.1:15008");
    let mut deaf = lab.launch("one", &launch().env("XDS_ADDRESS", "https://10.77.0.254:1")).unwrap();
    eventually("readiness that waits for state and wiring", || {
        let answer = warren::lab::testbed::readiness(node).ok()?;
        (answer.body.contains("proxy") && answer.body.contains("state manager")).then_some(())
    });
    assert!(dial_from(node, own).is_err(), "served without any state");
    deaf.signal(libc::SIGTERM).unwrap();
    ends_well(&mut deaf);
    let mut proxy = lab.launch("one", &launch()).unwrap();
    lab.wait_ready_of("one", &mut proxy).unwrap();
    dial_from(node, own).unwrap();
    // A port that is taken ends the process, as at the start.
    drop(proxy);
    let _taken = listen(node, 15008);
    let mut refused = lab.launch("one", &launch()).unwrap();
    assert_eq!(refused.wait(LIMIT).unwrap().code(), Some(1));
    assert!(refused.log_text().contains("15008"), "{}", refused.log_text());
}

pub(crate) fn a_proxy_that_is_told_to_stop_is_not_ready_and_leaves_the_cni_to_its_successor() {
    let settings = [("CONNECTION_TERMINATION_DEADLINE", "60s")];
    let mut lab = raise_with(MESH, &settings, Default::default());
    let cni = crate::zds::cni(&mut lab, "one");
    let mut live = open(&lab, "client", SERVER).unwrap();
    let before = cni.status().borrow().snapshots;
    let mut process = lab.take_proxy("one").unwrap();
    process.signal(libc::SIGTERM).unwrap();
    let node = lab.node("one").unwrap();
    eventually("readiness that is closed", || {
        dial_from(node, addr("127.0.0.1:15021")).is_err().then_some(())
    });
    eventually("end of the connection with istio-cni", || {
        process.log_text().contains("istio-cni: left").then_some(())
    });
    let pod = crate::zds::cni_pod(&lab, "client");
    let refused = crate::zds::runtime().block_on(cni.add(pod));
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(cni.status().borrow().snapshots, before);
    echo(&mut live, b"still here").unwrap();
    drop(live);
    ends_well(&mut process);
}

pub(crate) fn a_missing_privilege_ends_the_start_and_is_named() {
    // CAP_NET_ADMIN, CAP_NET_RAW and CAP_SYS_ADMIN. Either of the first two lets sockets be marked.
    for (without, missing, deed) in [
        (&[21][..], "SYS_ADMIN", "enter the network namespaces"),
        (&[12, 13], "NET_ADMIN", "mark the sockets"),
    ] {
        let mut command = Command::new(program("warren").unwrap());
        command.env_clear().arg("proxy");
        on_exec(&mut command, OnExec { without: without.to_vec(), ..OnExec::default() });
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        for part in
            [deed, &format!("the capability {missing} is missing"), "securityContext.capabilities.add"]
        {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
}

pub(crate) fn a_removed_server_pod_takes_its_connections_along() {
    // The server's proxy closes its sockets before it lets go of the pod, but the kernel may take the pod's link down
    // with the last segments on it: then the silence tells.
    let settings = [("WARREN_PING_INTERVAL", "1s"), ("WARREN_PING_TIMEOUT", "4s")];
    let mut lab = raise_with(MESH, &settings, Default::default());
    // A server that does not end with the pod's own applications.
    let listener = listen(lab.pod("server").unwrap(), 7000);
    let mut live = dial(&lab, "client", "10.77.2.1:7000").unwrap();
    let mut served = accept(&listener);
    served.write_all(b"x").unwrap();
    live.read_exact(&mut [0]).unwrap();
    lab.remove_pod("default/server").unwrap();
    assert!(is_turned_away(&end_of(&mut live)));
    // The control plane has not said so yet: the client's own proxy accepts, and cannot go on.
    let mut late = dial(&lab, "client", SERVER).unwrap();
    assert!(echo(&mut late, b"anybody there?").is_err());
    let line = line(&lab, "one", &[("dst.hbone_addr", SERVER)]);
    assert!(line.level == "error", "{line:#?}");
    open(&lab, "client", NEAR).unwrap();
}

pub(crate) fn a_lost_control_plane_costs_no_connection_and_hears_what_is_known_already() {
    let mut lab = raise(MESH);
    lab.services().settle(LIMIT).unwrap();
    let mut live = open(&lab, "client", SERVER).unwrap();
    let streams = lab.services().control().unwrap().seen().borrow().streams;
    let bytes = |lab: &Lab| metrics(lab, "one").sum("istio_xds_message_bytes_total", &[("url", ADDRESS)]);
    let before = bytes(&lab);
    assert!(before > 0.0);
    // Gone without a word, and then cut.
    lab.hosts_mut().set_connected(Role::Control, "control", false).unwrap();
    lab.services().control().unwrap().faults().cut_connections();
    for _ in 0..20 {
        echo(&mut live, b"still here").unwrap();
        open(&lab, "client", SERVER).unwrap();
        open(&lab, "bare", SERVER).unwrap();
    }
    lab.hosts_mut().set_connected(Role::Control, "control", true).unwrap();
    lab.services().control().unwrap().faults().cut_connections();
    eventually("streams of both proxies", || {
        let seen = lab.services().control().unwrap().seen();
        let seen = seen.borrow();
        (seen.streams >= streams + 2 && seen.clients().count() == 2).then_some(())
    });
    lab.services().settle(LIMIT).unwrap();
    metrics_show(&lab, "one", "answer on the new stream", |metrics| {
        metrics.sum("istio_xds_connection_terminations_total", &[]) >= 1.0
    });
    // It had everything already, and said so.
    assert_eq!(bytes(&lab), before);
    // What changes now is heard.
    change(&mut lab, &format!("{MESH}strict: [default]\n"));
    assert!(is_turned_away(&ask(lab.pod("bare").unwrap(), addr(SERVER))));
    echo(&mut live, b"still here").unwrap();
    assert!(bytes(&lab) > before);
}

pub(crate) fn a_mute_control_plane_costs_nothing() {
    let mut lab = raise(MESH);
    let mut live = open(&lab, "client", SERVER).unwrap();
    lab.services().control().unwrap().faults().mute_discovery(true);
    lab.services().control().unwrap().faults().cut_connections();
    for _ in 0..20 {
        echo(&mut live, b"still here").unwrap();
        open(&lab, "client", SERVER).unwrap();
        std::thread::park_timeout(Duration::from_millis(20));
    }
    lab.services().control().unwrap().faults().mute_discovery(false);
    change(&mut lab, &format!("{MESH}strict: [default]\n"));
    eventually("refusal of plaintext", || {
        is_turned_away(&ask(lab.pod("bare").unwrap(), addr(SERVER))).then_some(())
    });
}

pub(crate) fn each_connection_to_a_peer_that_is_gone_is_told_so() {
    const CLIENTS: usize = 16;
    const EACH: usize = 200;
    let mut lab = raise(MESH);
    drop(open_at_last(&lab, "server", NEAR));
    let mut gone = lab.take_proxy("one").unwrap();
    gone.signal(libc::SIGKILL).unwrap();
    gone.wait(LIMIT).unwrap();
    // The actor of the peer ends with each dial, while other connections ask for it.
    let server = lab.pod("server").unwrap();
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                for _ in 0..EACH {
                    let mut stream = dial_from(server, addr(NEAR)).unwrap();
                    assert!(echo(&mut stream, b"hello").is_err());
                }
            });
        }
    });
    let told = eventually("lines of all connections", || {
        let lines = access(&lab, "two");
        let failed =
            lines.into_iter().filter(|line| line.has(&[("direction", "outbound"), ("bytes_recv", "0")]));
        let told: Vec<String> = failed.map(|line| line.field("error").to_owned()).collect();
        (told.len() >= CLIENTS * EACH).then_some(told)
    });
    let odd: Vec<&String> = told.iter().filter(|error| !error.contains("Connection refused")).collect();
    assert!(odd.is_empty(), "{odd:#?}");
}
