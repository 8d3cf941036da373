//! The binary: reads the settings, starts the tree, and waits for its end.

use std::{
    collections::BTreeMap, ffi::OsString, io::Write, net::SocketAddr, path::Path, process::ExitCode,
    sync::Arc,
};

use clap::{CommandFactory, Parser, Subcommand, ValueEnum, error::ErrorKind};
use tokio::signal::unix::{Signal, SignalKind, signal};
use warren::{
    actors::{
        admin::{
            self,
            cli::{self, AdminCommand},
        },
        telemetry::CollectorDialer,
        tree::{self, Proxy},
    },
    command_line, help_heading,
    protocols::config::{self, Config, Inputs, KeeperSettings, MESH_FILE, Memory},
    sys::{
        cgroup,
        confinement::{self, ConfinementError},
        limits,
        profiler::heap::SampledHeap,
    },
    telemetry::{export::Export, log::Logging},
};

#[global_allocator]
static ALLOCATOR: SampledHeap<mimalloc::MiMalloc> = SampledHeap::new(mimalloc::MiMalloc);

/// Exit statuses of the proxy (docs/spec/controlplane.md 8.3).
const DONE: u8 = 0;
const FAILED: u8 = 1;

const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("WARREN_GIT_REVISION"),
    ", rustc ",
    env!("WARREN_RUSTC_VERSION"),
    ", ",
    env!("WARREN_CRYPTO_VERSIONS"),
    ")"
);
const PROXY: &str = "proxy";

#[cfg(feature = "lab")]
const EXAMPLES: &str = concat!(
    help_heading!("Examples"),
    "  warren lab demo                           see a mesh work, break and recover, in seconds 
  warren lab up deploy/lab/two-nodes.yaml   raise a mesh and keep it until Ctrl-C
  warren tree --watch                       watch the actors of the proxy on this node
  warren why shop/cart-1 shop/db:5432       say why a connection gets through or not
  warren completions bash > /etc/bash_completion.d/warren

Settings of the proxy are environment variables; docs/settings.md lists them."
);
#[cfg(not(feature = "lab"))]
const EXAMPLES: &str = concat!(
    help_heading!("Examples"),
    "  warren tree --watch                       watch the actors of the proxy on this node
  warren why shop/cart-1 shop/db:5432       say why a connection gets through or not
  warren completions bash > /etc/bash_completion.d/warren

Settings of the proxy are environment variables; docs/settings.md lists them."
);

/// The node proxy of an ambient service mesh
#[derive(Debug, Parser)]
#[command(name = "warren", bin_name = "warren", version = VERSION, styles = command_line::STYLES)]
#[command(after_help = EXAMPLES)]
struct CommandLine {
    /// For commands that ask a running proxy: the proxy's admin server [default: 127.0.0.1:15000]
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the node proxy, as `warren` without arguments does
    #[command(
        after_help = "All settings are environment variables. Further arguments are accepted and ignored."
    )]
    Proxy {
        #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
        ignored: Vec<OsString>,
    },
    /// Hold live connections while the proxy of this node restarts in place
    #[command(after_help = "All settings are environment variables.")]
    Keeper,
    #[command(flatten)]
    Admin(AdminCommand),
    #[cfg(feature = "lab")]
    Lab(warren::lab::cli::LabArgs),
    /// Print the completions of a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the manual pages of all commands into a directory
    #[cfg(feature = "lab")]
    Man {
        /// Directory, which must exist
        #[arg(value_name = "DIR")]
        directory: std::path::PathBuf,
    },
    /// Print the version
    Version {
        /// One line, or everything that is known of the build
        #[arg(short, long, value_name = "FORM", default_value = "text")]
        output: VersionForm,
    },
}

/// The form in which the version is printed.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum VersionForm {
    Text,
    Json,
}

/// A shell that completions are made for.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    // The proxy is started without the parser of the other commands.
    if is_proxy(args.get(1..).unwrap_or_default()) {
        return proxy();
    }
    let CommandLine { admin, command } = match command_line::parse(args.iter().cloned()) {
        Ok(line) => line,
        Err(code) => return code,
    };
    match command {
        Some(Command::Admin(command)) => cli::run(&command, admin),
        _ if admin.is_some() => {
            let message = "--admin is for commands that ask a running proxy";
            let mut definition = CommandLine::command();
            let error = definition.error(ErrorKind::ArgumentConflict, message);
            command_line::refuse(&error, &definition, &args)
        }
        None | Some(Command::Proxy { .. }) => proxy(),
        Some(Command::Keeper) => keep(),
        #[cfg(feature = "lab")]
        Some(Command::Lab(args)) => warren::lab::cli::run(args, warren::lab::cli::MeshFile),
        Some(Command::Completions { shell }) => completions(shell),
        #[cfg(feature = "lab")]
        Some(Command::Man { directory }) => man(&directory),
        Some(Command::Version { output: VersionForm::Text }) => {
            print(format!("warren {VERSION}\n").as_bytes())
        }
        Some(Command::Version { output: VersionForm::Json }) => {
            // As the proxy does, the program takes the release that it stands in for from its image.
            let istio = std::env::var("ISTIO_META_ISTIO_VERSION").unwrap_or_else(|_| "unknown".to_owned());
            print(format!("{:#}\n", admin::version(&istio)).as_bytes())
        }
    }
}

/// Whether the arguments, without the program's name, start the proxy: there are none, or the first is `proxy`. Further
/// arguments are ignored, because charts of the reference pass more, except for a single `--help` or `-h`.
fn is_proxy(args: &[OsString]) -> bool {
    match args {
        [] => true,
        [_, help] if help == "--help" || help == "-h" => false,
        [command, ..] => command == PROXY,
    }
}

