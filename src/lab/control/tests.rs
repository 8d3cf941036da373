//! Tests of the control plane with real clients over TLS.

use prost::Message;
use tokio_stream::StreamExt;
use tonic::{Streaming, transport::Channel};

use super::{
    resources::{ADDRESS, AUTHORIZATION},
    *,
};
use crate::{
    actors::control::grpc::{self, GrpcTarget},
    protocols::{
        config::{Address, RootSource},
        pb::{
            ads::{
                self, DeltaDiscoveryRequest, DeltaDiscoveryResponse,
                aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
            },
            ca::{IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient},
            workload as wl,
        },
    },
};

const LIMIT: Duration = Duration::from_secs(10);
const ONE: &str = "nodes: {n: }\npods: [{name: a}]\npolicies: [{name: p, action: DENY}]\n";
const TWO: &str = "nodes: {n: }\npods: [{name: a}, {name: b}]\npolicies: [{name: p, action: DENY}]\n";

fn dir(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("warren-control-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

fn mesh(text: &str) -> Mesh {
    Mesh::parse(text).unwrap()
}

fn start(name: &str, text: &str) -> ControlPlane {
    ControlPlane::start(Options::local(dir(name), Source::Given(Box::new(mesh(text))))).unwrap()
}

async fn channel(plane: &ControlPlane) -> Channel {
    let address = Address { host: "127.0.0.1".into(), port: plane.addr().port() };
    let roots = RootSource::File(plane.root_pem_path().to_string_lossy().into_owned());
    let target = GrpcTarget::at(address, roots);
    grpc::connect(&target).await.unwrap()
}

/// One discovery stream of a client that answers when the test tells it to.
struct Client {
    out: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Client {
    async fn open(plane: &ControlPlane) -> Self {
        let (out, requests) = mpsc::channel(8);
        let mut stub = AggregatedDiscoveryServiceClient::new(channel(plane).await);
        let mut client = None;
        // The server answers the call before it has seen a request.
        if let Ok(response) = stub.delta_aggregated_resources(ReceiverStream::new(requests)).await {
            client = Some(Self { out, responses: response.into_inner() });
        }
        client.expect("a stream")
    }

    async fn subscribe(&self, type_url: &str) {
        let fields = [(
            "NODE_NAME".to_owned(),
            prost_types::Value { kind: Some(prost_types::value::Kind::StringValue("n".into())) },
        )];
        let metadata = Some(prost_types::Struct { fields: fields.into() });
        let node =
            Some(ads::Node { id: "ztunnel~1.1.1.1~z.ns~ns.svc".into(), metadata, ..Default::default() });
        self.send(DeltaDiscoveryRequest { node, type_url: type_url.into(), ..Default::default() }).await;
    }

    async fn send(&self, request: DeltaDiscoveryRequest) {
        self.out.send(request).await.unwrap();
    }

    async fn next(&mut self) -> DeltaDiscoveryResponse {
        tokio::time::timeout(LIMIT, self.responses.next()).await.unwrap().unwrap().unwrap()
    }

    async fn answer(&self, response: &DeltaDiscoveryResponse, error: Option<&str>) {
        let error_detail = error.map(|text| ads::Status { message: text.into(), ..Default::default() });
        let (type_url, response_nonce) = (response.type_url.clone(), response.nonce.clone());
        self.send(DeltaDiscoveryRequest { type_url, response_nonce, error_detail, ..Default::default() })
            .await;
    }

    /// Subscribes to both types and acknowledges the responses; returns the names received.
    async fn sync(&mut self) -> Vec<String> {
        self.subscribe(ADDRESS).await;
        self.subscribe(AUTHORIZATION).await;
        let mut names = Vec::new();
        for _ in 0..2 {
            let response = self.next().await;
            names.extend(response.resources.iter().map(|r| r.name.clone()));
            self.answer(&response, None).await;
        }
        names.sort();
        names
    }
}

#[tokio::test]
async fn clients_get_the_mesh_and_its_changes_and_their_answers_are_counted() {
    let plane = start("changes", ONE);
    assert_eq!(plane.settled(Duration::ZERO).await.unwrap_err().1, "there is no client");
    let mut client = Client::open(&plane).await;
    assert_eq!(client.sync().await, ["Kubernetes//Pod/default/a", "default/p"]);
    plane.settled(LIMIT).await.unwrap();
    let seen = plane.seen().borrow().clone();
    let connected: Vec<_> = seen.clients().map(|c| (c.node.as_str(), c.node_name.as_str())).collect();
    assert_eq!((connected, seen.acks, seen.nacks), (vec![("ztunnel~1.1.1.1~z.ns~ns.svc", "n")], 2, 0));

    plane.update(mesh(TWO));
    let response = client.next().await;
    assert_eq!((response.type_url.as_str(), response.resources.len()), (ADDRESS, 1));
    let value = response.resources[0].resource.as_ref().unwrap().value.as_slice();
    let Some(wl::address::Type::Workload(b)) = wl::Address::decode(value).unwrap().r#type else {
        panic!("a workload")
    };
    assert_eq!(b.name, "b");
    assert!(plane.settled(Duration::ZERO).await.is_err(), "not answered yet");
    client.answer(&response, Some("b: no such thing")).await;
    plane.settled(LIMIT).await.unwrap();
    let seen = plane.seen().borrow().clone();
    assert_eq!((seen.nacks, seen.latest_nacks[0].message.as_str()), (1, "b: no such thing"));

    plane.update(mesh(ONE));
    assert_eq!(client.next().await.removed_resources, ["Kubernetes//Pod/default/b"]);
    drop(client);
    plane.seen().wait_for(|seen| seen.clients().count() == 0).await.unwrap();
}

#[tokio::test]
async fn a_mesh_file_is_followed_and_a_broken_one_changes_nothing() {
    let dir = dir("file");
    let path = dir.join("mesh.yaml");
    fs::write(&path, ONE).unwrap();
    let plane = ControlPlane::start(Options::local(&dir, Source::File(path.clone()))).unwrap();
    let mut client = Client::open(&plane).await;
    client.sync().await;
    fs::write(&path, "pods: [{name: a, node: nowhere}]").unwrap();
    let error = plane.mesh_error().wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert!(error.contains("there is no node \"nowhere\""), "{error}");
    assert_eq!(plane.mesh().borrow().pods.len(), 1);
    fs::write(&path, TWO).unwrap();
    assert_eq!(client.next().await.resources[0].name, "Kubernetes//Pod/default/b");
    assert_eq!(*plane.mesh_error().borrow(), None);
    fs::write(&path, "nonsense: true").unwrap();
    let started = ControlPlane::start(Options::local(&dir, Source::File(path)));
    assert!(matches!(started.err(), Some(ControlError::Mesh(_))));
}

#[tokio::test]
async fn cut_connections_end_and_new_ones_are_good() {
    let plane = start("cut", ONE);
    let mut client = Client::open(&plane).await;
    client.sync().await;
    plane.faults().cut_connections();
    let ended = tokio::time::timeout(LIMIT, client.responses.next()).await.unwrap();
    assert!(!matches!(ended, Some(Ok(_))), "{ended:?}");
    assert_eq!(Client::open(&plane).await.sync().await.len(), 2);
    assert_eq!(plane.seen().borrow().streams, 2);
}

#[tokio::test]
async fn a_mute_discovery_says_nothing_until_it_speaks_again() {
    let plane = start("mute", ONE);
    let mut client = Client::open(&plane).await;
    client.sync().await;
    plane.faults().mute_discovery(true);
    plane.update(mesh(TWO));
    let silent = tokio::time::timeout(Duration::from_millis(50), client.responses.next()).await;
    assert!(silent.is_err());
    plane.faults().mute_discovery(false);
    assert_eq!(client.next().await.resources.len(), 1);
}

#[tokio::test]
async fn certificates_are_signed_and_faults_are_felt() {
    let plane = start("ca", ONE);
    let mut stub = IstioCertificateServiceClient::new(channel(&plane).await);
    let identity = "spiffe://cluster.local/ns/default/sa/default";
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let value = prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(identity.into())) };
    let metadata = Some(prost_types::Struct { fields: [("ImpersonatedIdentity".to_owned(), value)].into() });
    let request = IstioCertificateRequest { csr, validity_duration: 60, metadata };

    let chain = stub.create_certificate(request.clone()).await.unwrap().into_inner().cert_chain;
    assert_eq!(chain.last(), Some(&fs::read_to_string(plane.root_pem_path()).unwrap()));
    assert_eq!(plane.authority().issued()[0].identity, identity);

    plane.faults().ca(CaFault::Fail("no such pod on your node".into()));
    let refused = stub.create_certificate(request.clone()).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (tonic::Code::Unauthenticated, "no such pod on your node")
    );
    plane.faults().ca(CaFault::Mute);
    let mute =
        tokio::time::timeout(Duration::from_millis(50), stub.create_certificate(request.clone())).await;
    assert!(mute.is_err());
    plane.faults().ca(CaFault::Slow(Duration::from_millis(1)));
    assert!(stub.create_certificate(request.clone()).await.is_ok());
    let bad = IstioCertificateRequest { csr: "nonsense".into(), ..request };
    assert_eq!(stub.create_certificate(bad).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    assert_eq!(plane.authority().issued().len(), 2);
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let plane = start("busy", ONE);
    let mut options = Options::local(dir("busy-too"), Source::Given(Box::default()));
    options.listen = plane.addr();
    let error = ControlPlane::start(options).err().unwrap().to_string();
    assert!(error.starts_with(&format!("cannot listen on {}", plane.addr())), "{error}");
}
