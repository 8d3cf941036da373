use super::*;

#[test]
fn parts_of_an_identity() {
    let id: Identity = "spiffe://cluster.local/ns/default/sa/web".parse().unwrap();
    assert_eq!(
        (id.trust_domain(), id.namespace(), id.service_account()),
        ("cluster.local", "default", "web")
    );
    assert_eq!(id.principal(), "cluster.local/ns/default/sa/web");
    assert_eq!(id, Identity::new("cluster.local", "default", "web").unwrap());
    for whole in [id.as_str(), &id.to_string(), &format!("{id:?}")] {
        assert_eq!(whole, "spiffe://cluster.local/ns/default/sa/web");
    }
}

#[test]
fn each_part_has_its_longest_length() {
    let new = |td, ns, sa| Identity::new(&"t".repeat(td), &"n".repeat(ns), &"s".repeat(sa));
    let longest = new(255, 63, 253).unwrap();
    assert_eq!((longest.namespace().len(), longest.service_account().len()), (63, 253));
    for longer in [new(256, 63, 253), new(255, 64, 253), new(255, 63, 254)] {
        assert!(longer.is_err());
    }
}

#[test]
fn anything_else_is_refused() {
    for bad in [
        "",
        "cluster.local/ns/a/sa/b",
        "spiffe://td",
        "spiffe://td/ns/a/sa",
        "spiffe://td/ns/a/sa/",
        "spiffe://td/ns/a/sa/b/",
        "spiffe://td/ns/a/sa/b/c",
        "spiffe:///ns/a/sa/b",
        "spiffe://td/sa/a/ns/b",
        "SPIFFE://td/ns/a/sa/b",
    ] {
        assert!(bad.parse::<Identity>().is_err(), "{bad}");
    }
    assert!(Identity::new("td", "a/b", "c").is_err());
}
