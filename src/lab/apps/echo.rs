//! TCP echo, and a client that paces numbered messages over it and notes every wrong, lost or slow answer.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    task::{JoinSet, LocalSet},
};

use super::{
    AppError, Background, Latencies, Route, Stop, accept_all, background, checksum::Checksum, connect, listen,
};
use crate::lab::net::Namespace;

const MESSAGE_BYTES: usize = 64;
const BUFFER_BYTES: usize = 16 * 1024;

/// How a client paces its messages.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The number of connections, each with its own messages.
    pub connections: usize,
    /// The time from one message of a connection to its next.
    pub interval: Duration,
    /// How long the client runs, unless the owner stops it earlier.
    pub time: Duration,
    /// How long a connect or an answer may take before the connection counts as broken.
    pub limit: Duration,
}

/// The result of a paced client.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The number of connections that were opened.
    pub opened: u64,
    /// The number of messages sent.
    pub sent: u64,
    /// The number of correct answers.
    pub answered: u64,
    /// The number of answers with a wrong number or checksum.
    pub wrong: u64,
    /// The number of connections that failed at the connect, later, or by a wrong answer.
    pub broken: u64,
    /// What happened to the first broken connection.
    pub first_problem: Option<String>,
    /// How long the answers took; the slowest includes a message that was unanswered at the end.
    pub latencies: Latencies,
}

/// One connection of a client.
struct Client {
    stream: TcpStream,
    number: u64,
    tried: Tried,
}

/// Counts a connection as tried, at the latest when it is dropped.
struct Tried(Option<watch::Sender<usize>>);

/// A client that runs in the background.
#[derive(Debug)]
pub struct Pacing {
    background: Background<Report>,
    opened: watch::Receiver<usize>,
    connections: usize,
}

/// Echoes on `port` of `namespace` until the value is dropped. The result counts connections.
pub fn serve(namespace: &Namespace, ip: IpAddr, port: u16) -> Result<Background<u64>, AppError> {
    let listener = listen(namespace, ip, port)?;
    background(namespace, move |stop| {
        accept_all(listener, stop, |stream, _| async move {
            // A client that goes away is no failure of the server.
            let _ = echo(stream).await;
        })
    })
}

/// Starts pacing.
pub fn pace(route: &Route, plan: Plan) -> Result<Pacing, AppError> {
    let (to, connections) = (route.to, plan.connections);
    let (opening, opened) = watch::channel(0);
    let background = background(&route.from, move |stop| async move {
        LocalSet::new().run_until(connections_of(to, plan, opening, stop)).await
    })?;
    Ok(Pacing { background, opened, connections })
}

// === impl Pacing ===

impl Pacing {
    /// Waits until every connection has had its first answer or is broken.
    pub fn wait_until_open(&mut self) {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let wanted = self.connections;
        if let Ok(runtime) = runtime {
            // An error means that the client has ended; the client's report tells why.
            let _ = runtime.block_on(self.opened.wait_for(|opened| *opened >= wanted)).is_ok();
        }
    }

    /// Stops and reports.
    pub fn finish(self) -> Result<Report, AppError> {
        self.background.finish()
    }

    /// Waits until the plan ends, and reports.
    pub fn wait(self) -> Result<Report, AppError> {
        self.background.wait()
    }
}

// === impl Report ===

impl Report {
    /// Whether every message of every connection came back correct.
    pub fn is_clean(&self) -> bool {
        self.broken == 0 && self.wrong == 0 && self.sent == self.answered
    }

    fn add(&mut self, other: Self) {
        self.opened += other.opened;
        self.sent += other.sent;
        self.answered += other.answered;
        self.wrong += other.wrong;
        self.broken += other.broken;
        self.first_problem = self.first_problem.take().or(other.first_problem);
        self.latencies.merge(&other.latencies);
    }

    fn problem(&mut self, what: &str, error: &io::Error) {
        self.broken += 1;
        self.first_problem.get_or_insert_with(|| format!("{what}: {error}"));
    }
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(buffer.get(..length).unwrap_or_default()).await?;
    }
}

async fn connections_of(to: SocketAddr, plan: Plan, opening: watch::Sender<usize>, stop: Stop) -> Report {
    let mut tasks = JoinSet::new();
    let deadline = Instant::now() + plan.time;
    for number in 0..plan.connections {
        let (plan, tried, stop) = (plan.clone(), Tried(Some(opening.clone())), stop.clone());
        tasks.spawn_local(async move {
            let mut report = Report::default();
            match connect(to, plan.limit).await {
                Ok(stream) => {
                    report.opened = 1;
                    let client = Client { stream, number: number as u64, tried };
                    client.messages(&plan, deadline, stop, &mut report).await;
                }
                Err(error) => report.problem("connect", &error),
            }
            report
        });
    }
    let mut report = Report::default();
    while let Some(done) = tasks.join_next().await {
        match done {
            Ok(part) => report.add(part),
            Err(error) => report.problem("client", &io::Error::other(error)),
        }
    }
    report
}

impl Client {
    async fn messages(mut self, plan: &Plan, deadline: Instant, mut stop: Stop, report: &mut Report) {
        let mut ticks = tokio::time::interval(plan.interval.max(Duration::from_micros(100)));
        // After a stall the client goes on at the usual pace, because a burst would measure itself.
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for sequence in 0_u64.. {
            tokio::select! {
                biased;
                () = stop.stopped() => return,
                _ = ticks.tick() => {}
            }
            let sent = Instant::now();
            if sent >= deadline {
                return;
            }
            report.sent += 1;
            let message = message(self.number, sequence);
            let exchange = tokio::time::timeout(plan.limit, exchange(&mut self.stream, &message)).await;
            report.latencies.record(sent.elapsed());
            match exchange.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(answer) if answer == message => report.answered += 1,
                Ok(answer) => {
                    report.wrong += 1;
                    let what = format!("message {sequence} came back as {answer:02x?}");
                    return report.problem(&what, &io::ErrorKind::InvalidData.into());
                }
                Err(error) => return report.problem(&format!("message {sequence}"), &error),
            }
            self.tried.tell();
        }
    }
}

// === impl Tried ===

impl Tried {
    fn tell(&mut self) {
        if let Some(tried) = self.0.take() {
            tried.send_modify(|count| *count += 1);
        }
    }
}

impl Drop for Tried {
    fn drop(&mut self) {
        self.tell();
    }
}

async fn exchange(stream: &mut TcpStream, message: &[u8]) -> io::Result<[u8; MESSAGE_BYTES]> {
    let mut answer = [0; MESSAGE_BYTES];
    stream.write_all(message).await?;
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// A message: the connection, the sequence number, filling, and a checksum over these.
fn message(connection: u64, sequence: u64) -> [u8; MESSAGE_BYTES] {
    let mut message = [0x5a; MESSAGE_BYTES];
    message[..8].copy_from_slice(&connection.to_le_bytes());
    message[8..16].copy_from_slice(&sequence.to_le_bytes());
    let mut sum = Checksum::default();
    sum.add(&message[..56]);
    message[56..].copy_from_slice(&sum.value().to_le_bytes());
    message
}
