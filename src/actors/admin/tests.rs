//! The servers over real sockets, under a real tree.

mod page;

use std::{
    io::Read,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
};

use super::{
    AdminAddrs, AdminServers,
    chaos::Chaos,
    console::{Console, ProviderError, provider, version},
    cut::Cutter,
    dump::{Content, Dump},
    events::EventsPage,
    http::{Handler, handler, text},
    page::{Page, samples},
    profiles::Profiles,
    readiness::{PROXY, Readiness, STATE_MANAGER},
    server::{HttpServer, ServerLimits},
    why::{Question, Why},
};
use crate::{
    protocols::config::LogFormat,
    supervisor::{Intensity, NodeState, Strategy, SupervisorSpec, Tree},
    telemetry::{log::Logging, metrics::Metrics},
};

/// What the servers of a test act on.
struct World {
    servers: AdminServers,
    tree: Tree,
    readiness: Readiness,
    quits: Arc<AtomicUsize>,
    page: Page,
    /// The number of pods that the page sees, and how often it has looked.
    pods: Arc<AtomicUsize>,
    looks: Arc<AtomicUsize>,
    /// The filter can only be changed while somebody uses it.
    _log: (tracing::Dispatch, Logging),
}

fn loopback() -> Vec<SocketAddr> {
    vec!["127.0.0.1:0".parse().unwrap()]
}

async fn world() -> World {
    world_with(false).await
}

async fn world_with(chaos: bool) -> World {
    let seen = Arc::new(OnceLock::new());
    let (dispatch, log) = Logging::to(std::io::sink(), LogFormat::Plain, "info".parse().unwrap()).unwrap();
    let readiness = Readiness::new();
    let metrics = Metrics::new("1.30.3").unwrap();
    let quits = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&quits);
    let why = Why::new(Arc::new(|question| match question {
        Question::Connection { source, .. } if source == "nobody" => Err("no pod \"nobody\"".to_owned()),
        asked => Ok(json!(format!("{asked:?}"))),
    }));
    let (pods, looks) = (Arc::new(AtomicUsize::new(1)), Arc::new(AtomicUsize::new(0)));
    let (shown, looked) = (pods.clone(), looks.clone());
    let look = Arc::new(move || {
        looked.fetch_add(1, Relaxed);
        let mut view = samples::well();
        view.pods = (0..shown.load(Relaxed)).map(|number| samples::pod(&format!("a/pod-{number}"))).collect();
        view
    });
    let page = Page::every(look, why.clone(), Duration::from_millis(20));
    let console = Console {
        page: page.clone(),
        log: log.handle(),
        config_dump: Dump::new(
            vec![
                ("version", Arc::new(|_| Content::Value(version("1.30.3")))),
                ("b", Arc::new(|_| Content::Value(json!({"z": 1, "a": []})))),
            ],
            Arc::new(|_| None),
        ),
        actors: provider(|| async { Err(ProviderError("the tree is not up".to_owned())) }),
        crashes: super::crashes::of_tree(seen.clone()),
        quarantine: provider(|| async { Ok(serde_json::json!([])) }),
        live: Dump::new(vec![("pods", Arc::new(|_| Content::Value(json!([]))))], Arc::new(|_| None)),
        events: EventsPage::new(metrics.events.clone()),
        cutter: Cutter::new(chaos, Arc::new(|_| None)),
        why,
        profiles: Profiles::default(),
        chaos: Chaos::new(chaos, seen.clone()),
        quit: Arc::new(move || {
            counted.fetch_add(1, Relaxed);
        }),
    };
    let addrs = AdminAddrs { readiness: loopback(), stats: loopback(), console: loopback() };
    let servers = AdminServers::new(addrs, &readiness, &metrics, console);
    let tree = Tree::start(servers.supervisor()).await.unwrap();
    let _ = seen.set(tree.handle());
    World { servers, tree, readiness, quits, page, pods, looks, _log: (dispatch, log) }
}

/// Sends `head` as it is and reads to the end: the answer's head and body.
async fn exchange(server: &HttpServer, head: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(server.bound()[0]).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("an answer has a head");
    let body = answer.split_off(end + 4);
    (String::from_utf8(answer).unwrap(), body)
}

