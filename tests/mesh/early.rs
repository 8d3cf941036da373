//! What a client says before its connection is through, as the peer's proxy hears it.

use std::{
    io::{Read, Write},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{Request, Response};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::{JoinSet, LocalSet},
    time::timeout,
};
use warren::{
    lab::apps::{Background, Stop, background},
    protocols::{
        config::Http2Config,
        hbone::server,
        tls::{WorkloadCert, buffer::Buffers, handshake},
    },
};

use crate::{
    support::{self, *},
    tunnel::{certificate, id},
};

/// Two pods whose proxies the test plays, and a service of both.
const PLAYED: &str = "
  - {name: first, serviceAccount: played, node: two, ip: 10.77.2.11, captured: false, protocol: HBONE}
  - {name: second, serviceAccount: played, node: two, ip: 10.77.2.12, captured: false, protocol: HBONE}
services:
  - {name: played, vips: 10.96.0.81, ports: {80: 9000}, endpoints: [first, second]}
";
const FIRST: &str = "10.77.2.11:9000";
const SERVICE: &str = "10.96.0.81:80";
/// How long a peer listens that is to hear nothing.
const QUIET: Duration = Duration::from_millis(300);

/// What a peer does with a CONNECT, once it has heard what comes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// 200, and what is said comes back.
    Echo,
    /// This status.
    Status(u16),
    /// The stream is refused, unlooked at.
    Refused,
    /// The connection is closed, without a word.
    Gone,
}

/// The proxies of both pods.
struct Peers {
    /// What came before the answer, each time.
    heard: mpsc::Receiver<Vec<u8>>,
    _running: Vec<Background<()>>,
}

impl Peers {
    /// Plays both: the requests that come, to either of them, are answered by `script` in turn, and the rest as its last.
    fn play(lab: &mut Lab, script: &'static [Answer], patience: Duration) -> Self {
        let cert = certificate(lab, &id("played"));
        let (tell, heard) = mpsc::channel();
        let asked = Arc::new(AtomicUsize::new(0));
        let running = ["first", "second"].map(|pod| {
            let listener = listen(lab.pod(pod).unwrap(), 15008);
            listener.set_nonblocking(true).unwrap();
            let (cert, tell, asked) = (cert.clone(), tell.clone(), asked.clone());
            let next = move || {
                let nth = asked.fetch_add(1, Ordering::Relaxed);
                script[nth.min(script.len() - 1)]
            };
            let peer = Peer { cert, tell, next: Arc::new(next), patience };
            let run = move |mut stop: Stop| async move {
                let listener = TcpListener::from_std(listener).unwrap();
                let accepting = async {
                    let mut tunnels = JoinSet::new();
                    while let Ok((stream, _)) = listener.accept().await {
                        tunnels.spawn_local(peer.clone().serve(stream));
                    }
                };
                LocalSet::new()
                    .run_until(async {
                        tokio::select! {
                            () = stop.stopped() => {}
                            () = accepting => {}
                        }
                    })
                    .await;
            };
            background(lab.pod(pod).unwrap(), run).unwrap()
        });
        Self { heard, _running: running.into() }
    }

    fn heard(&self) -> Vec<u8> {
        self.heard.recv_timeout(LIMIT).expect("no request")
    }
}

#[derive(Clone)]
struct Peer {
    cert: Arc<WorkloadCert>,
    tell: mpsc::Sender<Vec<u8>>,
    next: Arc<dyn Fn() -> Answer + Send + Sync>,
    patience: Duration,
}

impl Peer {
    async fn serve(self, stream: TcpStream) {
        let Ok((stream, _)) = handshake::accept(self.cert.server_config(), stream, Buffers::default()).await
        else {
            return;
        };
        let mut connection = server::handshake(stream, &Http2Config::default()).await.unwrap();
        let gone = Arc::new(Notify::new());
        let mut streams = JoinSet::new();
        loop {
            tokio::select! {
                accepted = connection.accept() => match accepted {
                    Some(Ok((request, respond))) => {
                        streams.spawn_local(self.clone().answer(request, respond, gone.clone()));
                    }
                    _ => return,
                },
                () = gone.notified() => return,
            }
        }
    }

