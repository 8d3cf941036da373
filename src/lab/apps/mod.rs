//! Applications for the lab's pods and clients, inside this process. Each application runs on its own thread in the
//! namespace of its pod or client. Every application is bounded in time, connections and memory.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    panic::resume_unwind,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::net::{Namespace, NetError};

pub mod bulk;
pub mod capture;
mod checksum;
pub mod echo;
pub mod http;
pub(crate) mod lasting;
mod latency;
pub mod load;
pub(crate) mod requests;
pub(crate) mod run;
pub(crate) mod throughput;

pub use self::latency::Latencies;

/// The number of connections that a server keeps open at once; more connections wait in its backlog.
pub const SERVER_CONNECTIONS: usize = 16_384;

const APP_BACKLOG: i32 = 4096;

/// Why an application could not run.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The application's namespace could not be entered.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The application could not listen.
    #[error("{name} cannot listen on {addr}: {source}")]
    Listen {
        /// The namespace.
        name: String,
        /// The address to listen on.
        addr: SocketAddr,
        /// The kernel's error.
        source: io::Error,
    },
    /// Nobody gives the gateway a certificate.
    #[error("{name} cannot be a gateway without the lab's own control plane")]
    Unable {
        /// The namespace.
        name: String,
    },
    /// The application could not set up a runtime or a socket that needs no peer.
    #[error("{name} cannot start: {source}")]
    Start {
        /// The namespace.
        name: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// A connection failed.
    #[error("{name} to {to}: cannot {what}: {source}")]
    Connection {
        /// The namespace.
        name: String,
        /// The peer.
        to: SocketAddr,
        /// The operation that failed.
        what: &'static str,
        /// The error of the operation.
        source: io::Error,
    },
    /// The peer did not send what the protocol requires.
    #[error("{name} to {to}: {what}")]
    Wrong {
        /// The namespace.
        name: String,
        /// The peer.
        to: SocketAddr,
        /// What is wrong with the peer's answer.
        what: String,
    },
}

/// An application that runs in the background. Dropping the value stops the application and waits until it has ended.
#[derive(Debug)]
pub struct Background<T> {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<Result<T, NetError>>>,
}

/// Tells an application to end.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

/// A connection that a client opens: from a namespace to an address.
#[derive(Clone, Debug)]
pub struct Route {
    /// The namespace of the client.
    pub from: Namespace,
    /// The address that the client connects to.
    pub to: SocketAddr,
}

// === impl Background ===

impl<T> Background<T> {
    /// Stops the application and returns its result. A panic of the application continues in the caller.
    pub fn finish(mut self) -> Result<T, AppError> {
        self.stop.send_replace(true);
        self.join()
    }

    /// Waits until the application ends by itself, which each application's plan bounds.
    pub fn wait(mut self) -> Result<T, AppError> {
        self.join()
    }

    /// Whether the application has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn join(&mut self) -> Result<T, AppError> {
        let Some(thread) = self.thread.take() else {
            return Err(io_to_start(&io::ErrorKind::NotFound.into()));
        };
        Ok(thread.join().unwrap_or_else(|panic| resume_unwind(panic))?)
    }
}

impl<T> Drop for Background<T> {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // The drop ignores a panic of the application, because a panic here could abort the process.
            drop(thread.join());
        }
    }
}

// === impl Stop ===

impl Stop {
    /// Waits until the owner wants the application to end.
    pub async fn stopped(&mut self) {
        // If the owner is gone, the application ends too.
        let _ = self.0.wait_for(|stop| *stop).await;
    }

    /// Whether the owner wants the application to end.
    pub fn is_stopped(&self) -> bool {
        *self.0.borrow()
    }
}

/// Runs `app` on a thread in `namespace` with a single-threaded runtime of its own.
pub fn background<T, F>(
    namespace: &Namespace,
    app: impl FnOnce(Stop) -> F + Send + 'static,
) -> Result<Background<T>, AppError>
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| AppError::Start { name: namespace.name().to_owned(), source })?;
    let (stop, stopped) = watch::channel(false);
    let thread = namespace.thread(move || runtime.block_on(app(Stop(stopped))))?;
    Ok(Background { stop, thread: Some(thread) })
}

/// Like [`background`], for an application that is not asynchronous and checks its [`Stop`] by itself.
pub fn background_thread<T: Send + 'static>(
    namespace: &Namespace,
    app: impl FnOnce(Stop) -> T + Send + 'static,
) -> Result<Background<T>, AppError> {
    let (stop, stopped) = watch::channel(false);
    let thread = namespace.thread(move || app(Stop(stopped)))?;
    Ok(Background { stop, thread: Some(thread) })
}

/// Listens in `namespace` on all its addresses, or on `ip` alone.
pub(super) fn listen(
    namespace: &Namespace,
    ip: IpAddr,
    port: u16,
) -> Result<std::net::TcpListener, AppError> {
    let addr = SocketAddr::new(ip, port);
    let bind = || -> io::Result<std::net::TcpListener> {
        let socket = socket2::Socket::new(socket2::Domain::for_address(addr), socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        if addr.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.bind(&addr.into())?;
        socket.listen(APP_BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    let bound = namespace.run(bind)?;
    bound.map_err(|source| AppError::Listen { name: namespace.name().to_owned(), addr, source })
}

/// Accepts connections until stopped and runs `serve` for each connection on this thread, at most
/// [`SERVER_CONNECTIONS`] at once. The result is the number of connections.
pub(super) async fn accept_all<F>(
    listener: std::net::TcpListener,
    mut stop: Stop,
    serve: impl Fn(TcpStream, SocketAddr) -> F,
) -> u64
where
    F: Future<Output = ()> + 'static,
{
    let Ok(listener) = TcpListener::from_std(listener) else { return 0 };
    let local = tokio::task::LocalSet::new();
    let accept = async {
        let (mut tasks, mut accepted) = (tokio::task::JoinSet::new(), 0);
        loop {
            tokio::select! {
                biased;
                () = stop.stopped() => return accepted,
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
                connection = listener.accept(), if tasks.len() < SERVER_CONNECTIONS => match connection {
                    Ok((stream, client)) => {
                        accepted += 1;
                        // A refusal of the option only makes the connection slower.
                        let _ = stream.set_nodelay(true);
                        tasks.spawn_local(serve(stream, client));
                    }
                    // The process has most likely run out of descriptors, so the pause gives connections time to end.
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                },
            }
        }
    };
    local.run_until(accept).await
}

/// Connects within `limit` and disables the delay of small segments.
async fn connect(to: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let stream = tokio::time::timeout(limit, TcpStream::connect(to)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The time left until `deadline`, at most `limit`.
fn left(deadline: Instant, limit: Duration) -> Duration {
    deadline.saturating_duration_since(Instant::now()).min(limit)
}

fn io_to_start(source: &io::Error) -> AppError {
    AppError::Start { name: "a finished application".to_owned(), source: io::Error::from(source.kind()) }
}

// === impl Route ===

impl Route {
    /// The route from `namespace` to `to`.
    pub fn new(from: &Namespace, to: SocketAddr) -> Self {
        Self { from: from.clone(), to }
    }

    fn failed(&self, what: &'static str, source: io::Error) -> AppError {
        AppError::Connection { name: self.from.name().to_owned(), to: self.to, what, source }
    }

    fn wrong(&self, what: impl Into<String>) -> AppError {
        AppError::Wrong { name: self.from.name().to_owned(), to: self.to, what: what.into() }
    }
}
