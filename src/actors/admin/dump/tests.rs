#![allow(clippy::unwrap_used)]

use http::Request;
use http_body_util::BodyExt;
use serde_json::json;

use super::*;

fn parts(uri: &str) -> Parts {
    Request::builder().uri(uri).body(()).unwrap().into_parts().0
}

fn of(content: fn(&DumpFilter) -> Content) -> Gather {
    Arc::new(content)
}

/// A dump of three small sections.
fn dump() -> Dump {
    Dump::new(
        vec![
            ("list", of(|_| Content::List(Box::new((0..3).map(|n| json!({"n": n, "text": "a\nb"})))))),
            ("empty", of(|_| Content::List(Box::new(std::iter::empty())))),
            ("map", of(|_| Content::Map(Box::new([("k\"".to_owned(), json!([1]))].into_iter())))),
            ("filter", of(|filter| Content::Value(json!({"workload": filter.workload})))),
        ],
        Arc::new(|filter| {
            filter.workload.as_ref().filter(|name| *name == "x/y").map(|_| "no x/y".to_owned())
        }),
    )
}

async fn read(answer: Answer) -> (u16, String) {
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn a_dump_is_pretty_json_with_sorted_keys() {
    let (status, text) = read(dump().answer(&parts("/config_dump?reset&dir=out")).await).await;
    let want = json!({
        "list": [{"n": 0, "text": "a\nb"}, {"n": 1, "text": "a\nb"}, {"n": 2, "text": "a\nb"}],
        "empty": [],
        "map": {"k\"": [1]},
        "filter": {"workload": null},
    });
    assert_eq!((status, text), (200, format!("{want:#}\n")));
}

#[tokio::test]
async fn filters_choose_and_unknown_names_are_told() {
    let asked = async |uri: &str| read(dump().answer(&parts(uri)).await).await;
    let (status, text) = asked("/config_dump?only=filter&workload=ns1/a").await;
    assert_eq!((status, text), (200, format!("{:#}\n", json!({"filter": {"workload": "ns1/a"}}))));
    let (status, text) = asked("/config_dump?only=list,nothing").await;
    assert_eq!((status, &*text), (404, "no section \"nothing\"; there are: empty, filter, list, map\n"));
    assert_eq!(asked("/config_dump?workload=x/y").await, (404, "no x/y\n".to_owned()));
}

// A paused clock stands still while a dump is written, so the time is short instead.
#[tokio::test]
async fn a_reader_that_does_not_read_is_cut_and_lets_the_next_one_in() {
    fn endless(_: &DumpFilter) -> Content {
        Content::List(Box::new((0_u64..).map(|n| json!({"n": n, "text": "x".repeat(1000)}))))
    }
    let dump = Dump::new(vec![("endless", of(endless))], Arc::new(|_| None));
    let dump = Dump { chunk_within: Duration::from_millis(20), ..dump };
    let mute = dump.answer(&parts("/config_dump")).await;
    assert_eq!(mute.status().as_u16(), 200);
    // The second waits for the first, whose time runs out.
    let second = dump.answer(&parts("/config_dump")).await;
    assert_eq!(second.status().as_u16(), 200);
    // The first has what fitted, and then an error rather than the end of a complete body.
    assert!(mute.into_body().collect().await.is_err());
}