/// Status and body of a request.
async fn ask(server: &HttpServer, method: &str, path: &str) -> (u16, String) {
    let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let (head, body) = exchange(server, &request).await;
    (head.split(' ').nth(1).unwrap().parse().unwrap(), String::from_utf8(body).unwrap())
}

#[tokio::test]
async fn readiness_names_what_it_waits_for() {
    let world = world().await;
    let server = &world.servers.readiness;
    let ready = (200, "ready\n".to_owned());
    assert_eq!(ask(server, "GET", "/healthz/ready").await, ready);
    let proxy = world.readiness.register(PROXY);
    let state = world.readiness.register(STATE_MANAGER);
    state.pending("");
    let waiting = (500, "not ready, pending: proxy, state manager\n".to_owned());
    assert_eq!(ask(server, "GET", "/healthz/ready").await, waiting);
    proxy.done();
    state.done();
    assert_eq!(ask(server, "GET", "/healthz/ready").await, ready);
    assert_eq!(ask(server, "POST", "/healthz/ready").await.0, 405);
    assert_eq!(ask(server, "GET", "/healthz").await.0, 404);
    world.tree.stop().await;
}

#[tokio::test]
async fn scrapes_negotiate_type_and_compression() {
    let world = world().await;
    let server = &world.servers.stats;
    let scrape = async |path: &str, headers: &str| {
        exchange(server, &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n"))
            .await
    };
    let (head, body) = scrape("/metrics", "").await;
    assert!(head.contains("content-type: text/plain; charset=utf-8\r\n"), "{head}");
    assert!(head.contains("vary: accept-encoding\r\n") && !head.contains("content-encoding"), "{head}");
    let body = String::from_utf8(body).unwrap();
    assert!(
        body.contains("istio_build{component=\"ztunnel\",tag=\"1.30.3\"} 1\n") && body.ends_with("# EOF\n")
    );

    let accept =
        "accept: application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1\r\naccept-encoding: gzip\r\n";
    let (head, body) = scrape("/stats/prometheus", accept).await;
    let wanted = "content-type: application/openmetrics-text;charset=utf-8;version=1.0.0\r\n";
    assert!(head.contains(wanted) && head.contains("content-encoding: gzip\r\n"), "{head}");
    let mut plain = String::new();
    flate2::read::GzDecoder::new(body.as_slice()).read_to_string(&mut plain).unwrap();
    assert!(plain.ends_with("# EOF\n"));
    assert_eq!(ask(server, "POST", "/metrics").await.0, 200, "any method");
    assert_eq!(ask(server, "GET", "/").await, (404, String::new()));
    world.tree.stop().await;
}

#[tokio::test]
async fn the_console_answers_as_istioctl_expects() {
    let world = world().await;
    let server = &world.servers.console;
    // Without HTTP/1.1 there are no chunks.
    let (head, dump) = exchange(server, "GET /config_dump HTTP/1.0\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.0 200"), "{head}");
    let dump = String::from_utf8(dump).unwrap();
    assert!(
        dump.starts_with("{\n  \"b\": {\n    \"a\": [],\n    \"z\": 1\n  },\n  \"version\": {\n    \"buildP"),
        "{dump}"
    );
    let (status, page) = ask(server, "GET", "/").await;
    assert!(status == 200 && page.contains("<a href=\"config_dump\">"), "{page}");
    assert_eq!(ask(server, "GET", "/actors").await, (500, "the tree is not up\n".to_owned()));
    assert_eq!(ask(server, "GET", "/quarantine").await, (200, "[]".to_owned()));
    assert_eq!(ask(server, "GET", "/nothing").await, (404, String::new()));
    assert_eq!(ask(server, "GET", "/quitquitquit").await.0, 405);
    assert_eq!(world.quits.load(Relaxed), 0);
    assert_eq!(ask(server, "POST", "/quitquitquit").await, (200, "shutdown now\n".to_owned()));
    assert_eq!(world.quits.load(Relaxed), 1);
    world.tree.stop().await;
}

