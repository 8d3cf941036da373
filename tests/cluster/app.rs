//! The application of the tests' pods: a server, clients that count what fails, and a killer of node processes. One file
//! without dependencies, so that `rustc` alone makes it.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, BufRead, BufReader, Write},
    net::{TcpListener, TcpStream, ToSocketAddrs},
    process::{Command, ExitCode},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

const USAGE: &str = "\
serve PORT            answers every request with `NAME CLIENT`
load URL RATE         RATE requests a second, each on a connection of its own
hold URL RATE [N]     N kept connections, each with RATE requests a second
get URL [N]           N requests, a line for each answer; fails with the first reason
try URL N             N requests, each on a connection of its own and for a minute at most; a line for each
stay URL              one request, and then waits for the connection's end, for a minute at most
resolve NAME          the addresses of a name
swarm HOST:PORT N     opens N connections and holds them for a minute
kill POD-UID NAME [SIGNAL]
                      kills the node's process NAME of a pod, from a privileged pod with the node's processes
idle                  does nothing";
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// Longer than any proxy may leave a client without an answer.
const PATIENCE: Duration = Duration::from_secs(60);
const SUMMARY_INTERVAL: Duration = Duration::from_millis(500);
const HELD_BY_SWARM: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["serve", port] => serve(port),
        ["load", url, rate] => load(url, rate),
        ["hold", url, rate] => hold(url, rate, "1"),
        ["hold", url, rate, count] => hold(url, rate, count),
        ["get", url] => get(url, "1"),
        ["get", url, count] => get(url, count),
        ["resolve", name] => resolve(name),
        ["swarm", to, count] => swarm(to, count),
        ["try", url, count] => try_all(url, count),
        ["stay", url] => stay(url),
        ["kill", uid, name] => kill(uid, name, "9"),
        ["kill", uid, name, signal] => kill(uid, name, signal),
        ["idle"] => loop {
            thread::sleep(REQUEST_LIMIT);
        },
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("{why}");
            ExitCode::FAILURE
        }
    }
}

// === server ===

fn serve(port: &str) -> Result<(), String> {
    let name = env::var("HOSTNAME").unwrap_or_default();
    let listener = TcpListener::bind(("0.0.0.0", number(port)?)).map_err(text)?;
    println!("{name} serves on {port}");
    for stream in listener.incoming().flatten() {
        let name = name.clone();
        small_thread(move || drop(answer(stream, &name)));
    }
    Ok(())
}

fn answer(mut stream: TcpStream, name: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let body = format!("{name} {}\n", stream.peer_addr()?);
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(close) = head(&mut reader)? {
        let close = if close { "connection: close\r\n" } else { "" };
        let length = body.len();
        stream.write_all(
            format!("HTTP/1.1 200 OK\r\n{close}content-length: {length}\r\n\r\n{body}").as_bytes(),
        )?;
        if !close.is_empty() {
            break;
        }
    }
    Ok(())
}

/// Reads a request. The result is whether it asks to close, or none at the end of the connection.
fn head(reader: &mut BufReader<TcpStream>) -> io::Result<Option<bool>> {
    let (mut close, mut first) = (false, true);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return if first { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        first = false;
        match line.trim() {
            "" => return Ok(Some(close)),
            header => close |= header.eq_ignore_ascii_case("connection: close"),
        }
    }
}

// === clients ===

/// What the requests of this process came to.
#[derive(Default)]
struct Counts {
    ok: u64,
    failed: u64,
    /// Kept connections that ended; their request was sent again on another one.
    cut: u64,
    /// Kept connections that are open.
    open: u64,
    by: BTreeMap<String, u64>,
}

type Shared = Arc<Mutex<Counts>>;

