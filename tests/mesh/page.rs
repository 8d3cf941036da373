//! The page for people of a running proxy; `tests/page/` opens it in a browser.

use std::io::{Read, Write};

use crate::support::{MESH, NEAR, SERVER, addr, change, dial_from, echo, open, raise};

pub(crate) fn the_page_shows_what_is_there_and_a_viewer_hears_of_a_pod_that_comes() {
    let mut lab = raise(MESH);
    let mut far = open(&lab, "client", SERVER).unwrap();
    let mut near = open(&lab, "client", NEAR).unwrap();
    echo(&mut far, b"x").unwrap();
    echo(&mut near, b"x").unwrap();

    let asked = |path: &str| {
        let mut stream = dial_from(lab.node("one").unwrap(), addr("127.0.0.1:15000")).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n").unwrap();
        stream
    };
    let mut page = String::new();
    asked("/?source=default/client&destination=10.77.2.1:9000").read_to_string(&mut page).unwrap();
    assert!(page.starts_with("HTTP/1.0 200"), "{page}");
    for wanted in [
        "default/client",
        "15001<span class=\"about\"> outbound</span>",
        "15053<span class=\"about\"> dns</span>",
        "spiffe://cluster.local",
        " tunnel</span>",
        " local</span>",
        " connected</span>",
        "pod is served",
        "<span class=\"id\">meshsup</span>",
        " allowed</span>",
        "All is well.",
    ] {
        assert!(page.contains(wanted), "the page lacks {wanted}: {page}");
    }

    let mut viewer = asked("/page/updates");
    change(&mut lab, &MESH.replace("pods:\n", "pods:\n  - {name: new, node: one, ip: 10.77.1.7}\n"));
    let (mut heard, mut buffer) = (String::new(), [0; 4096]);
    while !heard.contains("default/new") {
        let bytes = viewer.read(&mut buffer).unwrap();
        assert!(bytes > 0, "the stream ended: {heard}");
        heard.push_str(&String::from_utf8_lossy(&buffer[..bytes]));
    }
}
