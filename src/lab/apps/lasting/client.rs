//! The clients of lasting streams.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    task::{JoinSet, LocalSet},
    time::{MissedTickBehavior, interval, timeout},
};

use super::{
    habit::{Habit, Request},
    pattern::{self, Expected, Sent},
    server::Gate,
    stalls::{Meter, Windows},
};
use crate::lab::apps::{AppError, Background, Latencies, Route, background, connect};

const BUFFER_BYTES: usize = 16 * 1024;
/// The number of bytes of a numbered message.
const MESSAGE_BYTES: usize = 64;
/// A writer that has written nothing for so long has no room.
const FULL_AFTER: Duration = Duration::from_millis(300);

/// The streams of one route and one habit.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// What the streams do.
    pub(crate) habit: Habit,
    /// The number of streams.
    pub(crate) streams: usize,
    /// The time from one message of a paced stream to its next.
    pub(crate) pace: Duration,
    /// How long a connect, an answer or a stall may take before the stream counts as broken.
    pub(crate) limit: Duration,
    /// The windows in which stalls count.
    pub(crate) windows: Windows,
    /// The gate that ends the streams.
    pub(crate) gate: Gate,
}

/// What has become of streams.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// The number of streams.
    pub(crate) streams: u64,
    /// The number of streams that came to their end with all their bytes.
    pub(crate) whole: u64,
    /// The number of streams whose bytes were others than those that were sent.
    pub(crate) wrong: u64,
    /// The number of streams that failed in any other way.
    pub(crate) broken: u64,
    /// What happened to the first stream that was not whole.
    pub(crate) first_problem: Option<String>,
    /// The number of bytes that were checked.
    pub(crate) bytes: u64,
    /// The longest stall of each stream in each window.
    pub(crate) stalls: Latencies,
    /// The same for the calm windows.
    pub(crate) calm: Latencies,
}

/// Lasting streams that run in the background.
#[derive(Debug)]
pub(crate) struct Lasting {
    background: Background<Report>,
    opened: watch::Receiver<usize>,
    moved: Arc<AtomicU64>,
    streams: usize,
}

/// One stream.
struct Stream {
    socket: TcpStream,
    plan: Plan,
    seed: u64,
    opened: Opened,
    moved: Arc<AtomicU64>,
    meter: Meter,
}

/// Counts a stream as opened, at the latest when it is dropped.
struct Opened(Option<watch::Sender<usize>>);

/// Opens the streams of `plan`.
pub(crate) fn start(route: &Route, plan: Plan) -> Result<Lasting, AppError> {
    let (to, streams) = (route.to, plan.streams);
    let (opening, opened) = watch::channel(0);
    let moved = Arc::new(AtomicU64::new(0));
    let counter = moved.clone();
    let background = background(&route.from, move |mut stop| async move {
        let tasks = LocalSet::new();
        tokio::select! {
            report = tasks.run_until(all(to, plan, opening, counter)) => report,
            () = stop.stopped() => Report::default(),
        }
    })?;
    Ok(Lasting { background, opened, moved, streams })
}

// === impl Lasting ===

impl Lasting {
    /// Waits until every stream is in its habit, or has failed.
    pub(crate) fn wait_until_open(&mut self) {
        let wanted = self.streams;
        if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() {
            // An error means that the streams have ended; the report tells why.
            let _ = runtime.block_on(self.opened.wait_for(|opened| *opened >= wanted)).is_ok();
        }
    }

    /// The number of bytes that were checked so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.moved.load(Relaxed)
    }

    /// Waits for the end of the streams, which the gate brings about.
    pub(crate) fn wait(self) -> Result<Report, AppError> {
        self.background.wait()
    }
}

// === impl Report ===

impl Report {
    /// Adds another report.
    pub(crate) fn add(&mut self, other: Self) {
        self.streams += other.streams;
        self.whole += other.whole;
        self.wrong += other.wrong;
        self.broken += other.broken;
        self.first_problem = self.first_problem.take().or(other.first_problem);
        self.bytes += other.bytes;
        self.stalls.merge(&other.stalls);
        self.calm.merge(&other.calm);
    }

    fn ended(&mut self, ended: io::Result<()>, seed: u64) {
        self.streams += 1;
        match ended {
            Ok(()) => self.whole += 1,
            Err(error) => {
                let wrong = error.kind() == io::ErrorKind::InvalidData;
                *(if wrong { &mut self.wrong } else { &mut self.broken }) += 1;
                self.first_problem.get_or_insert_with(|| format!("stream {seed}: {error}"));
            }
        }
    }
}

pub(super) async fn all(
    to: SocketAddr,
    plan: Plan,
    opening: watch::Sender<usize>,
    moved: Arc<AtomicU64>,
) -> Report {
    let mut tasks = JoinSet::new();
    for seed in 0..plan.streams as u64 {
        let (plan, opened, moved) = (plan.clone(), Opened(Some(opening.clone())), moved.clone());
        tasks.spawn_local(async move {
            let mut report = Report::default();
            match connect(to, plan.limit).await {
                Ok(socket) => {
                    let meter = Meter::new(&plan.windows);
                    let mut stream = Stream { socket, plan, seed, opened, moved, meter };
                    report.ended(stream.run().await, seed);
                    [report.stalls, report.calm] = stream.meter.finish();
                }
                Err(error) => report.ended(Err(error), seed),
            }
            report
        });
    }
    let mut report = Report::default();
    while let Some(done) = tasks.join_next().await {
        match done {
            Ok(part) => report.add(part),
            Err(error) => report.ended(Err(io::Error::other(error)), 0),
        }
    }
    report.bytes = moved.load(Relaxed);
    report
}