fn load(url: &str, rate: &str) -> Result<(), String> {
    let (shared, pause) = (summaries(), pause(rate)?);
    let url = Arc::new(Url::new(url)?);
    let mut next = Instant::now();
    loop {
        let (shared, url) = (shared.clone(), url.clone());
        small_thread(move || {
            let start = Instant::now();
            let answer = url.connect(REQUEST_LIMIT).and_then(|mut stream| url.ask(&mut stream, true));
            count(&shared, start, answer);
        });
        next += pause;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

fn hold(url: &str, rate: &str, connections: &str) -> Result<(), String> {
    let (shared, pause) = (summaries(), pause(rate)?);
    let url = Arc::new(Url::new(url)?);
    for _ in 0..number(connections)? {
        let (shared, url) = (shared.clone(), url.clone());
        small_thread(move || hold_one(&shared, &url, pause));
        // Not all in step.
        thread::sleep(Duration::from_millis(3));
    }
    loop {
        thread::sleep(REQUEST_LIMIT);
    }
}

/// One kept connection. A request whose kept connection ends without an answer is sent once more, as clients do.
fn hold_one(shared: &Shared, url: &Url, pause: Duration) {
    let mut kept: Option<TcpStream> = None;
    loop {
        let start = Instant::now();
        let mut answer = Err("none".to_owned());
        if let Some(stream) = &mut kept {
            answer = url.ask(stream, false);
            if let Err(why) = &answer {
                say(start, &format!("CUT {why}"));
                let mut counts = shared.lock().unwrap();
                (counts.cut, counts.open) = (counts.cut + 1, counts.open - 1);
                kept = None;
            }
        }
        if kept.is_none() {
            answer = url.connect(REQUEST_LIMIT).and_then(|mut stream| {
                let answer = url.ask(&mut stream, false)?;
                kept = Some(stream);
                shared.lock().unwrap().open += 1;
                Ok(answer)
            });
        }
        count(shared, start, answer);
        thread::sleep(pause.saturating_sub(start.elapsed()));
    }
}

fn count(shared: &Shared, start: Instant, answer: Result<String, String>) {
    let mut counts = shared.lock().unwrap();
    match answer {
        Ok(body) => {
            counts.ok += 1;
            let name = body.split(' ').next().unwrap_or_default().to_owned();
            *counts.by.entry(name).or_default() += 1;
        }
        Err(why) => {
            counts.failed += 1;
            say(start, &format!("FAILED {why}"));
        }
    }
}

/// A line with the time and the age of what it tells.
fn say(start: Instant, what: &str) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    println!("{}.{:03} {what} after {} ms", now.as_secs(), now.subsec_millis(), start.elapsed().as_millis());
}

/// Prints the counts twice a second.
fn summaries() -> Shared {
    let shared = Shared::default();
    let printed = shared.clone();
    small_thread(move || {
        loop {
            {
                let counts = printed.lock().unwrap();
                let Counts { ok, failed, cut, open, by } = &*counts;
                println!("ok={ok} failed={failed} cut={cut} open={open} by={by:?}");
            }
            thread::sleep(SUMMARY_INTERVAL);
        }
    });
    shared
}

fn get(url: &str, count: &str) -> Result<(), String> {
    let url = Url::new(url)?;
    for _ in 0..number(count)? {
        let mut stream = url.connect(REQUEST_LIMIT)?;
        print!("{}", url.ask(&mut stream, true)?);
    }
    Ok(())
}

fn try_all(url: &str, count: &str) -> Result<(), String> {
    let url = Url::new(url)?;
    for _ in 0..number(count)? {
        let start = Instant::now();
        let answer = url.connect(PATIENCE).and_then(|mut stream| url.ask(&mut stream, true));
        match answer {
            Ok(body) => println!("{} after {} ms", body.trim(), start.elapsed().as_millis()),
            Err(why) => say(start, &format!("FAILED {why}")),
        }
    }
    Ok(())
}

fn stay(url: &str) -> Result<(), String> {
    let url = Url::new(url)?;
    let mut stream = url.connect(PATIENCE)?;
    print!("{}", url.ask(&mut stream, false)?);
    let start = Instant::now();
    let end = io::Read::read(&mut stream, &mut [0; 1]);
    say(start, &format!("{end:?}"));
    Ok(())
}

fn resolve(name: &str) -> Result<(), String> {
    let found = (name, 0).to_socket_addrs().map_err(text)?;
    let mut addresses: Vec<String> = found.map(|address| address.ip().to_string()).collect();
    addresses.sort();
    addresses.dedup();
    println!("{}", addresses.join(" "));
    Ok(())
}

fn swarm(to: &str, count: &str) -> Result<(), String> {
    let address = to.to_socket_addrs().map_err(text)?.next().ok_or("no address")?;
    let mut held = Vec::new();
    for _ in 0..number(count)? {
        if let Ok(stream) = TcpStream::connect_timeout(&address, REQUEST_LIMIT) {
            held.push(stream);
        }
    }
    println!("{} connections", held.len());
    thread::sleep(HELD_BY_SWARM);
    Ok(())
}

/// `http://HOST[:PORT]/`.
struct Url {
    host: String,
    port: u16,
}

impl Url {
    fn new(url: &str) -> Result<Self, String> {
        let rest = url.strip_prefix("http://").ok_or_else(|| format!("{url} is no http URL"))?;
        let authority = rest.split('/').next().unwrap_or_default();
        let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "80"));
        Ok(Self { host: host.to_owned(), port: number(port)? })
    }

    fn connect(&self, limit: Duration) -> Result<TcpStream, String> {
        let mut found =
            (self.host.as_str(), self.port).to_socket_addrs().map_err(|error| format!("name: {error}"))?;
        let address = found.next().ok_or("name: no address")?;
        let stream =
            TcpStream::connect_timeout(&address, limit).map_err(|error| format!("connect: {error}"))?;
        stream.set_nodelay(true).map_err(text)?;
        stream.set_read_timeout(Some(limit)).map_err(text)?;
        stream.set_write_timeout(Some(limit)).map_err(text)?;
        Ok(stream)
    }

    /// Sends a request and returns the body of its answer.
    fn ask(&self, stream: &mut TcpStream, close: bool) -> Result<String, String> {
        let close = if close { "connection: close\r\n" } else { "" };
        let request = format!("GET / HTTP/1.1\r\nhost: {}\r\n{close}\r\n", self.host);
        stream.write_all(request.as_bytes()).map_err(|error| format!("write: {error}"))?;
        let mut reader = BufReader::new(stream);
        let (mut first, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).map_err(|error| format!("read: {error}"))? == 0 {
                return Err("read: the connection ended".to_owned());
            }
            let line = line.trim();
            if line.is_empty() {
                break;
            }
            if first.is_empty() {
                first = line.to_owned();
            } else if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().map_err(|_| "a bad length".to_owned())?;
            }
        }
        let mut body = vec![0; length];
        io::Read::read_exact(&mut reader, &mut body).map_err(|error| format!("read: {error}"))?;
        if !first.contains(" 200 ") {
            return Err(first);
        }
        Ok(String::from_utf8_lossy(&body).into_owned())
    }
}

