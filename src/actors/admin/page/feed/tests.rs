use std::sync::atomic::AtomicUsize;

use super::*;
use crate::actors::admin::page::samples::{pod, well};

/// A feed that sees one pod more at each look, and the number of looks.
fn feed(every: Duration) -> (Feed, Arc<AtomicUsize>) {
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = looks.clone();
    let look: Look = Arc::new(move || {
        let look = counted.fetch_add(1, Ordering::Relaxed);
        let mut view = well();
        view.pods.extend((0..look).map(|number| pod(&format!("more/{number}"))));
        view
    });
    (Feed::with(look, every), looks)
}

/// The parts of the next event, by id.
async fn next(chunks: &mut mpsc::Receiver<Chunk>) -> Map<String, Value> {
    let Some(Chunk::Bytes(event)) = chunks.recv().await else { panic!("the stream has ended") };
    let event = String::from_utf8(event.to_vec()).unwrap();
    let (head, data) = event.split_once("\ndata: ").unwrap();
    assert!(head.starts_with("id: ") && data.ends_with("\n\n") && !data.trim_end().contains('\n'), "{event}");
    let shown: Value = serde_json::from_str(data).unwrap();
    assert!(shown["title"].as_str().unwrap().contains("warren"), "{shown}");
    shown["parts"].as_object().unwrap().clone()
}

#[tokio::test]
async fn nothing_is_looked_at_until_somebody_asks_and_all_share_what_is_seen() {
    let (feed, looks) = feed(Duration::from_secs(3600));
    assert_eq!(looks.load(Ordering::Relaxed), 0);
    let (first, second) = tokio::join!(feed.current(), feed.current());
    assert!(Arc::ptr_eq(&first.unwrap(), &second.unwrap()));
    assert_eq!((looks.load(Ordering::Relaxed), feed.made()), (1, 1));
}

#[tokio::test]
async fn a_viewer_gets_everything_and_then_what_changes_once_for_all_viewers() {
    let (feed, looks) = feed(Duration::ZERO);
    let (one, mut of_one) = mpsc::channel(1);
    let following = feed.clone().follow(one, None, feed.seat().unwrap());
    let reading = async {
        let first = next(&mut of_one).await;
        assert!(first.len() >= 10 && !first["pods"].as_str().unwrap().contains("more/0"), "{first:?}");
        let second = next(&mut of_one).await;
        assert!(second["pods"].as_str().unwrap().contains("more/0"), "{second:?}");
        assert!(!second.contains_key("tree") && !second.contains_key("certificates"), "{second:?}");
        drop(of_one);
    };
    tokio::join!(following, reading);
    let looked = looks.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(looks.load(Ordering::Relaxed), looked, "nobody looks any more");
}

#[tokio::test]
async fn a_viewer_who_leaves_makes_room_for_another_one() {
    let (feed, _) = feed(Duration::from_secs(3600));
    let seats: Vec<_> = (0..VIEWERS).map(|_| feed.seat().unwrap()).collect();
    assert!(feed.seat().is_none());
    drop(seats);
    assert!(feed.seat().is_some());
}

#[tokio::test]
async fn the_stream_ends_when_the_server_stops() {
    let (feed, _) = feed(Duration::from_secs(3600));
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let (viewer, mut chunks) = mpsc::channel(1);
    let following = feed.clone().follow(viewer, Some(Stopping::new(stopped)), feed.seat().unwrap());
    let reading = async {
        next(&mut chunks).await;
        stop.send_replace(true);
        assert!(matches!(chunks.recv().await, Some(Chunk::End)));
    };
    tokio::join!(following, reading);
}

#[tokio::test]
async fn a_look_that_panics_is_an_error_and_the_next_one_is_made_all_the_same() {
    let fails = Arc::new(AtomicUsize::new(1));
    let left = fails.clone();
    let look: Look = Arc::new(move || {
        let fails = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        assert!(fails.is_err(), "a look fails");
        well()
    });
    let feed = Feed::with(look, Duration::ZERO);
    assert!(feed.current().await.is_err());
    assert_eq!(feed.current().await.unwrap().number, 2);
}
