//! How tables look: widths, cuts, orders and units.

use serde_json::json;

use super::*;

const COLUMNS: [Column; 3] = [
    Column { heading: "NAME", is_wide: false, cell: |row| Cell::Text(text(row, "name")) },
    Column {
        heading: "BYTES",
        is_wide: false,
        cell: |row| Cell::Number(bytes(number(row, "n")), number(row, "n")),
    },
    Column { heading: "STATE", is_wide: true, cell: |row| Cell::Coloured(Colour::Red, text(row, "state")) },
];

fn rows() -> Vec<Value> {
    vec![
        json!({"name": "ns/a-very-long-name-of-a-pod", "n": 5, "state": "down"}),
        json!({"name": "b\x1b[31m", "n": 2_500_000}),
    ]
}

fn screen(columns: usize, colours: bool) -> Screen {
    Screen { colours, is_terminal: colours, columns }
}

#[test]
fn columns_are_as_wide_as_their_cells_and_no_wider_than_the_terminal() {
    let wide = screen(usize::MAX, false);
    let drawn = draw(&COLUMNS, &rows(), Layout { screen: &wide, is_wide: true });
    let want = "\
NAME                          BYTES   STATE
ns/a-very-long-name-of-a-pod     5 B  down
b [31m                        2.5 MB  -
";
    assert_eq!(drawn, want);
    let narrow = screen(20, false);
    let drawn = draw(&COLUMNS, &rows(), Layout { screen: &narrow, is_wide: false });
    assert_eq!(drawn, "NAME          BYTES\nns/a-very-l…     5 B\nb [31m        2.5 MB\n");
    let coloured = screen(80, true);
    let drawn = draw(&COLUMNS, &rows(), Layout { screen: &coloured, is_wide: true });
    assert!(drawn.starts_with("\x1b[1mNAME") && drawn.contains("\x1b[31mdown\x1b[0m"), "{drawn:?}");
}

#[test]
fn rows_are_sorted_by_a_column_that_exists() {
    let mut sorted = rows();
    sort(&COLUMNS, &mut sorted, "bytes").unwrap();
    assert_eq!(text(&sorted[0], "n"), "2500000");
    sort(&COLUMNS, &mut sorted, "state").unwrap();
    assert_eq!(text(&sorted[0], "state"), "");
    let error = sort(&COLUMNS, &mut sorted, "size").unwrap_err();
    assert_eq!(error, "no column \"size\" to sort by; there are: name, bytes, state");
}

#[test]
fn numbers_have_units_that_fit() {
    for (value, want) in
        [(0.0, "0 B"), (999.0, "999 B"), (1500.0, "1.5 kB"), (999_700.0, "1.0 MB"), (3e15, "3000 TB")]
    {
        assert_eq!(bytes(value), want);
    }
    for (value, want) in [
        (0.0, "0.0s"),
        (9.96, "10.0s"),
        (59.9, "59s"),
        (61.0, "1m01s"),
        (3_700.0, "1h01m"),
        (200_000.0, "2d07h"),
    ] {
        assert_eq!(time(value), want);
    }
}