#[tokio::test]
async fn nothing_is_broken_unless_that_is_enabled() {
    let world = world().await;
    let server = &world.servers.console;
    let refused = "breaking things is not enabled here: start the proxy with WARREN_CHAOS=true\n";
    for path in
        ["/actors/admin/stats/kill", "/actors/stats/hang", "/actors/stats/panic", "/tasks/xds/stream/panic"]
    {
        assert_eq!(ask(server, "POST", path).await, (403, refused.to_owned()), "{path}");
    }
    assert_eq!(crate::supervisor::faults::armed("xds/stream"), 0);
    assert_eq!(world.tree.handle().find("admin/stats").unwrap().last_exit, None);
    world.tree.stop().await;
}

#[tokio::test]
async fn actors_are_broken_by_path_or_by_its_end() {
    let world = world_with(true).await;
    let (server, tree) = (&world.servers.console, world.tree.handle());
    let crash = async |path: &str, why: &str| {
        while tree.find(path).unwrap().last_exit.is_none_or(|exit| exit.reason != why)
            || tree.find(path).unwrap().state != NodeState::Up
        {
            tokio::task::yield_now().await;
        }
    };
    assert_eq!(ask(server, "POST", "/actors/stats/panic").await, (200, "admin/stats panics\n".to_owned()));
    crash("admin/stats", "admin/stats was told to panic").await;
    let killed = (200, "admin/readiness is killed\n".to_owned());
    assert_eq!(ask(server, "POST", "/actors/admin%2Freadiness/kill").await, killed);
    crash("admin/readiness", "killed").await;
    let hung = (200, "admin/readiness hangs for 20ms\n".to_owned());
    assert_eq!(ask(server, "POST", "/actors/admin/readiness/hang?ms=20").await, hung);
    tree.probe("admin/readiness", Duration::from_secs(60)).await.unwrap();
    for (method, path, status, said) in [
        ("POST", "/actors/nobody/kill", 404, "no actor is called \"nobody\": see /actors\n"),
        ("POST", "/actors/ats/kill", 404, "no actor is called \"ats\": see /actors\n"),
        ("POST", "/actors/stats/hang?ms=0", 400, "ms is a whole number from 1 to 600000, not \"0\"\n"),
        ("POST", "/tasks/nothing/panic", 404, "no task is called \"nothing\": see /tasks\n"),
        ("POST", "/tasks/http/panic?times=x", 400, "times is a whole number from 0 to 1000, not \"x\"\n"),
        ("GET", "/actors/stats/kill", 405, "usage: POST /actors/stats/kill\n"),
        ("POST", "/actors/stats/maim", 404, ""),
    ] {
        assert_eq!(ask(server, method, path).await, (status, said.to_owned()), "{path}");
    }
    world.tree.stop().await;
}

#[tokio::test]
async fn logging_lists_adds_and_resets() {
    let world = world().await;
    let server = &world.servers.console;
    for (path, filter) in [
        ("/logging", "ractor=off,info"),
        ("/logging?level=", "ractor=off,info"),
        ("/logging?level=debug", "ractor=off,debug"),
        ("/logging?level=access%3Dtrace,xds:warn", "access=trace,ractor=off,xds=warn,debug"),
        ("/logging?level=access=off&level=error", "access=off,ractor=off,xds=warn,error"),
        ("/logging?level=warn&reset", "ractor=off,warn"),
        ("/logging?reset=whatever", "ractor=off,info"),
    ] {
        let now = format!("current log level is {filter}\n");
        assert_eq!(ask(server, "POST", path).await, (200, now), "{path}");
    }
    let (status, text) = ask(server, "POST", "/logging?reset&level=debug,access").await;
    assert!(
        status == 400 && text.starts_with("Invalid level provided: access\nusage: POST"),
        "{status} {text}"
    );
    let (status, text) = ask(server, "GET", "/logging").await;
    assert!(status == 405 && text.contains("usage: POST /logging?level=<level>"), "{status} {text}");
    assert_eq!(ask(server, "POST", "/logging").await.1, "current log level is ractor=off,info\n");
    world.tree.stop().await;
}

