//! Repeats one request as fast as answers come, and measures how long each answer took. The code is lean enough to
//! measure what is between the two ends. The first answer of a connection is parsed; every further answer has to be
//! the same bytes. [`super::load`] and [`super::http`] accept any answer.

use std::{
    cell::RefCell,
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::{JoinSet, LocalSet},
};

use super::{
    AppError, Background, Latencies, Route, Stop, accept_all, background, connect,
    http::{content_length, head_length},
    listen,
};
use crate::lab::net::Namespace;

const KEEP_REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n";
const CLOSE_REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n";
const KEEP_RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const CLOSE_RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
const BUFFER_BYTES: usize = 1024;

/// How the clients send requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// The number of clients at once.
    pub clients: usize,
    /// Whether a client keeps its connection for the next request.
    pub keep_alive: bool,
    /// How long the clients send requests.
    pub time: Duration,
    /// How long open requests may still take once `time` has passed.
    pub limit: Duration,
}

/// The result of a plan.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// The number of requests without a whole, correct answer.
    pub failures: u64,
    /// What happened to the first failed request.
    pub first_failure: Option<String>,
    /// How long answered requests took, including the connect if each request has its own connection.
    pub latencies: Latencies,
    /// How long the whole plan took.
    pub elapsed: Duration,
    /// The number of requests that are sent and not answered yet.
    open: u64,
}

/// The report that all clients share.
type Shared = Rc<RefCell<Report>>;

/// A connection and its expected answer.
struct Client {
    stream: TcpStream,
    buffer: [u8; BUFFER_BYTES],
    /// The first answer; empty before it has come.
    answer: Vec<u8>,
}

// === impl Report ===

impl Report {
    /// The number of answered requests per second.
    pub(crate) fn rate(&self) -> f64 {
        self.latencies.count() as f64 / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }

    fn fail(&mut self, why: impl ToString) {
        self.failures += 1;
        self.first_failure.get_or_insert_with(|| why.to_string());
    }
}

/// Answers on `port` of `namespace` until the value is dropped. The server sends 200 and two bytes to each request; a
/// client must not pipeline requests. If the first request of a connection asks to close it, the server closes it
/// after the answer. The result counts connections.
pub(crate) fn serve(namespace: &Namespace, ip: IpAddr, port: u16) -> Result<Background<u64>, AppError> {
    let listener = listen(namespace, ip, port)?;
    background(namespace, move |stop| {
        accept_all(listener, stop, |stream, _| async move {
            // A client that goes away is no failure of the server.
            let _ = answers(stream).await;
        })
    })
}

/// Runs `plan` and waits until it ends.
pub(crate) fn run(route: &Route, plan: Plan) -> Result<Report, AppError> {
    start(route, plan)?.wait()
}

/// Starts `plan` in the background.
pub(crate) fn start(route: &Route, plan: Plan) -> Result<Background<Report>, AppError> {
    let to = route.to;
    background(&route.from, move |stop| async move {
        let begun = Instant::now();
        let mut report = LocalSet::new().run_until(clients(to, plan, stop)).await;
        report.elapsed = begun.elapsed();
        report
    })
}

/// Opens connections, has one request answered on each, and keeps them until the value is dropped or `time` has
/// passed. The call returns once all connections are open. Errors: a connection could not be opened.
pub(crate) fn hold(
    route: &Route,
    count: usize,
    time: Duration,
    limit: Duration,
) -> Result<Background<()>, AppError> {
    let (to, (tell, told)) = (route.to, std::sync::mpsc::sync_channel(1));
    let held = background(&route.from, move |mut stop| async move {
        let open = async {
            let mut held = Vec::with_capacity(count);
            for _ in 0..count {
                let mut client = Client::open(to, limit).await?;
                tokio::time::timeout(limit, client.ask(KEEP_REQUEST)).await??;
                // The measurement is of the connections, so the buffers are dropped.
                held.push(client.stream);
            }
            io::Result::Ok(held)
        };
        let opened = open.await;
        let (held, result) = match opened {
            Ok(held) => (held, Ok(())),
            Err(error) => (Vec::new(), Err(error)),
        };
        // The receiver waits for exactly this result.
        if tell.send(result).is_ok() && !held.is_empty() {
            // Both the end of the time and the owner's stop end the hold.
            let _ = tokio::time::timeout(time, stop.stopped()).await;
        }
    })?;
    let opened = told.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()));
    opened.map(|()| held).map_err(|error| route.failed("open a connection to hold", error))
}

