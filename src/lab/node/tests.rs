use serde_json::json;

use super::*;

#[test]
fn families_are_summed_by_their_whole_name_and_labels() {
    let samples = Samples(
        "# HELP a_total A\na_total{kind=\"x\",of=\"1\"} 2\na_total{kind=\"y\",of=\"1\"} 3\na_total_more 9\nb 4\n"
            .to_owned(),
    );
    assert_eq!(samples.sum("a_total", &[]), 5);
    assert_eq!(samples.sum("a_total", &["kind=\"x\""]), 2);
    assert_eq!((samples.sum("b", &[]), samples.sum("c", &[])), (4, 0));
}

#[test]
fn actors_are_found_at_any_depth() {
    let exit = json!({"at": "1970-01-02T00:00:00Z", "reason": "killed"});
    let leaf = json!({"path": "root/a/b", "is": "x", "state": "up", "restarts": 2, "lastExit": exit});
    let tree = json!([{"path": "root", "state": "up", "restarts": 0, "children": [
        {"path": "root/a", "state": "backing-off", "restarts": 1, "children": [leaf]}]}]);
    let mut seen = Vec::new();
    collect(&tree, &|path| path.ends_with("/b"), &mut seen);
    let (path, state, is) = ("root/a/b".to_owned(), "up".to_owned(), "x".to_owned());
    let last_exit = OffsetDateTime::from_unix_timestamp(86_400).ok().map(|at| (at, "killed".to_owned()));
    assert_eq!(seen, [ActorStatus { path, state, restarts: 2, is, last_exit }]);
}

#[test]
fn waiting_ends_with_the_last_complaint() {
    let mut looks = 0;
    let found = wait(Duration::from_secs(60), || {
        looks += 1;
        if looks == 3 { Ok(looks) } else { Err("not yet".to_owned()) }
    });
    assert_eq!(found, Ok(3));
    assert_eq!(wait::<()>(Duration::ZERO, || Err("never".to_owned())), Err("never".to_owned()));
}
