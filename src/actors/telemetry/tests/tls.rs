//! A collector behind TLS: by gRPC, by HTTP, and one that is not the one meant.

use std::{
    future::Future,
    path::PathBuf,
    sync::{Arc, mpsc},
    thread,
};

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, trace_service_server::TraceServiceServer,
};
use parking_lot::Mutex;
use prost::Message;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::service::Routes;

use crate::{
    actors::{
        control::grpc::peer::{Authority, Cert},
        telemetry::CollectorDialer,
    },
    protocols::outcome::Outcome,
    telemetry::trace::tests::{Received, connection, traced_by},
};

/// A collector's port, and what it makes of those who come.
struct Stub {
    endpoint: String,
    received: Received,
    /// Why handshakes failed.
    refused: Arc<Mutex<Vec<String>>>,
}

/// Runs `serve` on a thread of its own, as long as the test's process lives; gives the port it says.
fn background<F: Future<Output = ()>>(serve: impl FnOnce(mpsc::Sender<u16>) -> F + Send + 'static) -> u16 {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(serve(tell));
    });
    told.recv().unwrap()
}

impl Stub {
    fn grpc(ca: Arc<Authority>) -> Self {
        let received = Received::default();
        let routes = Routes::new(TraceServiceServer::new(received.clone()));
        let port = background(|tell| async move {
            let peer = ca.serve(routes).await;
            tell.send(peer.addr.port()).unwrap();
            std::future::pending().await
        });
        Self { endpoint: format!("https://localhost:{port}"), received, refused: Arc::default() }
    }

    fn http(ca: &Authority) -> Self {
        let mut config = ServerConfig::clone(&ca.config(&Cert::of(&["localhost"])));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let (received, refused) = (Received::default(), Arc::<Mutex<Vec<String>>>::default());
        let (taken, failed) = (received.clone(), refused.clone());
        let port = background(|tell| async move {
            let acceptor = TlsAcceptor::from(Arc::new(config));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap().port()).unwrap();
            loop {
                match acceptor.accept(listener.accept().await.unwrap().0).await {
                    Ok(stream) => taken.take(request(stream).await),
                    Err(error) => failed.lock().push(error.to_string()),
                }
            }
        });
        Self { endpoint: format!("https://localhost:{port}"), received, refused }
    }

    /// One connection, traced by `protocol` to this collector, which is to prove itself to `roots`.
    fn trace(&self, protocol: &str, roots: &Authority) {
        let file = roots_file(protocol, roots);
        let vars = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*self.endpoint),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", file.to_str().unwrap()),
            ("OTEL_TRACES_SAMPLER", "always_on"),
        ];
        traced_by(&vars, "info", Arc::new(CollectorDialer), connection(None, Outcome::Complete));
        std::fs::remove_file(file).unwrap();
    }
}

fn roots_file(name: &str, roots: &Authority) -> PathBuf {
    let name = format!(
        "warren-traces-{}-{:x}-{}",
        std::process::id(),
        rand::random::<u64>(),
        name.replace('/', "-")
    );
    let file = std::env::temp_dir().join(name);
    std::fs::write(&file, roots.pem()).unwrap();
    file
}

/// Takes one request, and answers it.
async fn request(mut stream: TlsStream<TcpStream>) -> ExportTraceServiceRequest {
    let mut bytes = Vec::new();
    loop {
        assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "the request ends too soon");
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let body = &bytes[end + 4..];
        if body.len() < length.parse().unwrap() {
            continue;
        }
        let request = ExportTraceServiceRequest::decode(body).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        stream.shutdown().await.unwrap();
        return request;
    }
}

#[test]
fn a_collector_behind_tls_gets_the_spans_by_grpc_and_by_http() {
    let ca = Arc::new(Authority::new());
    for (protocol, stub) in [("grpc", Stub::grpc(ca.clone())), ("http/protobuf", Stub::http(&ca))] {
        stub.trace(protocol, &ca);
        let (first, policy) = (stub.received.find("inbound"), stub.received.find("policy"));
        assert_eq!(policy.parent_span_id, first.span_id, "{protocol}");
    }
}

#[test]
fn a_collector_that_others_vouch_for_gets_nothing() {
    let (ca, others) = (Authority::new(), Authority::new());
    let stub = Stub::http(&ca);
    stub.trace("http/protobuf", &others);
    let refused = stub.refused.lock().clone();
    assert!(refused.iter().any(|why| why.contains("UnknownCA")), "{refused:?}");
    assert!(stub.received.0.lock().is_empty());
}
