//! `warren why`, `connections` and their kin against running proxies.

use std::process::Command;

use serde_json::Value;
use warren::lab::testing::program;

use crate::support::{End, Lab, MESH, NEAR, SERVER, dial, echo, end_of, eventually, open, raise};

/// The exit code, output and errors of a command that is run on a node.
fn warren(lab: &Lab, node: &str, args: &[&str]) -> (i32, String, String) {
    let run = || Command::new(program("warren").unwrap()).args(args).output().unwrap();
    let output = lab.node(node).unwrap().run(run).unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// The rows of a table.
#[track_caller]
fn rows(lab: &Lab, args: &[&str]) -> Vec<Value> {
    let (code, said, error) = warren(lab, "one", &[args, &["-o", "json"]].concat());
    assert_eq!(code, 0, "{args:?}: {error}");
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

fn find<'a>(rows: &'a [Value], field: &str, value: &str) -> &'a Value {
    let found = rows.iter().find(|row| row[field] == value);
    found.unwrap_or_else(|| panic!("no row with {field} {value}: {rows:#?}"))
}

const MORE: &str = "
services:
  - {name: web, vips: 10.96.0.80, ports: {80: 9000}, endpoints: [near, server]}
policies:
  - {name: no-secrets, action: DENY, rules: [{to: {ports: [8080]}}]}
";

pub(crate) fn tables_show_what_is_live_and_a_connection_can_be_cut() {
    let lab = raise(&format!("{MESH}{MORE}"));
    let mut far = open(&lab, "client", SERVER).unwrap();
    let mut near = open(&lab, "client", NEAR).unwrap();
    echo(&mut near, b"more").unwrap();
    let conns = rows(&lab, &["connections", "--pod", "default/client"]);
    assert_eq!(conns.len(), 2, "{conns:#?}");
    let tunnelled = find(&conns, "destination", SERVER);
    assert_eq!(
        (&tunnelled["path"], &tunnelled["received"], &tunnelled["sent"]),
        (&"tunnel".into(), &5.into(), &5.into())
    );
    assert_eq!(
        (&tunnelled["nextHop"], &tunnelled["peer"]),
        (&"10.77.2.1:15008".into(), &"default/server".into())
    );
    assert_eq!(tunnelled["identity"], "spiffe://cluster.local/ns/default/sa/server");
    let local = find(&conns, "destination", NEAR);
    assert_eq!((&local["path"], &local["sent"]), (&"local".into(), &9.into()));
    assert_eq!(rows(&lab, &["connections", "--peer", "sa/server"]).len(), 1);
    let pods = rows(&lab, &["pods"]);
    let client = find(&pods, "name", "default/client");
    assert_eq!(
        (&client["state"], &client["outbound"], &client["received"]),
        (&"up".into(), &2.into(), &14.into())
    );
    let tunnels = rows(&lab, &["tunnels"]);
    assert_eq!(find(&tunnels, "direction", "dialled")["state"], "up");
    for (table, field, value) in [
        ("certs", "state", "Available"),
        ("services", "hostname", "web.default.svc.cluster.local"),
        ("policies", "name", "no-secrets"),
        ("top", "name", "default/client"),
    ] {
        find(&rows(&lab, &[table]), field, value);
    }
    let (code, said, _) = warren(&lab, "one", &["events", "--kind", "tunnel"]);
    assert!(code == 0 && said.contains("default/client: tunnel to 10.77.2.1:15008 is set up"), "{said}");
    let (code, _, error) = warren(&lab, "one", &["connections", "--pod", "default/nobody"]);
    assert_eq!(code, 2);
    assert!(
        error.contains("no pod \"default/nobody\"; pods of this node: default/client, default/near"),
        "{error}"
    );
    let id = tunnelled["id"].as_str().unwrap();
    let (code, _, error) = warren(&lab, "one", &["connections", "cut", id]);
    assert!(code == 1 && error.contains("--yes"), "{error}");
    echo(&mut far, b"still there").unwrap();
    let (code, said, error) = warren(&lab, "one", &["connections", "cut", id, "--yes"]);
    assert_eq!(code, 0, "{error}");
    assert!(said.ends_with(" of default/client is cut\n"), "{said}");
    assert_eq!(end_of(&mut far), End::Closed(Vec::new()));
    echo(&mut near, b"goes on").unwrap();
    let (code, _, error) = warren(&lab, "one", &["connections", "cut", id, "--yes"]);
    assert!(code == 2 && error.contains("no live connection"), "{error}");
    eventually("end in the totals of the pod", || {
        let pods = rows(&lab, &["pods", "--pod", "default/client"]);
        // 5 and 11 bytes of the one that is gone, 5, 4 and 7 of the other.
        (pods[0]["outbound"] == 1 && pods[0]["received"] == 32).then_some(())
    });
}

pub(crate) fn why_says_what_connections_get() {
    let lab = raise(&format!("{MESH}{MORE}"));
    drop(open(&lab, "client", "10.96.0.80:80").unwrap());
    let why = |args: &[&str]| warren(&lab, "one", &[&["why"], args].concat());
    let (code, said, error) = why(&["default/client", "default/web"]);
    assert_eq!(code, 0, "{said}{error}");
    for part in ["allowed: default/client (10.77.1.1) to 10.96.0.80:80\n", "of its 2 endpoints, port 9000"] {
        assert!(said.contains(part), "{said}");
    }
    let (code, said, _) = why(&["default/client", "10.77.2.1:8080"]);
    assert_eq!(code, 1);
    assert!(
        said.starts_with("denied: ") && said.contains("rule 1 of the policy default/no-secrets"),
        "{said}"
    );
    // The connection gets what was said.
    assert!(
        dial(&lab, "client", "10.77.2.1:8080").map_or(true, |mut stream| echo(&mut stream, b"x").is_err())
    );
    let (code, said, _) = why(&["default/client", "10.77.2.9:9000", "-o", "json"]);
    let explained: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &explained["verdict"]), (0, &"allowed".into()), "{said}");
    assert_eq!(explained["nextHop"]["protocol"], "TCP");
    let (code, said, _) = why(&["default/client", "10.77.2.1:9000", "--to", "127.0.0.1:15000"]);
    assert!(code == 0 && said.contains("the proxy of default/server lets the connection in"), "{said}");
    let (code, _, error) = why(&["default/nobody", "default/web"]);
    assert_eq!(code, 2);
    assert!(error.contains("no pod \"default/nobody\"; pods of this node: default/client"), "{error}");
}
