use super::*;

#[test]
fn a_rate_is_the_change_by_the_time_and_new_rows_have_none() {
    let before = [json!({"id": "1-0-1", "sent": 10}), json!({"id": "1-0-2", "sent": 50})];
    let mut now = [
        json!({"id": "1-0-3", "sent": 7}),
        json!({"id": "1-0-1", "sent": 30}),
        json!({"id": "1-0-2", "sent": 5}),
    ];
    add_rates(&before, &mut now, ("id", &["sent"]), 2.0);
    let rates: Vec<f64> = now.iter().map(|row| number(row, "sentPerSecond")).collect();
    assert_eq!(rates, [0.0, 10.0, 0.0]);
}
