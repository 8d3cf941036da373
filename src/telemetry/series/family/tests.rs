use super::*;
use crate::{
    protocols::labels::UNKNOWN,
    telemetry::series::{Kind, Value},
};

const HOSTS: &Declaration =
    &Declaration { name: "x_total", kind: Kind::Counter, help: "X", labels: &["host", "source"] };
const TIMES: &Declaration =
    &Declaration { name: "x_seconds", kind: Kind::Histogram(&[0.5, 1.0]), help: "X", labels: &["host"] };

/// The values and the sample of each set of the first declaration, sorted.
fn sets<C: Cell>(family: &Family<C>) -> Vec<(Vec<String>, String)> {
    let group = family.group();
    let mut all = Vec::new();
    for set in &group.sets {
        set.samples(group.declarations[0], &mut |sample| {
            let Labels::Set(labels) = sample.labels else { panic!("{sample:?}") };
            let value = match &sample.value {
                Value::Count(count) => count.to_string(),
                other => format!("{other:?}"),
            };
            all.push((labels.iter().map(|(_, value)| value.to_owned()).collect(), value));
        });
    }
    all.sort();
    all
}

fn set(values: &[&str], count: u64) -> (Vec<String>, String) {
    (values.iter().map(|value| (*value).to_owned()).collect(), count.to_string())
}

#[test]
fn sets_are_bounded_and_forgotten() {
    let family = Family::<Counter>::new(&[HOSTS], 1);
    assert!(sets(&family).is_empty());
    family.add(&["a\"b", ""], 2);
    family.add(&["a\"b"], 1);
    family.add(&["other", "s"], 5);
    family.add(&["third", "s"], 1);
    assert_eq!(sets(&family), [set(&["a\"b", UNKNOWN], 3), set(&[UNKNOWN, UNKNOWN], 6)]);
    assert_eq!((family.len(), family.overflowed()), (2, 2));
    let (now, hour) = (Instant::now(), Duration::from_secs(3600));
    assert_eq!(family.sweep(now, hour), 0);
    family.add(&["a\"b", ""], 1);
    assert_eq!(family.sweep(now + hour, hour), 1, "what was not touched since the first sweep");
    assert_eq!(sets(&family), [set(&["a\"b", UNKNOWN], 4)]);
    assert_eq!((family.sweep(now + hour * 2, hour), family.len()), (1, 0));
}

#[test]
fn sets_that_differ_only_where_a_value_ends_are_two() {
    let family = Family::<Counter>::new(&[HOSTS], 10);
    family.add(&["ab", "c"], 1);
    family.add(&["a", "bc"], 2);
    assert_eq!(sets(&family), [set(&["a", "bc"], 2), set(&["ab", "c"], 1)]);
}

#[test]
fn times_are_counted_up_to_each_bound() {
    let family = Family::<Timer>::new(&[TIMES], 10);
    for millis in [250, 500, 750, 3000, 4000] {
        family.observe(&["a"], Duration::from_millis(millis));
    }
    let group = family.group();
    let mut seen = Vec::new();
    group.sets[0].samples(TIMES, &mut |sample| {
        let Value::Histogram(buckets) = &sample.value else { panic!("{sample:?}") };
        seen.push((buckets.up_to.clone(), buckets.count, buckets.sum));
    });
    assert_eq!(seen, [(vec![(0.5, 2), (1.0, 3)], 5, 8.5)]);
}

proptest::proptest! {
    #[test]
    fn labels_are_read_back_as_they_were(
        values in proptest::collection::vec("([a-z\"\\\\\n,={}é]){1,12}", 2..=2)
    ) {
        let family = Family::<Counter>::new(&[HOSTS], 10);
        family.add(&[&values[0], &values[1]], 1);
        proptest::prop_assert_eq!(sets(&family), [(values, "1".to_owned())]);
    }
}
