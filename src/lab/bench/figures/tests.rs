use super::*;

#[test]
fn keys_are_unique_and_goals_refer_to_figures_that_exist() {
    for (at, figure) in FIGURES.iter().enumerate() {
        assert!(FIGURES[..at].iter().all(|other| other.key != figure.key), "{}", figure.key);
        for goal in figure.goals {
            match goal {
                Goal::TimesOwn(_, key) | Goal::MoreThanOwn(_, key) => {
                    assert!(super::figure(key).is_some(), "{key}");
                }
                Goal::Times(..) | Goal::AtMost(_) => {}
            }
            assert!(*goal != Goal::AtMost(0.0) || figure.key == "stalled_lost");
        }
    }
}

#[test]
fn goals_are_said_in_words() {
    let words = |key: &str| -> Vec<String> {
        let figure = figure(key).unwrap();
        figure.goals.iter().map(|goal| goal.words(figure.better)).collect()
    };
    assert_eq!(words("cps"), ["at least 0.5 x none", "at least 1.6 x envoy"]);
    assert_eq!(words("rps_p99"), ["no worse than envoy"]);
    assert_eq!(words("bulk_peak"), ["at most 1.3 x resident"]);
    assert_eq!(words("stall_push"), ["at most 2 more than quiet"]);
}
