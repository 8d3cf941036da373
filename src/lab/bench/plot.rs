//! Draws the results as bars, in SVG.

use super::{contestant::Contestant, results::Results, table::number};

/// The figures drawn as a part of the traffic without a proxy: key, name, unit.
const CARRIED: [(&str, &str, &str); 5] = [
    ("tp1", "1 stream from the client", "Gbit/s"),
    ("tp1r", "1 stream to the client", "Gbit/s"),
    ("tp8", "8 streams", "Gbit/s"),
    ("rps", "Requests, 64 connections", "/s"),
    ("cps", "New connections, 32 clients", "/s"),
];
/// The costs: the keys whose figures are added up, the name of the sum, its unit. Without a proxy the cost is zero.
const COSTS: [(&[&str], &str, &str); 3] = [
    (&["tp1_cpu"], "A gigabyte, 1 stream", "s"),
    (&["rps_cpu_src", "rps_cpu_dst"], "100,000 requests", "s"),
    (&["cps_cpu"], "10,000 connections", "s"),
];
/// The colours of the contestants in their order; the first contestant is this proxy.
const COLOURS: [&str; 6] = ["#0b7a5c", "#8c9bab", "#c8a46a", "#5b7aa6", "#9c5b8f", "#6b6b6b"];

const WIDTH: f64 = 775.0;
const LEFT: f64 = 215.0;
/// The width of the space for the text behind the longest bar.
const RIGHT: f64 = 150.0;
const BAR: f64 = 16.0;
const GAP: f64 = 14.0;
const MARGIN: f64 = 24.0;

/// A group of bars.
struct Row {
    name: &'static str,
    /// A small second line below the name.
    below: String,
    /// The bar of each contestant: its length as a part of the longest possible bar, and the text behind it.
    bars: Vec<Option<(f64, String)>>,
}

/// A drawing from top to bottom.
struct Drawing {
    y: f64,
    body: String,
}

/// Draws the results; `None` if the traffic without a proxy was not measured.
pub(super) fn svg(results: &Results, contestants: &[Contestant], note: &str) -> Option<String> {
    let direct = contestants.iter().find(|one| one.is_direct())?;
    let shown = contestants.iter().filter(|one| !one.is_direct());
    let shown: Vec<&str> = shown.map(|one| one.name.as_str()).collect();
    let carried = carried(results, &direct.name, &shown);
    if carried.is_empty() {
        return None;
    }
    let mut drawing = Drawing { y: MARGIN, body: String::new() };
    drawing.legend(&shown);
    drawing.rows(
        "Carried between two nodes, and as a part of what goes without a proxy: more is better",
        &carried,
    );
    let costs = costs(results, &shown);
    if !costs.is_empty() {
        drawing.rows("Processor time of both proxies together: less is better", &costs);
    }
    Some(drawing.finish(note))
}

/// The rows of traffic, all on one scale: the part of the traffic without a proxy.
fn carried(results: &Results, direct: &str, shown: &[&str]) -> Vec<Row> {
    let of = |name: &str, key| results.summary(name, key).map(|summary| summary.median);
    let parts = |(key, name, unit): (&'static str, &'static str, &'static str)| {
        let base = of(direct, key).filter(|base| *base > 0.0)?;
        let bar = |one: &&str| {
            let own = of(one, key)?;
            Some((own / base, format!("{} {unit} · {:.2}", number(own), own / base)))
        };
        let bars: Vec<_> = shown.iter().map(bar).collect();
        let below = format!("no proxy: {} {unit}", number(base));
        bars.iter().any(Option::is_some).then_some(Row { name, below, bars })
    };
    let mut rows: Vec<Row> = CARRIED.into_iter().filter_map(parts).collect();
    let all = rows.iter().flat_map(|row| row.bars.iter().flatten().map(|(part, _)| *part));
    let longest = all.fold(f64::EPSILON, f64::max);
    rows.iter_mut().for_each(|row| row.scale(longest));
    rows
}

