//! How a server of the control plane is reached and trusted (docs/spec/controlplane.md 2.1).

use std::{borrow::Cow, fmt, net::IpAddr};

use http::{HeaderName, HeaderValue, Uri};
use rustls_pki_types::ServerName;
use serde::{Serialize, Serializer};

use super::{
    reader::{Invalid, Reader},
    summary, value,
    var::Var,
};

const KUBERNETES_SERVICE_HOST: Var =
    Var::text("KUBERNETES_SERVICE_HOST", "", "Where it is set, the proxy runs in a cluster.");
const AUTH_TOKEN: Var = Var::new(
    "AUTH_TOKEN",
    "path, or the token itself",
    "`./var/run/secrets/tokens/istio-token` if that exists",
    "What the proxy shows to the control plane. A file is read again for every call.",
);
const TOKEN_FILE: &str = "./var/run/secrets/tokens/istio-token";

/// A server of the control plane.
#[derive(Clone, Debug, Serialize)]
pub struct Upstream {
    /// The server's address.
    pub address: Address,
    /// The roots that the server's certificate has to chain to.
    pub roots: RootSource,
    /// A name that the server's certificate may carry instead of the address's host.
    pub alt_hostname: Option<String>,
    /// Headers for each call. Their values are marked sensitive.
    #[serde(serialize_with = "summary::header_names")]
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// Where a server is: always TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// A DNS name or an IP address without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

/// Where trusted certificates come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum RootSource {
    /// A PEM file, read again for each connection.
    File(String),
    /// The operating system.
    System,
    /// PEM text.
    Inline(#[serde(serialize_with = "summary::left_out")] String),
}

/// What the proxy shows to the control plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum TokenSource {
    /// Nothing.
    None,
    /// A file's text, read again for each call.
    File(String),
    /// This text.
    Value(Secret),
}

/// Text that is neither logged nor dumped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

// === impl Upstream ===

/// The variables of one server.
pub(super) struct Names {
    pub(super) roots: Var,
    pub(super) alt_hostname: Var,
    pub(super) headers: Var,
}

impl Names {
    pub(super) const ROOTS_FORM: &str = "path, `SYSTEM` or PEM text";
    pub(super) const ROOTS_DEFAULT: &str = "./var/run/secrets/istio/root-cert.pem";
    pub(super) const ROOTS_HELP: &str = "The roots that the server's certificate chains to. A file is read again for \
        each connection.";
    pub(super) const HOSTNAME_FORM: &str = "hostname";
    pub(super) const HOSTNAME_HELP: &str = "A second name that the server's certificate may carry.";
    pub(super) const HEADERS_HELP: &str = "Headers of every call: the rest of the variable's name is that of the \
        header.";
}

impl Upstream {
    /// Reads all variables, so that each bad one is heard of even if there is no address.
    pub(super) fn read(r: &mut Reader<'_>, address: Option<Address>, names: &'static Names) -> Option<Self> {
        let roots = RootSource::read(r, &names.roots);
        let alt_hostname = r.parse(&names.alt_hostname, |name| match ServerName::try_from(name) {
            Ok(ServerName::DnsName(_)) => Ok(name.to_owned()),
            _ => Err("not a hostname".into()),
        });
        let headers = headers(r, &names.headers);
        address.map(|address| Self { address, roots, alt_hostname, headers })
    }
}

fn headers(r: &mut Reader<'_>, var: &'static Var) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = Vec::new();
    for (key, value) in r.prefixed(var) {
        let name = HeaderName::from_bytes(key.to_ascii_lowercase().as_bytes());
        match (name, HeaderValue::from_str(value)) {
            (Ok(name), Ok(mut value)) => {
                value.set_sensitive(true);
                headers.push((name, value));
            }
            (name, _) => {
                let what = if name.is_err() { "name" } else { "value" };
                let reason = format!("not usable as the {what} of an HTTP header");
                r.note(Invalid::env(&format!("{}{key}", var.prefix()), "<redacted>", reason));
            }
        }
    }
    headers
}

// === impl Address ===

impl Address {
    /// Reads `host`, `host:port` or `https://host:port`.
    ///
    /// # Errors
    /// The text is no address; the error says why.
    pub fn parse(text: &str) -> Result<Self, String> {
        let with_scheme = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
        let uri: Uri = with_scheme.parse().map_err(|e| format!("not an address: {e}"))?;
        if uri.scheme_str() != Some("https") {
            return Err("only https is spoken".into());
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err("an address has no path".into());
        }
        // Uri takes a port that is no number for none at all.
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let host = uri.host().unwrap_or_default();
        let port = match authority.strip_prefix(host) {
            None => return Err("an address has no user".into()),
            Some("") => 443,
            Some(port) => value::number(port.strip_prefix(':').unwrap_or(port), &(1..=u16::MAX))
                .map_err(|reason| format!("its port is {reason}"))?,
        };
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        ServerName::try_from(host).map_err(|_| "its host is no hostname or IP address".to_owned())?;
        Ok(Self { host: host.to_owned(), port })
    }

    /// The control plane of this cluster, or of this machine outside any.
    pub(super) fn standard(r: &Reader<'_>) -> Self {
        let host = match r.raw(&KUBERNETES_SERVICE_HOST) {
            Some(_) => "istiod.istio-system.svc",
            None => "localhost",
        };
        Self { host: host.into(), port: 15012 }
    }
}

impl Address {
    /// The host as it stands in an authority: an IPv6 address in brackets.
    pub fn bracketed(&self) -> Cow<'_, str> {
        match self.host.parse() {
            Ok(IpAddr::V6(ip)) => format!("[{ip}]").into(),
            _ => self.host.as_str().into(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}:{}", self.bracketed(), self.port)
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

// === impl RootSource ===

impl RootSource {
    fn read(r: &Reader<'_>, var: &'static Var) -> Self {
        let value = r.text(var).unwrap_or(var.default);
        if value == "SYSTEM" && !(r.inputs.file_exists)(value) {
            Self::System
        } else if value.contains("-----BEGIN") {
            Self::Inline(value.to_owned())
        } else {
            // A file that is missing now may be there when we connect, so it is no empty PEM text.
            Self::File(value.to_owned())
        }
    }
}

// === impl TokenSource ===

impl TokenSource {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let exists = r.inputs.file_exists;
        if r.raw(&AUTH_TOKEN).is_none() {
            return if exists(TOKEN_FILE) { Self::File(TOKEN_FILE.into()) } else { Self::None };
        }
        let token = r.parse_secret(&AUTH_TOKEN, |value| {
            if exists(value) {
                return Ok(Self::File(value.to_owned()));
            }
            match HeaderValue::from_str(value) {
                Ok(_) => Ok(Self::Value(Secret::new(value))),
                Err(_) => Err("neither a file nor usable in an HTTP header".into()),
            }
        });
        token.unwrap_or(Self::None)
    }
}

// === impl Secret ===

impl Secret {
    /// Keeps `text`.
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// The text itself, to be sent and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{self:?}"))
    }
}
