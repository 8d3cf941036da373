//! HTTP/2 of tunnels: a peer that follows no rule, at either end, with a victim's connection beside it on the same shard.

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split},
    time::{sleep, timeout},
};

use super::{
    frames::{PREFACE, Step, script, settings},
    input::Input,
};
use crate::{
    dataplane::{
        testing::{
            TestBed, TestPod, ask, identity, network::Plan, peers::PeerStream, run, spawn, stream::TestEnd,
        },
        tunnel::{
            dial,
            dialer::{DialError, TunnelKey},
        },
    },
    protocols::{
        addr::OrigDst,
        mesh::fixtures::{TestMesh, addr, pod, service},
        route::{self, Hop, Pick, Route, Source},
        tls::{buffer::Buffers, handshake, stream::TlsStream},
    },
    telemetry::trace::span::{SpanKind, Step as TraceStep},
};

const HOST: &str = "web.ns1.svc.cluster.local";
/// The application that both reach.
const APP: &str = "10.0.0.2:8080";
/// The time within which a victim gets its echo, by a clock that processor time does not move.
const ECHO: Duration = Duration::from_secs(1);
/// The time that the peer gives a write: the proxy need not read from a peer that breaks the rules.
const WRITE: Duration = Duration::from_secs(1);

/// Sends the script, reads what comes, and closes. `each` runs after each step.
async fn attack(tls: TlsStream<TestEnd>, steps: Vec<Step>, mut each: impl AsyncFnMut()) {
    let (mut read, mut write) = split(tls);
    let reader = spawn(async move {
        let mut space = vec![0; 1 << 16];
        while read.read(&mut space).await.is_ok_and(|n| n > 0) {}
    });
    for step in steps {
        match step {
            Step::Send(bytes) => {
                let sent = timeout(WRITE, async {
                    write.write_all(&bytes).await?;
                    write.flush().await
                });
                if !matches!(sent.await, Ok(Ok(()))) {
                    break;
                }
            }
            Step::Wait(milliseconds) => sleep(Duration::from_millis(milliseconds)).await,
        }
        each().await;
    }
    let _ = timeout(WRITE, write.shutdown()).await;
    // The peer is gone, whatever the proxy still has to say.
    drop(write);
    reader.abort();
    let _ = reader.await;
}

/// An application that sends back what it gets. `mute`: one that reads nothing.
async fn application(mut end: TestEnd, mute: bool) {
    if mute {
        sleep(Duration::from_secs(120)).await;
        return;
    }
    let mut space = vec![0; 1 << 14];
    while let Ok(n @ 1..) = end.read(&mut space).await {
        if end.write_all(&space[..n]).await.is_err() {
            return;
        }
    }
    let _ = end.shutdown().await;
}

async fn echo(near: &mut (impl AsyncRead + AsyncWrite + Unpin), mut far: impl AsyncFnMut(&str)) {
    let heard = async {
        near.write_all(b"ping").await.unwrap();
        far("ping").await;
        let mut got = [0; 4];
        near.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"ping");
    };
    timeout(ECHO, heard).await.expect("the victim waits for its echo");
}

/// A victim at the server's end: its stream, and its application.
async fn serve_victim(peer: &mut PeerStream, app: &mut TestEnd) {
    let served = async {
        peer.say("ping");
        app.hears("ping").await;
        app.say("pong").await;
        peer.hears("pong").await;
    };
    timeout(ECHO, served).await.expect("the victim waits for its echo");
}