// === impl Stream ===

impl Stream {
    async fn run(&mut self) -> io::Result<()> {
        let request = Request { habit: self.plan.habit, seed: self.seed };
        self.socket.write_all(&request.encode()).await?;
        match self.plan.habit {
            Habit::Idle => self.idle().await,
            Habit::Paced => self.paced().await,
            Habit::Saturated => return self.saturated().await,
            Habit::ServerStopped => return self.server_stopped().await,
            Habit::ClientStopped => return self.client_stopped().await,
            Habit::HalfClosed => return self.half_closed().await,
        }?;
        self.socket.shutdown().await?;
        match self.read_end().await? {
            0 => Ok(()),
            more => {
                Err(io::Error::new(io::ErrorKind::InvalidData, format!("{more} bytes after the last one")))
            }
        }
    }

    async fn idle(&mut self) -> io::Result<()> {
        self.exchange(0).await?;
        self.opened.tell();
        self.plan.gate.opened().await;
        self.exchange(1).await
    }

    async fn paced(&mut self) -> io::Result<()> {
        let gate = self.plan.gate.clone();
        let mut ticks = interval(self.plan.pace);
        // After a stall the stream goes on at the usual pace, because a burst would measure itself.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for number in 0.. {
            tokio::select! {
                biased;
                () = gate.opened() => return Ok(()),
                _ = ticks.tick() => {}
            }
            let wait = self.meter.begin();
            let answered = self.exchange(number).await;
            self.meter.end(wait);
            answered?;
            self.opened.tell();
        }
        Ok(())
    }

    async fn saturated(&mut self) -> io::Result<()> {
        let Self { socket, plan, seed, opened, moved, meter } = self;
        let (mut reader, mut writer) = socket.split();
        let write = async {
            let mut sent = Sent::new(*seed);
            while !plan.gate.is_open() {
                timeout(plan.limit, sent.write_some(&mut writer)).await??;
            }
            writer.shutdown().await?;
            io::Result::Ok(sent.bytes())
        };
        let read = async {
            let (mut expected, mut buffer) = (Expected::new(*seed), vec![0; BUFFER_BYTES]);
            loop {
                let wait = meter.begin();
                let came = timeout(plan.limit, reader.read(&mut buffer)).await;
                meter.end(wait);
                let came = came??;
                if came == 0 {
                    return io::Result::Ok(expected.bytes());
                }
                expected.check(buffer.get(..came).unwrap_or_default())?;
                moved.fetch_add(came as u64, Relaxed);
                opened.tell();
            }
        };
        let (sent, read) = tokio::try_join!(write, read)?;
        same(sent, read)
    }

    async fn server_stopped(&mut self) -> io::Result<()> {
        let mut sent = Sent::new(self.seed);
        while let Ok(wrote) = timeout(FULL_AFTER, sent.write_some(&mut self.socket)).await {
            wrote?;
        }
        self.opened.tell();
        self.plan.gate.opened().await;
        self.socket.shutdown().await?;
        let read = timeout(self.plan.limit, self.socket.read_u64_le()).await??;
        same(sent.bytes(), read)?;
        self.moved.fetch_add(read, Relaxed);
        match self.read_end().await? {
            0 => Ok(()),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    async fn client_stopped(&mut self) -> io::Result<()> {
        tokio::time::sleep(FULL_AFTER).await;
        self.opened.tell();
        self.plan.gate.opened().await;
        self.counted().await
    }

    async fn half_closed(&mut self) -> io::Result<()> {
        Sent::new(self.seed).write_some(&mut self.socket).await?;
        self.socket.shutdown().await?;
        let heard = timeout(self.plan.limit, self.socket.read_u8()).await??;
        if heard != b'!' {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.opened.tell();
        self.plan.gate.opened().await;
        self.counted().await
    }

    /// Reads to the end, and checks all bytes and their number.
    async fn counted(&mut self) -> io::Result<()> {
        let read = timeout(self.plan.limit, pattern::check_counted(&mut self.socket, self.seed)).await??;
        self.moved.fetch_add(read, Relaxed);
        Ok(())
    }

    /// Sends a numbered message, which must come back.
    async fn exchange(&mut self, number: u64) -> io::Result<()> {
        let mut message = [0x5a; MESSAGE_BYTES];
        message[..8].copy_from_slice(&self.seed.to_le_bytes());
        message[8..16].copy_from_slice(&number.to_le_bytes());
        let mut answer = [0; MESSAGE_BYTES];
        let exchanged = timeout(self.plan.limit, async {
            self.socket.write_all(&message).await?;
            self.socket.read_exact(&mut answer).await
        });
        let exchanged = exchanged.await.map_err(io::Error::from).flatten();
        exchanged.map_err(|error| io::Error::new(error.kind(), format!("message {number}: {error}")))?;
        if answer != message {
            let what = format!("message {number} came back as {answer:02x?}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        self.moved.fetch_add(MESSAGE_BYTES as u64, Relaxed);
        Ok(())
    }

    /// The number of bytes until the end of the stream.
    async fn read_end(&mut self) -> io::Result<usize> {
        let mut rest = [0; 64];
        timeout(self.plan.limit, self.socket.read(&mut rest)).await?
    }
}

fn same(sent: u64, read: u64) -> io::Result<()> {
    if sent == read {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, format!("{sent} bytes went, and {read} came")))
}

// === impl Opened ===

impl Opened {
    fn tell(&mut self) {
        if let Some(opening) = self.0.take() {
            opening.send_modify(|count| *count += 1);
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.tell();
    }
}
