use super::*;

#[test]
fn a_line_shows_each_contestant_and_the_goal() {
    let contestants = ["none", "warren"].map(|name| Contestant::find(name).unwrap());
    let mut results = Results::default();
    for (name, value) in [("none", 20_000.0), ("warren", 9_000.0), ("warren", 11_000.0)] {
        results.add(name, vec![("cps", value)]);
    }
    let text = table(&results, &contestants);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2);
    let words: Vec<&str> = lines[1].split_whitespace().collect();
    let expected = "new connections, 32 clients 1/s 20000 ±0% 10000 ±10% at least 0.5 x none: 0.500 met";
    assert_eq!(words.join(" "), expected);
}

#[test]
fn numbers_have_three_digits() {
    let shown = [12_345.6, 99.94, 1.234, 0.1234, 0.0, -2.5].map(number);
    assert_eq!(shown, ["12346", "99.9", "1.23", "0.123", "0.00", "-2.50"]);
}
