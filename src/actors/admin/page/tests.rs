//! The page as a whole: what stands in it, what cannot, and how large it gets.

use std::time::Duration;

use super::{
    document::{Parts, document, parts, title},
    rates::Measured,
    samples::{NASTY, certificate, nasty, node, now, pod, well},
    view::{Listed, PodState, PodView, QuarantinedView, View},
    why::Asked,
};
use crate::{
    protocols::why::{Explanation, Sentence, Verdict},
    supervisor::NodeState,
    telemetry::events::{Event, EventKind},
};

fn page(view: &View) -> String {
    document(view, &parts(view, &Measured::default()), &Asked::default()).into_string()
}

fn part<'a>(parts: &'a Parts, id: &str) -> &'a str {
    parts.iter().find(|(known, _)| *known == id).unwrap().1.as_str()
}

#[test]
fn no_text_of_others_becomes_markup_wherever_it_stands() {
    let sentence = Sentence { says: NASTY.to_owned(), because: Vec::new() };
    let explained = Explanation {
        verdict: Verdict::Unknown,
        source: NASTY.to_owned(),
        destination: NASTY.to_owned(),
        named: vec![sentence],
        outbound: None,
        next_hop: None,
        arrival: None,
        inbound: None,
    };
    let view = nasty();
    for answer in [None, Some(Ok(Box::new(explained))), Some(Err(NASTY.to_owned()))] {
        let asked = Asked { source: NASTY.to_owned(), destination: NASTY.to_owned(), answer };
        let page = document(&view, &parts(&view, &Measured::default()), &asked).into_string();
        // The page's own one, in its head.
        assert_eq!(page.matches("<script").count(), 1);
        assert_eq!(page.matches("</title>").count(), 1);
        assert!(!page.contains("alert('x')") && !page.contains("\"onload") && !page.contains('\u{202e}'));
        let escaped = page.matches("&lt;/title&gt;&lt;/td&gt;&lt;script&gt;alert(&#39;x&#39;)").count();
        assert!(escaped > 40, "{escaped} places show the text");
        assert!(!page.contains(" style=") && !page.contains("javascript:"), "nothing inline");
    }
    assert!(!title(&view).as_str().contains('<'));
}

#[test]
fn everything_is_bounded_and_what_is_left_out_is_counted() {
    let hour = Duration::from_secs(3600);
    let mut view = well();
    let row = serde_json::json!({"id": "1-0-1", "pod": "a/b", "path": "tunnel"});
    view.pods = (0..4096).map(|number| pod(&format!("ns/pod-{number:04}"))).collect();
    view.connections = Listed { rows: vec![row.clone(); 25], all: 100_000 };
    view.tunnels = Listed { rows: vec![row; 25], all: 5_000 };
    view.certificates = (0..4096).map(|number| certificate(&format!("id-{number}"), hour, hour)).collect();
    let aside = |number: usize| QuarantinedView {
        kind: "peer".to_owned(),
        name: format!("peer-{number}"),
        crashes: 2,
        retry_in: None,
    };
    view.quarantined = (0..1024).map(aside).collect();
    let peers = |pod: usize| {
        let path = format!("root/pods/{pod}");
        let below = (0..100).map(|peer| node(&format!("{path}/{peer}"), Vec::new())).collect();
        node(&path, below)
    };
    view.tree = vec![node("root", vec![node("root/pods", (0..1000).map(peers).collect())])];
    let parts = parts(&view, &Measured::default());
    for (id, more) in [
        ("pods", "and 4046 more"),
        ("connections", "and 99975 more"),
        ("tunnels", "and 4975 more"),
        ("certificates", "and 4066 more"),
        ("quarantine", "and 994 more"),
        ("tree", "and 960 more"),
    ] {
        assert!(part(&parts, id).contains(more), "{id} leaves rows out and says {more}");
    }
    let page = page(&view);
    assert!(page.len() < 300_000, "{} bytes", page.len());
    assert!(page.matches("<option").count() <= 100);
}

#[test]
fn pods_in_trouble_come_first_and_are_never_left_out() {
    let mut view = well();
    view.pods = (0..200).map(|number| pod(&format!("a/pod-{number}"))).collect();
    view.pods.push(PodView { state: PodState::Out, detail: Some("no rules".to_owned()), ..pod("z/out") });
    let shown = parts(&view, &Measured::default());
    let pods = part(&shown, "pods");
    let (out, up) = (pods.find("z/out").unwrap(), pods.find("a/pod-").unwrap());
    assert!(out < up && pods.contains("out of the mesh") && pods.contains("no rules"), "{pods}");
}

#[test]
fn the_verdict_is_in_words_and_leads_to_what_it_is_about() {
    let mut view = well();
    assert!(page(&view).contains("All is well. Pods served: 1."));
    assert!(title(&view).as_str().starts_with("All is well."));
    view.pending = vec!["state manager".to_owned()];
    let shown = parts(&view, &Measured::default());
    let verdict = part(&shown, "verdict");
    assert!(
        verdict.contains("1 thing is broken.") && verdict.contains("<a href=\"#discovery\">"),
        "{verdict}"
    );
    assert!(title(&view).as_str().starts_with("1 thing is broken. – one"));
}

#[test]
fn the_page_is_made_for_screen_readers_and_keys() {
    let page = page(&well());
    for wanted in [
        "<html lang=\"en\">",
        "<main id=\"main\" tabindex=\"-1\">",
        "<a class=\"skip\" href=\"#main\">",
        "<nav aria-label=\"Sections\">",
        "<caption>Pods of this node</caption>",
        "<th scope=\"col\" role=\"columnheader\">Pod</th>",
        "<th scope=\"row\" role=\"rowheader\" data-label=\"Pod\">",
        "role=\"log\"",
        "<label for=\"source\">",
        "<label for=\"destination\">",
        "<a href=\"config_dump\">/config_dump</a>",
    ] {
        assert!(page.contains(wanted), "there is no {wanted}");
    }
    for link in page.split("href=\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(page.contains(&format!("id=\"{link}\"")), "#{link} leads nowhere");
    }
}

#[test]
fn events_tell_when_what_and_about_whom() {
    let mut view = well();
    let (pod, says) = (Some("shop/web".into()), "denied by policy x".into());
    view.events = vec![Event { number: 7, at: now(), kind: EventKind::Denial, pod, says }];
    let shown = parts(&view, &Measured::default());
    let events = part(&shown, "events");
    for wanted in
        ["2027-01-15T08:00:00Z", "08:00:00", "denial", "shop/web", "denied by policy x", "data-key=\"7\""]
    {
        assert!(events.contains(wanted), "{wanted}: {events}");
    }
}

#[test]
fn a_pod_is_folded_in_the_tree_unless_something_in_it_is_not_up() {
    let mut view = well();
    let of = |state: NodeState| {
        let mut pod = node("root/uid", vec![node("root/uid/dns", Vec::new())]);
        pod.shown_as = Some("shop/web".into());
        pod.children[0].shown_as = pod.shown_as.clone();
        pod.children[0].state = state;
        vec![node("root", vec![pod])]
    };
    view.tree = of(NodeState::Up);
    let shown = parts(&view, &Measured::default());
    assert_eq!(part(&shown, "tree").matches("<details open>").count(), 1);
    assert_eq!(part(&shown, "tree").matches("shop/web").count(), 1, "the name stands where it begins");
    view.tree = of(NodeState::BackingOff);
    let shown = parts(&view, &Measured::default());
    assert_eq!(part(&shown, "tree").matches("<details open>").count(), 2);
    assert!(part(&shown, "tree").contains("backing-off"));
}