// === killer ===

/// Sends a signal to the process `name` of the pod `uid`. The node's shell does it: this pod sees the node's processes.
fn kill(uid: &str, name: &str, signal: &str) -> Result<(), String> {
    let with_underscores = uid.replace('-', "_");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").map_err(text)?.flatten() {
        let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let groups = read("cgroup");
        if (groups.contains(uid) || groups.contains(&with_underscores)) && read("comm").trim() == name {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    if found.is_empty() {
        return Err(format!("the node has no process {name} of pod {uid}"));
    }
    std::os::unix::fs::chroot("/proc/1/root").map_err(text)?;
    env::set_current_dir("/").map_err(text)?;
    let script = format!("kill -{signal} {}", found.join(" "));
    let status = Command::new("/bin/sh").args(["-c", &script]).status().map_err(text)?;
    println!("{script}: {status}");
    if status.success() { Ok(()) } else { Err("the shell failed".to_owned()) }
}

// === small things ===

fn number<T: std::str::FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("{word} is no number here"))
}

fn pause(rate: &str) -> Result<Duration, String> {
    Ok(Duration::from_secs(1) / number::<u32>(rate)?.max(1))
}

fn text(error: io::Error) -> String {
    error.to_string()
}

fn small_thread(work: impl FnOnce() + Send + 'static) {
    // Without room for another thread this one request is lost, which the counts then show.
    drop(thread::Builder::new().stack_size(128 * 1024).spawn(work));
}