    async fn answer(self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>, gone: Arc<Notify>) {
        let mut body = request.into_body();
        let said = match timeout(self.patience, body.data()).await {
            Ok(Some(Ok(said))) => said,
            _ => Bytes::new(),
        };
        self.tell.send(said.to_vec()).unwrap();
        match (self.next)() {
            Answer::Echo => {
                let mut back = respond.send_response(Response::new(()), false).unwrap();
                back.send_data(said, false).unwrap();
                while let Some(Ok(said)) = body.data().await {
                    back.send_data(said, false).unwrap();
                }
                // The client may have gone without a word.
                let _ = back.send_data(Bytes::new(), true);
            }
            Answer::Status(status) => {
                let answer = Response::builder().status(status).body(()).unwrap();
                respond.send_response(answer, true).unwrap();
            }
            Answer::Refused => respond.send_reset(Reason::REFUSED_STREAM),
            Answer::Gone => gone.notify_one(),
        }
    }
}

fn raise_played(settings: &[(&str, &str)]) -> Lab {
    raise_with(&format!("{MESH}{PLAYED}"), settings, Default::default())
}

/// Connects to `to` and sends `text` before the proxy takes notice, so that `text` is there when the CONNECT is made.
fn say(lab: &mut Lab, to: &str, text: &[u8]) -> std::net::TcpStream {
    lab.proxy("one").unwrap().signal(libc::SIGSTOP).unwrap();
    let mut stream = dial(lab, "client", to).unwrap();
    stream.write_all(text).unwrap();
    lab.proxy("one").unwrap().signal(libc::SIGCONT).unwrap();
    stream
}

fn hear(stream: &mut std::net::TcpStream, text: &[u8]) {
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).unwrap();
    assert!(back == text, "what came back is not what was said");
}

pub(crate) fn what_a_client_has_said_goes_along_with_its_connect() {
    let mut lab = raise_played(&[]);
    // The peer does not answer before it has heard something.
    let peers = Peers::play(&mut lab, &[Answer::Echo], LIMIT);
    // Four KiB go along; the rest follows.
    let text: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
    let mut stream = say(&mut lab, FIRST, &text[..8192]);
    stream.write_all(&text[8192..]).unwrap();
    hear(&mut stream, &text);
    assert_eq!(peers.heard(), text[..4096]);
    // All of it is counted once.
    drop(stream);
    let line = crate::logs::line(&lab, "one", &[("direction", "outbound"), ("dst.workload", "first")]);
    assert!(line.has(&[("bytes_sent", "100000"), ("bytes_recv", "100000")]), "{line:#?}");
}

pub(crate) fn a_client_that_says_nothing_is_put_through_all_the_same() {
    let mut lab = raise_played(&[]);
    let peers = Peers::play(&mut lab, &[Answer::Echo], QUIET);
    let mut stream = dial(&lab, "client", FIRST).unwrap();
    assert_eq!(peers.heard(), b"");
    echo(&mut stream, b"said later").unwrap();
}

pub(crate) fn nothing_goes_along_where_that_is_turned_off() {
    let mut lab = raise_played(&[("WARREN_EARLY_DATA", "false")]);
    let peers = Peers::play(&mut lab, &[Answer::Echo], QUIET);
    let mut stream = dial(&lab, "client", FIRST).unwrap();
    echo(&mut stream, b"said at once").unwrap();
    assert_eq!(peers.heard(), b"");
}

pub(crate) fn what_nobody_took_up_is_said_again_elsewhere() {
    for unheard in [&[Answer::Status(503), Answer::Echo], &[Answer::Refused, Answer::Echo]] {
        let mut lab = raise_played(&[]);
        let peers = Peers::play(&mut lab, unheard, LIMIT);
        let mut stream = say(&mut lab, SERVICE, b"said once");
        hear(&mut stream, b"said once");
        assert_eq!([peers.heard(), peers.heard()], [b"said once", b"said once"], "{unheard:?}");
    }
}

pub(crate) fn what_may_have_been_taken_up_is_not_said_again() {
    let mut lab = raise_played(&[]);
    let peers = Peers::play(&mut lab, &[Answer::Gone, Answer::Echo], LIMIT);
    let mut stream = say(&mut lab, SERVICE, b"said once");
    assert_eq!(support::end_of(&mut stream), End::Reset);
    assert_eq!(peers.heard(), b"said once");
    // The next one is another's, not the same again.
    let mut stream = say(&mut lab, SERVICE, b"another");
    hear(&mut stream, b"another");
    assert_eq!(peers.heard(), b"another");
}

pub(crate) fn who_was_heard_and_is_refused_is_reset() {
    let mut lab = raise_played(&[]);
    let peers = Peers::play(&mut lab, &[Answer::Status(401)], LIMIT);
    let mut stream = say(&mut lab, FIRST, b"let me in");
    assert_eq!(support::end_of(&mut stream), End::Reset);
    assert_eq!(peers.heard(), b"let me in");
}
