//! `why` as a form, and its answer as a list of sentences.

use super::{
    cells::{Tone, badge},
    html::Html,
};
use crate::protocols::why::{Explanation, Sentence, Verdict};

/// Limit: sentences of an explanation that the page shows: 300; past it: the others are left out, and the page says so.
const SENTENCES: usize = 300;
/// Limit: pods that the form proposes: 100; past it: the others can be typed.
const PROPOSED: usize = 100;

/// What was asked, and what came of it.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// Who connects.
    pub(super) source: String,
    /// What for.
    pub(super) destination: String,
    /// The explanation, or what is wrong with the question. `None` if nothing was asked.
    pub(super) answer: Option<Result<Box<Explanation>, String>>,
}

/// The form with what was asked, the answer below it, and pods that may be asked about.
pub(super) fn form<'a>(asked: &Asked, pods: impl Iterator<Item = &'a str>) -> Html {
    let mut html = Html::default();
    html.put("<form id=\"ask\" action=\"./#why\" method=\"get\"><div class=\"field\">");
    html.put("<label for=\"source\">From: a pod, or an address</label>");
    html.put("<input id=\"source\" name=\"source\" list=\"known-pods\" required autocomplete=\"off\"");
    html.put(" autocapitalize=\"off\" spellcheck=\"false\" placeholder=\"namespace/pod\" value=\"");
    html.text(&asked.source).put("\"></div><div class=\"field\">");
    html.put("<label for=\"destination\">To: a service, pod, name or address, with a port</label>");
    html.put("<input id=\"destination\" name=\"destination\" required autocomplete=\"off\"");
    html.put(" autocapitalize=\"off\" spellcheck=\"false\" placeholder=\"namespace/service:80\" value=\"");
    html.text(&asked.destination).put("\"></div><button type=\"submit\">Explain</button>");
    html.put("<datalist id=\"known-pods\">");
    for pod in pods.take(PROPOSED) {
        html.put("<option value=\"").text(pod).put("\"></option>");
    }
    html.put("</datalist></form><div id=\"answer\" role=\"status\" tabindex=\"-1\">");
    html.join(&answer(asked)).put("</div>");
    html
}

/// The answer alone.
pub(super) fn answer(asked: &Asked) -> Html {
    let mut html = Html::default();
    match &asked.answer {
        None => {}
        Some(Err(wrong)) => {
            html.put("<p>").join(&badge(Tone::Bad, "no answer")).put(" ").text(wrong).put("</p>");
        }
        Some(Ok(explained)) => explanation(&mut html, explained),
    }
    html
}

fn explanation(html: &mut Html, explained: &Explanation) {
    let tone = match explained.verdict {
        Verdict::Allowed => Tone::Good,
        Verdict::Denied => Tone::Bad,
        Verdict::Unknown => Tone::Notable,
    };
    html.put("<p class=\"asked\">").join(&badge(tone, explained.verdict)).put(" ");
    html.text(&explained.source).put(" to ").text(&explained.destination).put("</p>");
    let sides = [&explained.outbound, &explained.inbound];
    let decided = sides.into_iter().flatten().map(|decided| &decided.sentence);
    let all: Vec<&Sentence> = explained.named.iter().chain(decided).collect();
    let mut left = SENTENCES;
    sentences(html, &all, &mut left);
    if left == 0 {
        html.put("<p class=\"more\">The explanation goes on; <code>warren why</code> shows all of it.</p>");
    }
}

fn sentences(html: &mut Html, all: &[&Sentence], left: &mut usize) {
    if all.is_empty() || *left == 0 {
        return;
    }
    html.put("<ul class=\"because\">");
    for sentence in all {
        let Some(room) = left.checked_sub(1) else { break };
        *left = room;
        html.put("<li>").text(&sentence.says);
        sentences(html, &sentence.because.iter().collect::<Vec<_>>(), left);
        html.put("</li>");
    }
    html.put("</ul>");
}
