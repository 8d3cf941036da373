//! Other proxies, configured to do the same work. A pair has one proxy beside the client and one beside the server,
//! with mutual TLS in between. The pair knows no mesh and captures no traffic: clients call the first proxy.

use std::{fs, io, net::IpAddr, path::Path};

use super::contestant::Kind;
use crate::lab::{
    control::ca::{Authority, CaOptions},
    process::Program,
};

const HAPROXY: [&str; 2] = [include_str!("pair/haproxy-client.cfg"), include_str!("pair/haproxy-server.cfg")];
const ENVOY: [&str; 2] = [include_str!("pair/envoy-client.yaml"), include_str!("pair/envoy-server.yaml")];
/// The placeholder in the configurations for the directory of the certificates.
const DIRECTORY: &str = "@DIR@";
/// The side of each proxy of a pair.
const SIDES: [&str; 2] = ["client", "server"];

/// The pair of `kind`, with certificates and configuration in `directory`; none if `kind` is not a pair. The client's
/// side verifies the server's certificate against the address `server`.
pub(super) fn programs(kind: &Kind, directory: &Path, server: IpAddr) -> io::Result<Vec<Program>> {
    let (name, binary, configs, ending) = match kind {
        Kind::Haproxy(binary) => ("haproxy", binary, HAPROXY, "cfg"),
        Kind::Envoy(binary) => ("envoy", binary, ENVOY, "yaml"),
        Kind::Direct | Kind::Node(_) => return Ok(Vec::new()),
    };
    let authority = Authority::new(CaOptions::default()).map_err(io::Error::other)?;
    let (certificate, key) = authority.pem_pair(&[server]).map_err(io::Error::other)?;
    fs::write(directory.join("ca.pem"), authority.root_pem())?;
    fs::write(directory.join("both.pem"), format!("{certificate}{key}"))?;
    fs::write(directory.join("cert.pem"), certificate)?;
    fs::write(directory.join("key.pem"), key)?;
    let mut programs = Vec::new();
    for (side, config) in SIDES.into_iter().zip(configs) {
        let path = directory.join(format!("{name}-{side}.{ending}"));
        fs::write(&path, config.replace(DIRECTORY, &directory.to_string_lossy()))?;
        let name = format!("{name}-{side}");
        let program = Program::new(&name, binary).log(directory.join(format!("{name}.log")));
        let path = path.as_os_str().to_owned();
        let arguments = if matches!(kind, Kind::Haproxy(_)) {
            vec!["-f".into(), path]
        } else {
            let rest = ["--concurrency", "2", "--log-level", "error", "--use-dynamic-base-id"];
            ["--config-path".into(), path].into_iter().chain(rest.map(Into::into)).collect()
        };
        programs.push(program.args(arguments));
    }
    Ok(programs)
}
