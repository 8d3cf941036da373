//! A load generator for HTTP/1.1: a number of clients that each wait for an answer before the next request.

use std::{
    cell::Cell,
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::{JoinSet, LocalSet},
};

use super::{
    AppError, Background, Latencies, Route, Stop, background, connect,
    http::{HEAD_BYTES, content_length, head_length, wants_close},
    left,
};

/// The load on a server. It ends with `requests`, `time` or the owner's stop, whichever comes first.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The `host` header.
    pub host: String,
    /// The number of clients at once.
    pub clients: usize,
    /// Whether a client keeps its connection for the next request, unless the answer says that the connection ends.
    pub keep_alive: bool,
    /// The largest number of requests of all clients together.
    pub requests: u64,
    /// How long the load lasts at most.
    pub time: Duration,
    /// How long one request may take, its connection included.
    pub limit: Duration,
    /// The time from one request of a client to its next, if the answer has come by then; zero means no pause.
    pub interval: Duration,
}

/// The result of a load.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The number of requests begun.
    pub requests: u64,
    /// The number of requests without a whole 200 answer.
    pub failures: u64,
    /// What happened to the first failed request.
    pub first_failure: Option<String>,
    /// The number of connections opened.
    pub connections: u64,
    /// How long answered requests took, from the first byte sent (or the connect) to the last byte received.
    pub latencies: Latencies,
    /// How long the whole load took.
    pub elapsed: Duration,
}

/// One client's connection, and the bytes that the client has read beyond an answer.
struct Client {
    to: SocketAddr,
    request: Vec<u8>,
    keep_alive: bool,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

// === impl Report ===

impl Report {
    /// The number of answered requests per second.
    pub fn rate(&self) -> f64 {
        self.latencies.count() as f64 / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }

    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.failures += other.failures;
        self.connections += other.connections;
        self.first_failure = self.first_failure.take().or(other.first_failure);
        self.latencies.merge(&other.latencies);
    }
}

/// Runs `plan` and waits until it ends.
pub fn run(route: &Route, plan: Plan) -> Result<Report, AppError> {
    start(route, plan)?.wait()
}

/// Starts `plan` in the background.
pub fn start(route: &Route, plan: Plan) -> Result<Background<Report>, AppError> {
    let to = route.to;
    background(&route.from, move |stop| async move {
        let begun = Instant::now();
        let mut report = LocalSet::new().run_until(clients(to, plan, stop)).await;
        report.elapsed = begun.elapsed();
        report
    })
}

async fn clients(to: SocketAddr, plan: Plan, stop: Stop) -> Report {
    let connection = if plan.keep_alive { "" } else { "connection: close\r\n" };
    let request = format!("GET / HTTP/1.1\r\nhost: {}\r\n{connection}\r\n", plan.host).into_bytes();
    let budget = std::rc::Rc::new(Cell::new(plan.requests));
    let deadline = Instant::now() + plan.time;
    let mut tasks = JoinSet::new();
    for _ in 0..plan.clients {
        let client = Client::new(to, request.clone(), plan.keep_alive);
        let (budget, stop) = (budget.clone(), stop.clone());
        tasks.spawn_local(one_client(client, budget, deadline, plan.clone(), stop));
    }
    let mut report = Report::default();
    while let Some(done) = tasks.join_next().await {
        match done {
            Ok(part) => report.add(part),
            Err(error) => {
                report.failures += 1;
                report.first_failure.get_or_insert_with(|| error.to_string());
            }
        }
    }
    report
}

async fn one_client(
    mut client: Client,
    budget: std::rc::Rc<Cell<u64>>,
    deadline: Instant,
    Plan { limit, interval, .. }: Plan,
    mut stop: Stop,
) -> Report {
    let mut report = Report::default();
    loop {
        let (now, allowed) = (Instant::now(), budget.get());
        if now >= deadline || allowed == 0 || stop.is_stopped() {
            return report;
        }
        budget.set(allowed - 1);
        report.requests += 1;
        report.connections += u64::from(client.stream.is_none());
        // A request that the plan's end cut short would not be a failure of the server, so the request may take its
        // time.
        let answered = tokio::time::timeout(limit, client.ask(limit)).await;
        match answered.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(()) => report.latencies.record(now.elapsed()),
            Err(error) => {
                report.failures += 1;
                report.first_failure.get_or_insert_with(|| error.to_string());
                client.forget();
                // The pause keeps instant refusals from causing a storm of requests.
                tokio::time::sleep(left(deadline, Duration::from_millis(1))).await;
            }
        }
        let rest = left(deadline, interval.saturating_sub(now.elapsed()));
        if !rest.is_zero() {
            // The top of the loop checks the owner's stop.
            let _ = tokio::time::timeout(rest, stop.stopped()).await;
        }
    }
}

// === impl Client ===

impl Client {
    fn new(to: SocketAddr, request: Vec<u8>, keep_alive: bool) -> Self {
        Self { to, request, keep_alive, stream: None, buffer: Vec::with_capacity(1024) }
    }

    fn forget(&mut self) {
        self.stream = None;
        self.buffer.clear();
    }

    async fn ask(&mut self, limit: Duration) -> io::Result<()> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => connect(self.to, limit).await?,
        };
        stream.write_all(&self.request).await?;
        let (status, is_last) = self.answer(&mut stream).await?;
        if self.keep_alive {
            self.stream = (!is_last).then_some(stream);
        } else if stream.read_buf(&mut self.buffer).await? != 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "bytes after the last answer"));
        }
        if status == 200 { Ok(()) } else { Err(io::Error::other(format!("status {status}"))) }
    }

    /// Reads one whole answer. Returns its status, and whether the connection ends with the answer.
    async fn answer(&mut self, stream: &mut TcpStream) -> io::Result<(u16, bool)> {
        loop {
            if let Some(head_bytes) = head_length(&self.buffer) {
                let head = self.buffer.get(..head_bytes).unwrap_or_default();
                let is_last = wants_close(head);
                let head = str::from_utf8(head).map_err(io::Error::other)?;
                let (status, body) =
                    (head.get(9..12).and_then(|code| code.parse().ok()), content_length(head));
                let (Some(status), Some(body)) = (status, body) else {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "not an HTTP answer with a length",
                    ));
                };
                if self.buffer.len() >= head_bytes + body {
                    self.buffer.drain(..head_bytes + body);
                    return Ok((status, is_last));
                }
            } else if self.buffer.len() > HEAD_BYTES {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer without end of its head"));
            }
            if stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}