#[tokio::test]
async fn a_killed_server_listens_again_where_it_was() {
    let world = world().await;
    let tree = world.tree.handle();
    let server = &world.servers.readiness;
    let before = server.bound().to_vec();
    for kill in 1..=2 {
        // A connection under way must not keep the port.
        let _idle = TcpStream::connect(before[0]).await.unwrap();
        tree.kill("admin/readiness").unwrap();
        while tree.find("admin/readiness").unwrap().restarts < kill {
            tokio::task::yield_now().await;
        }
        assert_eq!(ask(server, "GET", "/healthz/ready").await.0, 200);
    }
    assert_eq!(server.bound(), before);
    assert_eq!(tree.find("admin/stats").unwrap().restarts, 0, "its neighbours go on");
    world.tree.stop().await;
}

#[tokio::test]
async fn a_port_in_use_fails_the_start_and_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let metrics = Metrics::new("x").unwrap();
    let server = HttpServer::new("stats", vec![addr], Readiness::new().handler(), metrics);
    let spec = SupervisorSpec::new("admin", Strategy::OneForOne).child(server.child());
    let error = Tree::start(spec).await.err().unwrap().to_string();
    assert!(error.contains(&format!("the stats server cannot listen on {addr}")), "{error}");
}

async fn one_server(limits: ServerLimits, answer: Handler) -> (HttpServer, Tree, Arc<Metrics>) {
    let metrics = Metrics::new("x").unwrap();
    let server = HttpServer::with_limits("one", loopback(), answer, Arc::clone(&metrics), limits);
    let spec = SupervisorSpec::new("admin", Strategy::OneForOne)
        .intensity(Intensity { restarts: 3, within: Duration::from_secs(60) })
        .child(server.child());
    (server, Tree::start(spec).await.unwrap(), metrics)
}

#[tokio::test]
async fn a_head_that_does_not_come_ends_the_connection() {
    let limits = ServerLimits { head_within: Duration::from_millis(20), ..ServerLimits::default() };
    let (server, tree, _) = one_server(limits, Readiness::new().handler()).await;
    let mut slow = TcpStream::connect(server.bound()[0]).await.unwrap();
    slow.write_all(b"GET / HT").await.unwrap();
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).await.unwrap();
    tree.stop().await;
}