async fn clients(to: SocketAddr, plan: Plan, stop: Stop) -> Report {
    let (report, mut tasks) = (Shared::default(), JoinSet::new());
    let deadline = Instant::now() + plan.time;
    for _ in 0..plan.clients {
        let (report, stop) = (report.clone(), stop.clone());
        tasks.spawn_local(async move {
            while Instant::now() < deadline && !stop.is_stopped() {
                if let Err(error) = one_client(to, &plan, &report, deadline, &stop).await {
                    report.borrow_mut().fail(error);
                    // The pause keeps instant refusals from causing a storm of requests.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        });
    }
    let all = async {
        while let Some(done) = tasks.join_next().await {
            if let Err(error) = done {
                report.borrow_mut().fail(error);
            }
        }
    };
    let in_time = tokio::time::timeout(plan.time + plan.limit, all).await.is_ok();
    let mut report = report.take();
    if !in_time {
        let open = report.open;
        report.fail(format!("{open} requests without an answer after {:?}", plan.limit));
    }
    report
}

/// Sends requests over one connection: one request, or requests until the time has passed.
async fn one_client(
    to: SocketAddr,
    plan: &Plan,
    report: &Shared,
    deadline: Instant,
    stop: &Stop,
) -> io::Result<()> {
    let mut begun = Instant::now();
    report.borrow_mut().open += 1;
    let asked = async {
        let mut client = Client::open(to, plan.limit).await?;
        if !plan.keep_alive {
            client.ask(CLOSE_REQUEST).await?;
            client.end().await?;
            report.borrow_mut().latencies.record(begun.elapsed());
            return Ok(());
        }
        begun = Instant::now();
        loop {
            client.ask(KEEP_REQUEST).await?;
            let now = Instant::now();
            report.borrow_mut().latencies.record(now - begun);
            if now >= deadline || stop.is_stopped() {
                return Ok(());
            }
            begun = now;
        }
    };
    let asked = asked.await;
    report.borrow_mut().open -= 1;
    asked
}

async fn answers(mut stream: TcpStream) -> io::Result<()> {
    let (mut buffer, mut length) = ([0; BUFFER_BYTES], 0);
    let mut closes = None;
    loop {
        let read = stream.read(buffer.get_mut(length..).unwrap_or_default()).await?;
        length += read;
        let head = buffer.get(..length).unwrap_or_default();
        if read == 0 {
            return Ok(());
        } else if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let close = *closes.get_or_insert_with(|| head == CLOSE_REQUEST);
        stream.write_all(if close { CLOSE_RESPONSE } else { KEEP_RESPONSE }).await?;
        if close {
            return stream.shutdown().await;
        }
        length = 0;
    }
}

// === impl Client ===

impl Client {
    async fn open(to: SocketAddr, limit: Duration) -> io::Result<Self> {
        let stream = connect(to, limit).await?;
        Ok(Self { stream, buffer: [0; BUFFER_BYTES], answer: Vec::new() })
    }

    /// Sends one request and reads the answer.
    async fn ask(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.write_all(request).await?;
        let mut length = 0;
        loop {
            let read = self.stream.read(self.buffer.get_mut(length..).unwrap_or_default()).await?;
            length += read;
            let answer = self.buffer.get(..length).unwrap_or_default();
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            } else if self.answer.is_empty() {
                if is_whole(answer)? {
                    self.answer = answer.to_vec();
                    return Ok(());
                }
            } else if length >= self.answer.len() {
                let wrong = || io::Error::new(io::ErrorKind::InvalidData, "another answer than the first");
                return if answer == self.answer { Ok(()) } else { Err(wrong()) };
            }
        }
    }

    /// Waits until the server has closed the connection.
    async fn end(&mut self) -> io::Result<()> {
        match self.stream.read(&mut self.buffer).await? {
            0 => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "bytes after the last answer")),
        }
    }
}

/// Whether `answer` is a whole answer. Errors: the status is not 200, or more bytes follow the answer.
fn is_whole(answer: &[u8]) -> io::Result<bool> {
    let Some(head) = head_length(answer) else { return Ok(false) };
    let text = str::from_utf8(answer.get(..head).unwrap_or_default()).map_err(io::Error::other)?;
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "not an answer 200 with a length");
    let body = content_length(text).filter(|_| text.starts_with("HTTP/1.1 200 ")).ok_or_else(wrong)?;
    if answer.len() > head + body { Err(wrong()) } else { Ok(answer.len() == head + body) }
}

#[cfg(test)]
mod tests;
