//! The results as bars, in SVG.

use super::{contestant::Contestant, results::Results};

/// What is shown, as a part of what goes without a proxy.
const ROWS: [(&str, &str); 5] = [
    ("tp1", "1 stream from the client"),
    ("tp1r", "1 stream to the client"),
    ("tp8", "8 streams"),
    ("rps", "requests, 64 connections"),
    ("cps", "new connections, 32 clients"),
];
const COLOURS: [&str; 6] = ["#2f6f4f", "#b0764a", "#5b7aa6", "#8a8a8a", "#9c5b8f", "#c2a83e"];

const WIDTH: f64 = 720.0;
const LEFT: f64 = 190.0;
const RIGHT: f64 = 60.0;
const TOP: f64 = 56.0;
const BAR: f64 = 13.0;
const GAP: f64 = 14.0;

/// The drawing; `None` where nothing was measured without a proxy.
pub(super) fn svg(results: &Results, contestants: &[Contestant], note: &str) -> Option<String> {
    let direct = contestants.iter().find(|one| one.is_direct())?;
    let shown: Vec<&Contestant> = contestants.iter().filter(|one| !one.is_direct()).collect();
    let ratio = |one: &Contestant, key: &str| {
        let (own, base) = (results.summary(&one.name, key)?, results.summary(&direct.name, key)?);
        Some(own.median / base.median).filter(|ratio| ratio.is_finite())
    };
    let rows: Vec<(&str, Vec<Option<f64>>)> = ROWS
        .into_iter()
        .map(|(key, name)| (name, shown.iter().map(|one| ratio(one, key)).collect::<Vec<_>>()))
        .filter(|(_, ratios)| ratios.iter().any(Option::is_some))
        .collect();
    let highest = rows.iter().flat_map(|(_, ratios)| ratios.iter().flatten()).copied().reduce(f64::max)?;
    let scale = (WIDTH - LEFT - RIGHT) / highest.max(f64::EPSILON);
    let (mut y, mut bars) = (TOP, String::new());
    for (name, ratios) in &rows {
        let middle = y + ratios.len() as f64 * BAR / 2.0 + 4.0;
        bars +=
            &format!("<text x=\"{:.0}\" y=\"{middle:.0}\" text-anchor=\"end\">{name}</text>\n", LEFT - 10.0);
        for (ratio, colour) in ratios.iter().zip(COLOURS.iter().cycle()) {
            if let Some(ratio) = ratio {
                bars += &bar(y, ratio * scale, colour, *ratio);
            }
            y += BAR;
        }
        y += GAP;
    }
    let legend: String = shown
        .iter()
        .zip(COLOURS.iter().cycle())
        .enumerate()
        .map(|(at, (one, colour))| {
            let x = LEFT + at as f64 * 110.0;
            format!(
                "<rect x=\"{x:.0}\" y=\"30\" width=\"10\" height=\"10\" fill=\"{colour}\"/>\
                 <text x=\"{:.0}\" y=\"39\">{}</text>\n",
                x + 15.0,
                escaped(&one.name)
            )
        })
        .collect();
    let height = y + 22.0;
    let note = escaped(note);
    Some(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {WIDTH:.0} {height:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT:.0}\" y=\"18\" font-weight=\"bold\">Through a pair of proxies, as a part of what goes \
         without (longer is better)</text>\n{legend}{bars}\
         <text x=\"{LEFT:.0}\" y=\"{:.0}\" fill=\"#666666\">{note}</text>\n</svg>\n",
        y + 10.0
    ))
}

fn bar(y: f64, width: f64, colour: &str, ratio: f64) -> String {
    format!(
        "<rect x=\"{LEFT:.0}\" y=\"{y:.0}\" width=\"{width:.1}\" height=\"{:.0}\" fill=\"{colour}\"/>\
         <text x=\"{:.1}\" y=\"{:.0}\" font-size=\"10\">{ratio:.2}</text>\n",
        BAR - 2.0,
        LEFT + width + 5.0,
        y + BAR - 3.0
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_parts_of_what_goes_without_a_proxy() {
        let contestants = ["none", "warren"].map(|name| Contestant::find(name).unwrap());
        let mut results = Results::default();
        assert_eq!(svg(&results, &contestants, ""), None);
        for (name, tp1, cps) in [("none", 10.0, 100.0), ("warren", 5.0, 25.0)] {
            results.add(name, vec![("tp1", tp1), ("cps", cps)]);
        }
        let drawing = svg(&results, &contestants, "a < b").unwrap();
        assert!(drawing.starts_with("<svg ") && drawing.ends_with("</svg>\n"));
        assert_eq!(drawing.matches(">0.50</text>").count() + drawing.matches(">0.25</text>").count(), 2);
        assert!(drawing.contains("width=\"470.0\"") && drawing.contains("width=\"235.0\""), "{drawing}");
        assert!(drawing.contains("a &lt; b") && !drawing.contains("8 streams"));
    }
}