/// A peer at the server's end of a tunnel.
pub fn h2_server(data: &[u8]) {
    let mut input = Input::new(data);
    let mesh = TestMesh::new()
        .with(pod("client", "10.0.0.1").hbone())
        .with(pod("server", "10.0.0.2").hbone().local().of(HOST, &[]))
        .with(service(HOST, "10.1.0.1"));
    run(mesh, async |bed| {
        let pod = bed.pod("server", "10.0.0.2");
        pod.network.plan(APP, Plan::Accept);
        let tunnel = bed.tunnel(&pod, ("client", "10.0.0.1:50000")).await;
        let (_, _, mut peer) = ask(&tunnel.send, (http::Method::CONNECT, APP), &[]).await.unwrap();
        let mut app = pod.network.accepted(APP).await;
        // The applications of the other peer.
        let (network, mute) = (pod.network.clone(), input.flip());
        let applications = spawn(async move {
            loop {
                spawn(application(network.accepted(APP).await, mute));
            }
        });
        let mut conn = bed.connect_peer(&pod, "10.0.0.3:50000");
        let app_end = std::mem::replace(&mut conn.app, unused());
        let cert = bed.certs.of_peer(&identity("odd"));
        let config = cert.client_config(std::slice::from_ref(&pod.identity));
        let name = addr("10.0.0.2:1").ip().into();
        let (mut tls, _) = handshake::connect(config, name, app_end, Buffers::default()).await.unwrap();
        if input.below(8) != 7 {
            tls.write_all(PREFACE).await.unwrap();
            tls.write_all(&settings()).await.unwrap();
        }
        let steps = script(&mut input, &[APP, "10.0.0.2:1", "web.ns1.svc.cluster.local:80", "[::1]:80"]);
        attack(tls, steps, async || serve_victim(&mut peer, &mut app).await).await;
        conn.done().await;
        serve_victim(&mut peer, &mut app).await;
        peer.finish();
        app.finish().await;
        assert!(peer.raw_end().await == crate::dataplane::testing::peers::StreamEnd::Finished);
        tunnel.leave().await;
        // What the applications have not taken is given up after a bounded time.
        sleep(Duration::from_secs(600)).await;
        assert_eq!((pod.conns.live.len(), pod.conns.peers.len()), (0, 0), "connections are left");
        applications.abort();
    });
}

/// An end that nobody uses.
fn unused() -> TestEnd {
    crate::dataplane::testing::stream::connection(addr("10.0.0.9:1"), None).0
}

/// The key of the tunnels to "server".
fn key(bed: &TestBed, pod: &TestPod) -> TunnelKey {
    let workload = pod.outbound.pod.now().unwrap();
    let source = Source { workload: &workload, client: addr("10.0.0.1:1").ip() };
    let mut rng = bed.shard.rng.borrow_mut();
    let mut pick = Pick { rng: &mut *rng, excluded: &[], suspicion: None, recorder: () };
    let dst = OrigDst::new(addr("10.0.0.2:80"));
    let Route { hop: Hop::Hbone { sans, .. }, .. } =
        route::outbound(pod.outbound.pod.mesh.tables(), &source, dst, &mut pick).unwrap()
    else {
        panic!("not a tunnel");
    };
    TunnelKey { to: addr("10.0.0.2:15008"), identity: pod.identity.clone(), sans }
}

/// A peer at the client's end of a tunnel.
pub fn h2_client(data: &[u8]) {
    let mut input = Input::new(data);
    let mesh = TestMesh::new()
        .with(pod("client", "10.0.0.1").hbone().local())
        .with(pod("server", "10.0.0.2").hbone())
        .with(pod("other", "10.0.0.3").hbone());
    run(mesh, async |bed| {
        let pod = bed.pod("client", "10.0.0.1");
        let mut victim = bed.connect(&pod, "10.0.0.1:1000", "10.0.0.3:80");
        let mut far = pod.peers.asked("10.0.0.3:15008").await.accept();
        pod.network.plan("10.0.0.2:15008", Plan::Accept);
        let (key, (tell, dialled)) = (key(bed, &pod), tokio::sync::oneshot::channel());
        let ready: dial::Ready = Box::new(move |result: Result<(), std::sync::Arc<DialError>>| {
            let _ = tell.send(result.is_ok());
        });
        let step = TraceStep::new("dial", SpanKind::Internal);
        let task = spawn(dial::run(bed.shard.clone(), pod.dial.clone(), key, step, ready));
        let end = pod.network.accepted("10.0.0.2:15008").await;
        let config = bed.certs.of_peer(&identity("server")).server_config();
        let (mut tls, _) = handshake::accept(config, end, Buffers::default()).await.unwrap();
        let early = input.below(8) == 7;
        if !early {
            tls.write_all(&settings()).await.unwrap();
            tls.flush().await.unwrap();
        }
        let mut apps = Vec::new();
        if !early && dialled.await.unwrap() {
            for at in 0..1 + input.below(4) {
                let client = format!("10.0.0.1:{}", 2000 + at);
                let mut conn = bed.connect(&pod, &client, "10.0.0.2:80");
                let end = std::mem::replace(&mut conn.app, unused());
                apps.push((conn, spawn(application(end, input.flip()))));
            }
        }
        let steps = script(&mut input, &[]);
        attack(tls, steps, async || {
            let far = &mut far;
            echo(&mut victim.app, async |text| {
                far.hears(text).await;
                far.say(text);
            })
            .await;
        })
        .await;
        task.await.unwrap();
        // The next dial may lead to an honest peer, whom nobody answers for here.
        for (mut conn, app) in apps {
            app.abort();
            let _ = app.await;
            conn.done().await;
        }
        victim.app.finish().await;
        far.finish();
        victim.done().await;
    });
}