#[tokio::test]
async fn an_idle_connection_makes_room_on_a_full_server() {
    let limits = ServerLimits { connections: 1, ..ServerLimits::default() };
    let (server, tree, _) = one_server(limits, Readiness::new().handler()).await;
    let mut first = TcpStream::connect(server.bound()[0]).await.unwrap();
    first.write_all(b"GET /healthz/ready HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut start = [0; 12];
    first.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    // The first keeps its connection and would ask on.
    assert_eq!(ask(&server, "GET", "/healthz/ready").await.0, 200);
    let mut rest = Vec::new();
    first.read_to_end(&mut rest).await.unwrap();
    tree.stop().await;
}

/// A handler that tells by `entered` that it was asked, and answers when `go` is told.
fn slow(entered: &Arc<Notify>, go: &Arc<Notify>) -> Handler {
    let (entered, go) = (Arc::clone(entered), Arc::clone(go));
    handler(move |_| {
        let (entered, go) = (Arc::clone(&entered), Arc::clone(&go));
        async move {
            entered.notify_one();
            go.notified().await;
            text(http::StatusCode::OK, "late\n")
        }
    })
}

#[tokio::test]
async fn connections_past_the_limit_wait_while_all_are_busy() {
    let limits = ServerLimits { connections: 1, ..ServerLimits::default() };
    let (entered, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (server, tree, _) = one_server(limits, slow(&entered, &go)).await;
    let mut first = TcpStream::connect(server.bound()[0]).await.unwrap();
    first.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    entered.notified().await;
    let second = ask(&server, "GET", "/");
    tokio::pin!(second);
    assert!(futures_now(second.as_mut()).await.is_none(), "the first holds the only place");
    go.notify_one();
    let mut start = [0; 12];
    first.read_exact(&mut start).await.unwrap();
    go.notify_one();
    assert_eq!(second.await, (200, "late\n".to_owned()));
    tree.stop().await;
}

#[tokio::test]
async fn a_connection_ends_after_so_many_requests() {
    let limits = ServerLimits { requests: 2, ..ServerLimits::default() };
    let (server, tree, _) = one_server(limits, Readiness::new().handler()).await;
    let mut client = TcpStream::connect(server.bound()[0]).await.unwrap();
    client.write_all(&b"GET /healthz/ready HTTP/1.1\r\nhost: x\r\n\r\n".repeat(3)).await.unwrap();
    let mut answers = Vec::new();
    let _ = client.read_to_end(&mut answers).await;
    let answers = String::from_utf8(answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 2, "{answers}");
    assert_eq!(answers.matches("connection: close").count(), 1, "{answers}");
    tree.stop().await;
}

/// The output of `future` if it is there within a few turns of the runtime.
async fn futures_now<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    for _ in 0..50 {
        tokio::select! {
            biased;
            output = &mut future => return Some(output),
            () = tokio::task::yield_now() => {}
        }
    }
    None
}

#[tokio::test]
async fn a_stop_waits_for_the_request_under_way() {
    let (entered, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (server, tree, _) = one_server(ServerLimits::default(), slow(&entered, &go)).await;
    let asked = ask(&server, "GET", "/");
    let stopped = async {
        entered.notified().await;
        let stop = tree.stop();
        tokio::pin!(stop);
        assert!(futures_now(stop.as_mut()).await.is_none(), "a request is under way");
        assert!(TcpStream::connect(server.bound()[0]).await.is_err(), "but no new one comes in");
        go.notify_one();
        stop.await;
    };
    let (answer, ()) = tokio::join!(asked, stopped);
    assert_eq!(answer, (200, "late\n".to_owned()));
}

#[tokio::test]
async fn a_handler_that_panics_costs_one_connection() {
    let crash = handler(|request: http::request::Parts| async move {
        assert!(request.uri.path() != "/crash", "asked to crash");
        text(http::StatusCode::OK, "fine\n")
    });
    let (server, tree, metrics) = one_server(ServerLimits::default(), crash).await;
    let mut stream = TcpStream::connect(server.bound()[0]).await.unwrap();
    stream.write_all(b"GET /crash HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    assert_eq!(ask(&server, "GET", "/").await, (200, "fine\n".to_owned()));
    assert!(metrics.encode().contains("warren_task_panics_total{kind=\"http\"} 1\n"));
    tree.stop().await;
}

#[tokio::test]
async fn an_address_the_machine_has_not_is_left_out_beside_another() {
    let addrs = vec!["127.0.0.1:0".parse().unwrap(), "[2001:db8::1]:0".parse().unwrap()];
    let server = HttpServer::new("two", addrs, Readiness::new().handler(), Metrics::new("x").unwrap());
    let spec = SupervisorSpec::new("admin", Strategy::OneForOne).child(server.child());
    let tree = Tree::start(spec).await.unwrap();
    assert_eq!(server.bound().len(), 1);
    assert_eq!(ask(&server, "GET", "/healthz/ready").await.0, 200);
    tree.stop().await;
}

#[tokio::test]
async fn a_server_that_is_closed_listens_no_more() {
    let world = world().await;
    let server = &world.servers.readiness;
    let to = server.bound()[0];
    assert_eq!(ask(server, "GET", "/healthz/ready").await.0, 200);
    server.close();
    let refused = async {
        while TcpStream::connect(to).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), refused).await.expect("a port that nobody listens on");
    // The others go on.
    assert_eq!(ask(&world.servers.stats, "GET", "/metrics").await.0, 200);
    world.tree.stop().await;
}

#[test]
fn the_version_names_the_compiler_and_the_libraries_that_encrypt() {
    let version = version("1.30.3");
    let rustc = version["rustVersion"].as_str().unwrap();
    assert!(rustc.split('.').filter_map(|part| part.parse::<u32>().ok()).count() >= 2, "{rustc}");
    let crypto = version["cryptoProvider"].as_str().unwrap();
    for name in ["aws-lc-rs ", "ring ", "rustls "] {
        let number = crypto.split(", ").find_map(|library| library.strip_prefix(name));
        assert!(number.is_some_and(|number| number.starts_with(|c: char| c.is_ascii_digit())), "{crypto}");
    }
}
