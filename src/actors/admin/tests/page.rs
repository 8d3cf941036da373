//! The page for people over real sockets: what is served, to how many, and at what cost.

use socket2::{Domain, Socket, Type};

use super::*;

const FOLLOW: &str = "GET /page/updates HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n";

/// Follows the page; returns once the first event has begun to come.
async fn follow(server: &HttpServer) -> TcpStream {
    let mut stream = TcpStream::connect(server.bound()[0]).await.unwrap();
    stream.write_all(FOLLOW.as_bytes()).await.unwrap();
    let head = read_until(&mut stream, "data: ").await;
    assert!(
        head.starts_with("HTTP/1.1 200") && head.contains("content-type: text/event-stream\r\n"),
        "{head}"
    );
    stream
}

/// Reads until `wanted` has come.
async fn read_until(stream: &mut TcpStream, wanted: &str) -> String {
    let (mut read, mut buffer) = (String::new(), [0; 4096]);
    while !read.contains(wanted) {
        let bytes = stream.read(&mut buffer).await.unwrap();
        assert!(bytes > 0, "the stream ended without {wanted:?}: {read}");
        read.push_str(&String::from_utf8_lossy(&buffer[..bytes]));
    }
    read
}

#[tokio::test]
async fn the_page_and_what_belongs_to_it_are_served_with_a_strict_policy() {
    let world = world().await;
    let server = &world.servers.console;
    for (path, media_type, holds) in [
        ("/", "text/html; charset=utf-8", "a/pod-0"),
        ("/page.css", "text/css; charset=utf-8", "prefers-color-scheme: dark"),
        ("/page.js", "text/javascript; charset=utf-8", "EventSource"),
        ("/page.svg", "image/svg+xml", "<svg"),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let (head, body) = exchange(server, &request).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{path}: {head}");
        assert!(head.contains(&format!("content-type: {media_type}\r\n")), "{path}: {head}");
        let policy = "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; ";
        assert!(head.contains(policy) && !head.contains("unsafe"), "{path}: {head}");
        assert!(head.contains("x-content-type-options: nosniff\r\n"), "{path}: {head}");
        let body = String::from_utf8(body).unwrap().replace("http://www.w3.org/2000/svg", "");
        assert!(body.contains(holds) && !body.contains("http://") && !body.contains("//cdn"), "{path}");
    }
    assert_eq!(ask(server, "GET", "/page/nothing").await, (404, String::new()));
    assert_eq!(ask(server, "POST", "/").await.0, 200, "any method, as the contract has it");
    let stranger = "GET / HTTP/1.1\r\nhost: rebound.example\r\nconnection: close\r\n\r\n";
    assert!(exchange(server, stranger).await.0.starts_with("HTTP/1.1 403"));
    let foreign = FOLLOW.replace("accept:", "connection: close\r\norigin: http://evil.example\r\naccept:");
    assert!(exchange(server, &foreign).await.0.starts_with("HTTP/1.1 403"));
    world.tree.stop().await;
}

#[tokio::test]
async fn the_form_is_answered_with_and_without_a_script() {
    let world = world().await;
    let server = &world.servers.console;
    let (status, page) = ask(server, "GET", "/?source=nobody&destination=a%22%3Cb").await;
    assert!(status == 200 && page.contains("value=\"a&quot;&lt;b\""), "{page}");
    assert!(page.contains("no pod &quot;nobody&quot;"), "{page}");
    let (status, answer) = ask(server, "GET", "/page/why?source=nobody&destination=x").await;
    assert!(status == 200 && answer.contains("no pod &quot;nobody&quot;"), "{answer}");
    assert!(!answer.contains("<html"), "the answer alone: {answer}");
    let (_, answer) = ask(server, "GET", "/page/why?source=a").await;
    assert!(answer.contains("the parameter destination is missing"), "{answer}");
    let (status, machine) = ask(server, "GET", "/why?source=nobody&destination=x").await;
    assert_eq!((status, machine.as_str()), (404, "no pod \"nobody\"\n"), "machines are answered as before");
    world.tree.stop().await;
}

#[tokio::test]
async fn news_comes_while_somebody_looks_and_nothing_is_done_otherwise() {
    let world = world().await;
    let server = &world.servers.console;
    assert_eq!(world.looks.load(Relaxed), 0, "nobody has looked");
    let mut viewer = follow(server).await;
    world.pods.store(2, Relaxed);
    read_until(&mut viewer, "a/pod-1").await;
    drop(viewer);
    while world.page.free_seats() < 8 {
        tokio::task::yield_now().await;
    }
    let looked = world.looks.load(Relaxed);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(world.looks.load(Relaxed), looked, "nobody looks any more");
    world.tree.stop().await;
}

#[tokio::test]
async fn viewers_past_the_limit_are_refused_with_words_and_the_page_still_shows() {
    let world = world().await;
    let server = &world.servers.console;
    let mut viewers = Vec::new();
    for _ in 0..8 {
        viewers.push(follow(server).await);
    }
    let refused = exchange(server, &FOLLOW.replace("accept:", "connection: close\r\naccept:")).await;
    assert!(refused.0.starts_with("HTTP/1.1 503"), "{}", refused.0);
    let words = "8 viewers follow this page already; a reload still shows its state\n";
    assert_eq!(String::from_utf8(refused.1).unwrap(), words);
    assert_eq!(ask(server, "GET", "/").await.0, 200);
    viewers.pop();
    while world.page.free_seats() == 0 {
        tokio::task::yield_now().await;
    }
    follow(server).await;
    world.tree.stop().await;
}

#[tokio::test]
async fn a_stop_ends_the_streams_of_viewers_in_order() {
    let world = world().await;
    let mut viewer = follow(&world.servers.console).await;
    let reading = async {
        let mut rest = Vec::new();
        viewer.read_to_end(&mut rest).await.unwrap();
        // The end of a chunked body, and not of a connection alone.
        assert!(rest.ends_with(b"\r\n0\r\n\r\n"));
    };
    tokio::join!(world.tree.stop(), reading);
}

#[tokio::test]
async fn a_viewer_who_takes_nothing_is_cut() {
    let why = Why::new(Arc::new(|_| Err("unused".to_owned())));
    let look = Arc::new(|| {
        let mut view = samples::well();
        // Another name each time, so that all of it is sent again.
        let now = std::time::Instant::now();
        view.pods = (0..50).map(|number| samples::pod(&format!("a/{now:?}-{number}"))).collect();
        view
    });
    let page = Page::every(look, why, Duration::ZERO);
    let answering = page.clone();
    let answer = handler(move |request| {
        let page = answering.clone();
        async move { page.answer(&request).await }
    });
    let limits = ServerLimits { taken_within: Duration::from_millis(300), ..ServerLimits::default() };
    let (server, tree, _) = one_server(limits, answer).await;
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&server.bound()[0].into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut slow = TcpStream::from_std(socket.into()).unwrap();
    slow.write_all(FOLLOW.as_bytes()).await.unwrap();
    while page.free_seats() == 8 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    while page.free_seats() < 8 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(slow);
    tree.stop().await;
}
