//! The page as a whole: its parts in their frame.

use super::{
    cells::{Column, Table, cell, moment},
    findings::{Severity, findings},
    html::Html,
    rates::Measured,
    sections, tables,
    view::View,
    why::{Asked, form},
};

/// The parts that change, each with its id.
pub(super) type Parts = Vec<(&'static str, Html)>;

/// The sections in their order: the id, which is also that of the part that changes, and the heading.
const SECTIONS: [(&str, &str); 10] = [
    ("pods", "Pods"),
    ("connections", "Connections"),
    ("tunnels", "Tunnels"),
    ("certificates", "Certificates"),
    ("discovery", "Discovery"),
    ("quarantine", "Quarantine"),
    ("events", "Events"),
    ("why", "Why?"),
    ("tree", "Supervision"),
    ("endpoints", "Endpoints"),
];

/// What answers on the port, for machines and people (docs/spec/controlplane.md 7.1).
const ENDPOINTS: [(&str, &str); 13] = [
    ("config_dump", "what this proxy knows: workloads, services, policies, certificates, settings"),
    ("actors", "the supervision tree: states, restarts, last exits"),
    ("crashes", "reports of what died: messages, backtraces"),
    ("quarantine", "input and actors that are quarantined for crashing, and when they are tried again"),
    ("live", "pods, connections and tunnels as they are now"),
    ("events", "the last events"),
    ("why", "why a connection gets through or not"),
    ("tasks", "kinds of tasks, to be broken where that is enabled"),
    ("debug/pprof/profile", "a profile of processor time, for pprof (?seconds=10&frequency=100)"),
    ("debug/pprof/heap", "a profile of the memory in use, for pprof, where that is active"),
    ("debug/pprof/heap/profiling", "whether heap profiling is active (?activate=true or false)"),
    ("logging", "query or change the log filter (POST)"),
    ("quitquitquit", "shut down gracefully (POST)"),
];

/// The title of the page, which tabs show.
pub(super) fn title(view: &View) -> Html {
    let findings = findings(view);
    let broken = findings.iter().filter(|finding| finding.severity == Severity::Broken).count();
    let mut html = Html::default();
    html.text(sections::sentence(view, broken, findings.len() - broken)).put(" – ");
    html.text(&view.process.name).put(" – warren");
    html
}

/// The parts that change.
pub(super) fn parts(view: &View, measured: &Measured) -> Parts {
    vec![
        ("at", moment(view.at)),
        ("verdict", sections::verdict(view, &findings(view))),
        ("numbers", sections::numbers(view, measured)),
        ("pods", tables::pods(view, measured)),
        ("connections", tables::connections(&view.connections)),
        ("tunnels", tables::tunnels(&view.tunnels)),
        ("certificates", tables::certificates(view)),
        ("discovery", sections::sources(view)),
        ("quarantine", tables::quarantine(view)),
        ("events", sections::events(view)),
        ("tree", sections::tree(view)),
    ]
}

/// The page.
pub(super) fn document(view: &View, parts: &Parts, asked: &Asked) -> Html {
    let mut html = Html::default();
    head(&mut html, view);
    let part = |html: &mut Html, id: &'static str| {
        html.put("<div data-part=\"").put(id).put("\">");
        if let Some((_, part)) = parts.iter().find(|(known, _)| *known == id) {
            html.join(part);
        }
        html.put("</div>");
    };
    html.put("<header><h1>warren <span class=\"about\">").text(&view.process.name).put("</span></h1>");
    html.put("<p class=\"as-of\">As of <span data-part=\"at\">").join(&moment(view.at)).put("</span> UTC. ");
    html.put("<span id=\"live\" role=\"status\"><a href=\"./\">Reload</a> for news.</span></p>");
    html.put("<button id=\"pause\" type=\"button\" hidden>Pause updates</button></header>");
    html.put("<p id=\"stale\" role=\"alert\" hidden></p><nav aria-label=\"Sections\"><ul>");
    for (id, heading) in SECTIONS {
        html.put("<li><a href=\"#").put(id).put("\">").put(heading).put("</a></li>");
    }
    html.put("</ul></nav><main id=\"main\" tabindex=\"-1\">");
    html.put("<section class=\"first\" aria-labelledby=\"verdict-heading\">");
    html.put("<h2 id=\"verdict-heading\" class=\"unseen\">State of the proxy</h2><div role=\"status\">");
    part(&mut html, "verdict");
    html.put("</div>");
    part(&mut html, "numbers");
    html.put("</section>");
    for (id, heading) in SECTIONS {
        html.put("<section id=\"").put(id).put("\" class=\"").put(width(id)).put("\" aria-labelledby=\"");
        html.put(id).put("-heading\"><h2 id=\"").put(id).put("-heading\">").put(heading).put("</h2>");
        match id {
            "why" => {
                html.join(&form(asked, view.pods.iter().map(|pod| pod.name.as_str())));
            }
            "endpoints" => endpoints(&mut html),
            // What a screen reader is told as it comes.
            "events" => {
                html.put(
                    "<div role=\"log\" aria-labelledby=\"events-heading\" class=\"box\" tabindex=\"0\">",
                );
                part(&mut html, id);
                html.put("</div>");
            }
            // Wide tables may have to be scrolled, also with keys.
            "pods" | "connections" => {
                html.put("<div role=\"group\" aria-labelledby=\"").put(id).put("-heading\" class=\"box\"");
                html.put(" tabindex=\"0\">");
                part(&mut html, id);
                html.put("</div>");
            }
            _ => {
                html.put("<div class=\"box\">");
                part(&mut html, id);
                html.put("</div>");
            }
        }
        html.put("</section>");
    }
    html.put("</main><footer><p>warren ").put(env!("CARGO_PKG_VERSION")).put(" ");
    html.put(env!("WARREN_GIT_REVISION")).put("</p></footer></body></html>\n");
    html
}

/// Sections with few columns stand beside each other where there is room.
fn width(id: &str) -> &'static str {
    match id {
        "certificates" | "discovery" => "half",
        _ => "whole",
    }
}

fn head(html: &mut Html, view: &View) {
    html.put("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>").join(&title(view));
    html.put("</title><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">");
    html.put(
        "<meta name=\"color-scheme\" content=\"light dark\"><link rel=\"stylesheet\" href=\"page.css\">",
    );
    html.put("<link rel=\"icon\" type=\"image/svg+xml\" href=\"page.svg\">");
    html.put("<script src=\"page.js\" defer></script></head><body>");
    html.put("<a class=\"skip\" href=\"#main\">Skip to the state of the proxy</a>");
}

fn endpoints(html: &mut Html) {
    const COLUMNS: [Column; 2] = [("Path", false), ("What", false)];
    let mut table = Table::begin(html, "Endpoints of this port", &COLUMNS);
    for (path, what) in ENDPOINTS {
        let mut link = Html::default();
        link.put("<a href=\"").put(path).put("\">/").put(path).put("</a>");
        table.row(path, [link, cell(what)]);
    }
    table.end(ENDPOINTS.len(), ENDPOINTS.len());
}