/// The rows of costs, each on a scale of its own.
fn costs(results: &Results, shown: &[&str]) -> Vec<Row> {
    let row = |(keys, name, unit): (&'static [&'static str], &'static str, &'static str)| {
        let bar = |one: &&str| {
            let each = keys.iter().map(|key| results.summary(one, key).map(|summary| summary.median));
            let all = each.sum::<Option<f64>>()?;
            Some((all, format!("{} {unit}", number(all))))
        };
        let bars: Vec<_> = shown.iter().map(bar).collect();
        let longest = bars.iter().flatten().map(|(cost, _)| *cost).reduce(f64::max)?;
        let mut row = Row { name, below: String::new(), bars };
        row.scale(longest.max(f64::EPSILON));
        Some(row)
    };
    COSTS.into_iter().filter_map(row).collect()
}

// === impl Row ===

impl Row {
    fn scale(&mut self, longest: f64) {
        self.bars.iter_mut().flatten().for_each(|(length, _)| *length /= longest);
    }
}

/// The left and top edges of a rectangle, and its size, in pixels.
struct Rect {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

// === impl Drawing ===

impl Drawing {
    fn legend(&mut self, shown: &[&str]) {
        for (at, (name, colour)) in shown.iter().zip(COLOURS.iter().cycle()).enumerate() {
            let x = LEFT + at as f64 * 120.0;
            self.rect(Rect { x, y: self.y, width: 11.0, height: 11.0 }, colour);
            self.text(x + 17.0, self.y + 10.0, "", name);
        }
        self.y += 22.0;
    }

    fn rows(&mut self, title: &str, rows: &[Row]) {
        self.y += GAP;
        self.text(MARGIN, self.y + 10.0, r#" font-weight="bold""#, title);
        self.y += 28.0;
        let longest = WIDTH - LEFT - RIGHT;
        for row in rows {
            let top = self.y;
            for (bar, colour) in row.bars.iter().zip(COLOURS.iter().cycle()) {
                if let Some((length, behind)) = bar {
                    let width = length * longest;
                    self.rect(Rect { x: LEFT, y: self.y, width, height: BAR - 3.0 }, colour);
                    self.text(LEFT + width + 6.0, self.y + 10.5, r#" font-size="11""#, behind);
                }
                self.y += BAR;
            }
            // The text stands beside the middle of the row's bars.
            let middle = f64::midpoint(top, self.y) + if row.below.is_empty() { 2.5 } else { -4.0 };
            self.text(LEFT - 12.0, middle, r#" text-anchor="end""#, row.name);
            let small = r##" text-anchor="end" font-size="11" fill="#6a737d""##;
            self.text(LEFT - 12.0, middle + 15.0, small, &row.below);
            self.y += GAP;
        }
    }

    fn finish(mut self, note: &str) -> String {
        self.text(MARGIN, self.y + 12.0, r##" font-size="11" fill="#6a737d""##, note);
        let (height, body) = (self.y + MARGIN, self.body);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH:.0}\" height=\"{height:.0}\" \
             viewBox=\"0 0 {WIDTH:.0} {height:.0}\" font-family=\"Helvetica, Arial, sans-serif\" \
             font-size=\"13\" fill=\"#24292f\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{body}</svg>\n"
        )
    }

    fn rect(&mut self, Rect { x, y, width, height }: Rect, colour: &str) {
        self.body += &format!(
            "<rect x=\"{x:.0}\" y=\"{y:.0}\" width=\"{width:.1}\" height=\"{height:.0}\" rx=\"1.5\" \
             fill=\"{colour}\"/>\n"
        );
    }

    /// Writes text with its left end and baseline there; writes nothing for an empty text.
    fn text(&mut self, x: f64, y: f64, how: &str, text: &str) {
        if !text.is_empty() {
            let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            self.body += &format!("<text x=\"{x:.1}\" y=\"{y:.1}\"{how}>{text}</text>\n");
        }
    }
}

#[cfg(test)]
mod tests;