fn completions(shell: Shell) -> ExitCode {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    // The generator panics on a failed write, so it writes to memory first.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut CommandLine::command(), "warren", &mut script);
    print(&script)
}

/// Writes to standard output.
fn print(bytes: &[u8]) -> ExitCode {
    done(std::io::stdout().write_all(bytes), "")
}

/// Writes `warren.1`, and a page for each command below it, such as `warren-lab-up.1`.
#[cfg(feature = "lab")]
fn man(directory: &Path) -> ExitCode {
    let into = format!(" into {}", directory.display());
    done(clap_mangen::generate_to(CommandLine::command(), directory), &into)
}

/// The exit status of a command that wrote its output to what `into` names.
fn done(written: std::io::Result<()>, into: &str) -> ExitCode {
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: cannot write{into}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the node proxy.
fn proxy() -> ExitCode {
    let Some(config) = settings(config::parse) else { return ExitCode::FAILURE };
    // No thread has been started, so all of them inherit it.
    let confined = confinement::confine(config.process.seccomp);
    let run = || -> Result<u8, String> {
        let log = &config.process.log;
        let export = Export::start(&config.process.otlp, &config.node, Arc::new(CollectorDialer))
            .map_err(|e| e.to_string())?;
        let logging =
            Logging::install(log.format, log.filter.clone(), export).map_err(|e| format!("logging: {e}"))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| format!("runtime: {e}"))?;
        Ok(runtime.block_on(serve(&config, &logging, confined)))
    };
    let code = run().unwrap_or_else(|error| {
        eprintln!("Error: {error}");
        FAILED
    });
    // The log is flushed. Shards may still be dropping their values, which must not run while the process is torn down.
    limits::exit(code)
}

/// Holds connections for the next proxy.
fn keep() -> ExitCode {
    let Some(settings) = settings(KeeperSettings::parse) else { return ExitCode::FAILURE };
    match warren::keeper::run(&settings, env!("WARREN_GIT_REVISION")) {
        Ok(()) => limits::exit(DONE),
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What `parse` makes of the environment. What is wrong with it has been printed.
fn settings<T>(parse: impl FnOnce(&Inputs<'_>) -> Result<T, Vec<config::Invalid>>) -> Option<T> {
    let text = |value: std::ffi::OsString| value.to_string_lossy().into_owned();
    let vars: BTreeMap<String, String> = std::env::vars_os().map(|(k, v)| (text(k), text(v))).collect();
    let mesh_file = std::fs::read_to_string(MESH_FILE).ok();
    let parsed = parse(&Inputs {
        vars: &vars,
        mesh_file: mesh_file.as_deref(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory: memory(),
        file_exists: &|path| Path::new(path).exists(),
        // The lab is in test builds only.
        fake_ca_allowed: cfg!(feature = "lab"),
    });
    let tell = |invalid| {
        for invalid in invalid {
            eprintln!("Error: {invalid}");
        }
    };
    parsed.map_err(tell).ok()
}

/// The memory that this process can have.
fn memory() -> Memory {
    Memory { limit: cgroup::memory_limit(), machine: cgroup::machine_memory().unwrap_or_default() }
}

async fn serve(config: &Config, logging: &Logging, confined: Result<(), Vec<ConfinementError>>) -> u8 {
    tracing::info!(target: "main", version = env!("CARGO_PKG_VERSION"), revision = env!("WARREN_GIT_REVISION"), "warren");
    for warning in &config.warnings {
        tracing::warn!(target: "main", "{warning}");
    }
    tracing::info!(target: "main", "settings:\n{}", config.summary());
    for error in confined.err().into_iter().flatten() {
        tracing::warn!(target: "main", %error, "the process keeps privileges that it does not need");
    }
    match limits::raise_open_files() {
        Ok(limit) => tracing::info!(target: "main", limit, "open files"),
        Err(error) => tracing::warn!(target: "main", %error, "cannot raise the limit of open files"),
    }
    // Signals are caught before the proxy answers requests, because from then on it may be told to stop.
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(terminate), Ok(interrupt)) = signals else {
        eprintln!("Error: cannot listen for signals");
        return FAILED;
    };
    match tree::boot(config, logging).await {
        Ok(proxy) => wait(config, proxy, terminate, interrupt).await,
        Err(error) => {
            tracing::error!(target: "main", %error, "cannot start");
            eprintln!("Error: {error}");
            FAILED
        }
    }
}

/// Waits until the proxy has to stop. After a request to stop, existing connections may end within a deadline.
async fn wait(config: &Config, mut proxy: Proxy, mut terminate: Signal, mut interrupt: Signal) -> u8 {
    let mut zds = proxy.zds.as_ref().map(|zds| zds.status());
    let broken = async {
        match &mut zds {
            Some(zds) => {
                zds.wait_for(|status| status.fatal.is_some()).await.ok().and_then(|s| s.fatal.clone())
            }
            None => std::future::pending().await,
        }
    };
    let own = proxy.own.take();
    let serving = async {
        match own {
            Some(own) => own.serve().await,
            None => Ok(()),
        }
    };
    let why = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        _ = proxy.quit.recv() => "asked on the admin port",
        exit = proxy.tree.exited() => {
            tracing::error!(target: "main", ?exit, "the supervision tree gave up");
            return FAILED;
        }
        // The branch waits no more once the proxy's own pod is served.
        Err(error) = serving => {
            tracing::error!(target: "main", %error, "cannot serve the proxy's own pod");
            eprintln!("Error: {error}");
            return FAILED;
        }
        fatal = broken => {
            let reason = fatal.unwrap_or_default();
            tracing::error!(target: "main", reason, "istio-cni broke the protocol");
            return FAILED;
        }
    };
    proxy.retire();
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
