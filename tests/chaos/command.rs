use std::process::{Command, Output};

use warren::lab::{net::Namespace, testbed::Launch, testing::program};

use crate::support::*;

pub(crate) fn warren(node: &Namespace, args: &[&str]) -> (i32, String, String) {
    let program = program("warren").unwrap();
    let Output { status, stdout, stderr } =
        node.run(|| Command::new(program).args(args).output().unwrap()).unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

pub(crate) fn the_commands_draw_break_and_are_refused() {
    let mut lab = raise();
    let node = lab.node("one").unwrap().clone();
    let (code, tree, _) = warren(&node, &["tree"]);
    assert_eq!(code, 0);
    let row = |tree: &str, id: &str| tree.lines().find(|line| line.contains(id)).unwrap().to_owned();
    assert!(
        row(&tree, "└─ xds").contains("up           0") || row(&tree, "└─ xds").contains("  up  "),
        "{tree}"
    );
    assert!(tree.contains("├─ telemetry") && !tree.contains('\x1b'), "{tree}");

    let (code, said, _) = warren(&node, &["chaos", "kill", "telemetry"]);
    assert_eq!((code, said.as_str()), (0, "root/telemetry is killed\n"));
    eventually("restart", || actor(&lab, "one", "root/telemetry").filter(|actor| actor.restarts == 1));
    let (_, tree, _) = warren(&node, &["tree"]);
    assert!(row(&tree, "├─ telemetry").ends_with("Z killed"), "{tree}");
    assert!(warren(&node, &["chaos", "tasks"]).1.contains("tunnel/dial "));
    let (code, _, said) = warren(&node, &["chaos", "kill", "nobody"]);
    assert_eq!((code, said.as_str()), (2, "Error: no actor is called \"nobody\": see /actors\n"));
    let (code, _, said) = warren(&node, &["chaos", "kill"]);
    let missing = "Error: the following required arguments were not provided: <ID>\n";
    assert_eq!((code, said), (2, format!("{missing}See `warren chaos kill --help`.\n")));

    drop(lab.take_proxy("one").unwrap());
    let (code, _, said) = warren(&node, &["tree"]);
    assert!(code == 1 && said.starts_with("Error: no proxy answers on 127.0.0.1:15000: "), "{said}");
    let mut plain = lab.launch("one", &Launch::new(program("warren").unwrap())).unwrap();
    lab.wait_ready_of("one", &mut plain).unwrap();
    let (code, _, said) = warren(&node, &["chaos", "panic", "telemetry"]);
    let refusal = "breaking things is not enabled here: start the proxy with WARREN_CHAOS=true";
    assert_eq!((code, said), (1, format!("Error: the proxy refuses: {refusal}\n")));
}
