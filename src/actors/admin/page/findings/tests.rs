use super::*;
use crate::{
    actors::admin::page::{
        samples::{certificate, node, now, pod, well},
        view::{CertificateView, ListenerView, PodCounts, QuarantinedView},
    },
    supervisor::ExitNote,
};

fn said(view: &View) -> Vec<(Severity, String)> {
    findings(view).into_iter().map(|finding| (finding.severity, finding.says)).collect()
}

#[test]
fn a_proxy_with_which_all_is_well_has_no_findings() {
    assert_eq!(findings(&well()), []);
}

#[test]
fn pods_in_trouble_are_named_and_many_are_counted() {
    let mut view = well();
    let out = |number: usize| PodView {
        state: PodState::Out,
        detail: Some("no rules".to_owned()),
        ..pod(&format!("a/{number}"))
    };
    view.pods.push(out(0));
    let one = "1 pod is out of the mesh: a/0 (no rules).";
    assert_eq!(said(&view), [(Severity::Broken, one.to_owned())]);
    view.pods.extend((1..5).map(out));
    let five = "5 pods are out of the mesh: a/0 (no rules), a/1 (no rules), a/2 (no rules) and 2 more.";
    assert_eq!(said(&view), [(Severity::Broken, five.to_owned())]);
}

#[test]
fn what_pods_wait_for_and_lack_is_said() {
    let mut view = well();
    view.pods = vec![
        PodView { state: PodState::Pending, detail: Some("no namespace".to_owned()), ..pod("a/late") },
        PodView { counts: PodCounts { waits: true, ..PodCounts::default() }, ..pod("a/greedy") },
        PodView {
            listeners: vec![ListenerView { name: "inbound", port: 15008, open: false }],
            ..pod("a/deaf")
        },
    ];
    assert_eq!(
        said(&view),
        [
            (
                Severity::Broken,
                "1 pod is short of descriptors, so new connections wait: a/greedy.".to_owned()
            ),
            (Severity::Notable, "1 pod is not served yet: a/late (no namespace).".to_owned()),
            (Severity::Notable, "Listeners are not open, in: a/deaf.".to_owned()),
        ]
    );
}

#[test]
fn certificates_are_wrong_when_they_are_refused_expired_or_overdue() {
    let (hour, mut view) = (Duration::from_secs(3600), well());
    view.certificates = vec![
        certificate("in-time", 12 * hour, 12 * hour),
        certificate("overdue", 20 * hour, 4 * hour),
        CertificateView { identity: "asked-for".to_owned(), valid: None, failure: None },
        CertificateView { identity: "no".to_owned(), valid: None, failure: Some("forbidden".to_owned()) },
        CertificateView {
            identity: "old".to_owned(),
            valid: Some((now() - 2 * hour, now() - hour)),
            failure: None,
        },
    ];
    assert_eq!(
        said(&view),
        [
            (
                Severity::Broken,
                "2 identities have no valid certificate: no (refused), old (expired).".to_owned()
            ),
            (Severity::Notable, "1 certificate is overdue for renewal: overdue.".to_owned()),
        ]
    );
}

#[test]
fn the_control_plane_readiness_and_quarantine_are_told_the_worst_first() {
    let mut view = well();
    view.pending = vec!["state manager".to_owned()];
    if let Some(discovery) = &mut view.sources.discovery {
        (discovery.connected, discovery.last_error) = (false, Some("refused".to_owned()));
    }
    let aside = QuarantinedView { kind: "peer".into(), name: "10.0.0.9".into(), crashes: 2, retry_in: None };
    view.quarantined = vec![aside];
    assert_eq!(
        said(&view),
        [
            (Severity::Broken, "The proxy is not ready. It waits for: state manager.".to_owned()),
            (Severity::Notable, "The control plane is out of reach since 07:00:00 UTC: refused.".to_owned()),
            (Severity::Notable, "1 thing is quarantined for crashing: peer 10.0.0.9.".to_owned()),
        ]
    );
}

#[test]
fn actors_that_are_down_behind_or_crashed_lately_are_named_by_their_paths() {
    let mut view = well();
    let down = NodeSnapshot { state: NodeState::BackingOff, ..node("root/xds", Vec::new()) };
    let mut behind = node("root/certs", Vec::new());
    behind.load.oldest = BEHIND_AFTER;
    let crashed = |path: &str, ago: Duration| NodeSnapshot {
        last_exit: Some(ExitNote { at: now() - ago, reason: "killed".to_owned() }),
        shown_as: Some("a/pod".into()),
        ..node(path, Vec::new())
    };
    let late = crashed("root/b", Duration::from_secs(5));
    let long_ago = crashed("root/c", CRASHES_WITHIN + Duration::from_secs(1));
    view.tree = vec![node("root", vec![down, behind, late, long_ago])];
    let said: Vec<String> = findings(&view).into_iter().map(|finding| finding.says).collect();
    assert_eq!(
        said,
        [
            "1 actor does not run at the moment: root/xds.",
            "Messages have waited for over a second, in: root/certs.",
            "1 actor crashed in the last 10 minutes and came back: root/b (a/pod).",
        ]
    );
}
