//! What stands in the columns, of rows as the admin port has them.

use serde_json::json;

use super::*;
use crate::actors::admin::cli::{
    screen::Screen,
    table::{Layout, draw},
};

fn wide_table(columns: &[Column], row: Value) -> Vec<String> {
    let screen = Screen { colours: false, is_terminal: false, columns: usize::MAX };
    let drawn = draw(columns, &[row], Layout { screen: &screen, is_wide: true });
    let line = drawn.lines().nth(1).unwrap().to_owned();
    line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
}

#[test]
fn rows_are_shown_in_the_order_of_the_headings() {
    let pod = json!({
        "name": "ns/a", "state": "up", "inbound": 1, "outbound": 2, "dialled": 3, "accepted": 4, "opened": 5,
        "received": 6000, "sent": 7, "addresses": ["10.0.0.1", "fd00::1"], "serviceAccount": "sa", "uid": "u",
    });
    let want = ["ns/a", "up", "1", "2", "7", "5", "6.0 kB", "7 B", "10.0.0.1 fd00::1", "sa", "u", "-"];
    assert_eq!(wide_table(PODS, pod), want);
    let connection = json!({
        "id": "1-0-2", "pod": "ns/a", "direction": "inbound", "source": "10.0.0.2:99", "destination": "10.0.0.1:80",
        "nextHop": null, "path": "tunnel", "peer": null, "identity": "spiffe://td/ns/b/sa/c", "host": null,
        "shard": 1, "ageSeconds": 61.2, "idleSeconds": 0.5, "received": 1, "sent": 2,
        "receivedPerSecond": 1000, "sentPerSecond": 500,
    });
    let want = [
        "ns/a",
        "inbound",
        "10.0.0.2:99",
        "tunnel",
        "1m01s",
        "0.5s",
        "1 B",
        "2 B",
        "1.5 kB",
        "1-0-2",
        "10.0.0.2:99",
        "10.0.0.1:80",
        "-",
        "-",
        "1",
        "spiffe://td/ns/b/sa/c",
    ];
    assert_eq!(wide_table(CONNECTIONS, connection), want);
    let service = json!({
        "namespace": "ns", "hostname": "web", "ports": {"80": 8080, "443": 443, "81": 0}, "endpoints": {"a": {}},
        "waypoint": {"destination": "ns/wp", "hboneMtlsPort": 15008}, "vips": ["/10.1.0.1"],
    });
    assert_eq!(wide_table(SERVICES, service), ["ns/web", "443 80:8080 81", "1", "ns/wp", "-", "/10.1.0.1"]);
    let policy = json!({"namespace": "ns", "name": "p", "action": "Deny", "scope": "Global", "dryRun": true, "rules": [[], []]});
    assert_eq!(wide_table(POLICIES, policy), ["ns/p", "DENY", "Global", "yes", "2"]);
    let tunnel = json!({"pod": "ns/a", "direction": "dialled", "address": "10.0.0.2:15008", "peer": "ns/b", "state": "up", "shard": 0, "ageSeconds": 7200});
    assert_eq!(
        wide_table(TUNNELS, tunnel),
        ["ns/a", "dialled", "ns/b", "up", "2h00m", "0", "10.0.0.2:15008", "-"]
    );
}

#[test]
fn certificates_show_how_long_they_are_valid() {
    let time = |seconds: i64| {
        let at = OffsetDateTime::now_utc() + time::Duration::seconds(seconds);
        at.replace_nanosecond(0).unwrap().format(&Rfc3339).unwrap()
    };
    let leaf = json!({"validFrom": time(-3600), "expirationTime": time(82_830), "serialNumber": "12"});
    let row = json!({"identity": "spiffe://td/ns/a/sa/b", "state": "Available", "certChain": [leaf]});
    let cells = wide_table(CERTS, row);
    assert_eq!(cells[..4], ["spiffe://td/ns/a/sa/b", "Available", "23h00m", "1d00h"]);
    let bare = json!({"identity": "i", "state": "Initializing", "certChain": []});
    assert_eq!(wide_table(CERTS, bare), ["i", "Initializing", "-", "-", "-", "-"]);
}
