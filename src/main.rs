//! The binary: reads the settings, starts the tree, and waits for its end.

use std::{collections::BTreeMap, path::Path, process::ExitCode, sync::Arc};

use tokio::signal::unix::{Signal, SignalKind, signal};
use warren::{
    actors::{
        admin::cli,
        telemetry::CollectorDialer,
        tree::{self, Proxy},
    },
    protocols::config::{self, Config, Inputs, MESH_FILE},
    sys::limits,
    telemetry::{export::Export, line::LogFormat, log::Logging},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "\
warren: the node proxy of an ambient service mesh

Usage: warren [COMMAND]

Commands:
  proxy       run the node proxy (the default; further arguments are ignored)
  lab         raise a mesh of network namespaces on this machine, to try and to break it
  tree        draw the supervision tree of a running proxy
  crashes     list what died in a running proxy, and why
  quarantine  list what a running proxy has set aside
  chaos       break something in a running proxy, on purpose
  version     print the version
  help        print this

Settings are environment variables; see README.md.
";

/// Exit statuses of the proxy (contract/controlplane.md section 8.3).
const DONE: u8 = 0;
const FAILED: u8 = 1;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    match args.first().map(String::as_str) {
        None | Some("proxy") => proxy(),
        Some(name @ ("tree" | "crashes" | "quarantine" | "chaos")) => {
            cli::main(name, args.get(1..).unwrap_or_default())
        }
        Some("version" | "--version" | "-V") => {
            println!("warren {} ({})", env!("CARGO_PKG_VERSION"), env!("WARREN_GIT_REVISION"));
            ExitCode::SUCCESS
        }
        Some("help" | "--help" | "-h") => {
            print!("{USAGE}");
            ExitCode::SUCCESS
        }
        #[cfg(feature = "lab")]
        Some("lab") => warren::lab::main(args.get(1..).unwrap_or_default()),
        Some(other) => {
            eprintln!("Error: unknown command {other:?}\n\n{USAGE}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the node proxy.
fn proxy() -> ExitCode {
    let config = match settings() {
        Ok(config) => config,
        Err(invalid) => {
            for invalid in invalid {
                eprintln!("Error: {invalid}");
            }
            return ExitCode::FAILURE;
        }
    };
    let run = || -> Result<u8, String> {
        let log = &config.process.log;
        let format = match log.format {
            config::LogFormat::Plain => LogFormat::Plain,
            config::LogFormat::Json => LogFormat::Json,
        };
        let filter = log.filter.to_string().parse().map_err(|e| format!("RUST_LOG: {e}"))?;
        let export = Export::start(&config.process.otlp, &config.node, Arc::new(CollectorDialer))
            .map_err(|e| e.to_string())?;
        let logging = Logging::install(format, filter, export).map_err(|e| format!("logging: {e}"))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| format!("runtime: {e}"))?;
        Ok(runtime.block_on(serve(&config, &logging)))
    };
    let code = run().unwrap_or_else(|error| {
        eprintln!("Error: {error}");
        FAILED
    });
    // The log is flushed. Shards may still be dropping what they hold, which must not meet a process being torn down.
    limits::exit(code)
}

fn settings() -> Result<Config, Vec<config::Invalid>> {
    let text = |value: std::ffi::OsString| value.to_string_lossy().into_owned();
    let vars: BTreeMap<String, String> = std::env::vars_os().map(|(k, v)| (text(k), text(v))).collect();
    let mesh_file = std::fs::read_to_string(MESH_FILE).ok();
    config::parse(&Inputs {
        vars: &vars,
        mesh_file: mesh_file.as_deref(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        file_exists: &|path| Path::new(path).exists(),
        fake_ca_allowed: false,
    })
}

async fn serve(config: &Config, logging: &Logging) -> u8 {
    tracing::info!(target: "main", version = env!("CARGO_PKG_VERSION"), revision = env!("WARREN_GIT_REVISION"), "warren");
    for warning in &config.warnings {
        tracing::warn!(target: "main", "{warning}");
    }
    tracing::info!(target: "main", "settings:\n{}", config.summary());
    match limits::raise_open_files() {
        Ok(limit) => tracing::info!(target: "main", limit, "open files"),
        Err(error) => tracing::warn!(target: "main", %error, "cannot raise the limit of open files"),
    }
    // Before anything answers: from then on it may be told to end.
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(terminate), Ok(interrupt)) = signals else {
        eprintln!("Error: cannot listen for signals");
        return FAILED;
    };
    match tree::boot(config, logging).await {
        Ok(proxy) => wait(config, proxy, (terminate, interrupt)).await,
        Err(error) => {
            tracing::error!(target: "main", %error, "cannot start");
            eprintln!("Error: {error}");
            FAILED
        }
    }
}

/// Waits for the end, and brings it about gently if it was asked for.
async fn wait(config: &Config, mut proxy: Proxy, (mut terminate, mut interrupt): (Signal, Signal)) -> u8 {
    let mut zds = proxy.zds.status();
    let why = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        _ = proxy.quit.recv() => "asked on the admin port",
        exit = proxy.tree.exited() => {
            tracing::error!(target: "main", ?exit, "the supervision tree gave up");
            return FAILED;
        }
        fatal = zds.wait_for(|status| status.fatal.is_some()) => {
            let reason = fatal.ok().and_then(|status| status.fatal.clone()).unwrap_or_default();
            tracing::error!(target: "main", reason, "istio-cni broke the protocol");
            return FAILED;
        }
    };
    let deadline = config.drain.deadline;
    tracing::info!(target: "main", why, ?deadline, "shutting down: existing connections may end");
    tokio::select! {
        () = proxy.pods.drain(deadline) => {}
        _ = interrupt.recv() => {
            tracing::warn!(target: "main", "second SIGINT: exiting at once");
            return DONE;
        }
    }
    proxy.tree.stop().await;
    tracing::info!(target: "main", "stopped");
    DONE
}
