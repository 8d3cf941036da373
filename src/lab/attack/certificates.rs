//! Clients with certificates that no mesh has issued, or not for them.

use std::{io, net::SocketAddr, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::{ClientConfig, version::TLS13};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::{io::AsyncReadExt, net::TcpStream};
use tokio_rustls::TlsConnector;

use super::hands::{Attack, hands};
use crate::{lab::net::Namespace, protocols::tls::any_server::client_of_any_server};

/// A chain, the leaf first, and the leaf's key.
struct Chain(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Chain {
    /// A chain whose root nobody trusts, with so many intermediates. All of them have one name and one key identifier,
    /// so each may have signed each.
    fn of_strangers(names: &[&str], intermediates: usize) -> Result<Self, rcgen::Error> {
        let authority = || -> Result<CertifiedIssuer<'static, KeyPair>, rcgen::Error> {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(DnType::CommonName, "lab root");
            CertifiedIssuer::self_signed(params, KeyPair::generate()?)
        };
        let issuers = (0..=intermediates).map(|_| authority()).collect::<Result<Vec<_>, _>>()?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        for name in names {
            params.subject_alt_names.push(SanType::URI((*name).try_into()?));
        }
        let Some(issuer) = issuers.first() else { return Err(rcgen::Error::CouldNotParseCertificate) };
        let leaf = params.signed_by(&key, issuer)?;
        let others = issuers.iter().take(intermediates).map(|issuer| issuer.der().clone());
        let chain = std::iter::once(leaf.der().clone()).chain(others).collect();
        let key =
            PrivateKeyDer::try_from(key.serialize_der()).map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
        Ok(Self(chain, key))
    }

    fn client(self) -> Result<Arc<ClientConfig>, rustls::Error> {
        let Self(chain, key) = self;
        // The attacker does not care who the server is.
        let mut config = client_of_any_server(&TLS13)?.with_client_auth_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}

/// Handshakes with a chain of so many intermediates, each of which may have signed each.
pub(super) fn junk_chains(from: &Namespace, to: SocketAddr, intermediates: usize) -> Result<Attack, String> {
    let chain = Chain::of_strangers(&["spiffe://cluster.local/ns/default/sa/rogue"], intermediates);
    shake(from, to, vec![chain.map_err(|error| error.to_string())?])
}

/// Handshakes with certificates that are wrong in turn: no name, another kind of name, another trust domain, several
/// names, a name with too many parts, none of them of the mesh's authority.
pub(super) fn bad_certificates(from: &Namespace, to: SocketAddr) -> Result<Attack, String> {
    let good = "spiffe://cluster.local/ns/default/sa/rogue";
    let names: [&[&str]; 7] = [
        &[],
        &["https://cluster.local/ns/default/sa/rogue"],
        &["spiffe://evil.local/ns/default/sa/rogue"],
        &["spiffe://evil.local/ns/default/sa/rogue", good],
        &["spiffe://cluster.local/ns/default/sa/rogue/more"],
        &["spiffe://"],
        &[good],
    ];
    let chains = names.iter().map(|names| Chain::of_strangers(names, 1)).collect::<Result<_, _>>();
    shake(from, to, chains.map_err(|error| error.to_string())?)
}

fn shake(from: &Namespace, to: SocketAddr, chains: Vec<Chain>) -> Result<Attack, String> {
    let clients = chains.into_iter().map(Chain::client).collect::<Result<Vec<_>, _>>();
    let clients = clients.map_err(|error| error.to_string())?;
    hands(from, 8, move |blows| {
        let turn = usize::try_from(blows.count()).unwrap_or_default();
        let client = clients.iter().cycle().nth(turn % clients.len().max(1)).cloned();
        async move {
            let Some(client) = client else { return Ok(()) };
            let io = TcpStream::connect(to).await?;
            blows.dealt(1);
            let mut stream = TlsConnector::from(client).connect(ServerName::from(to.ip()), io).await?;
            // In TLS 1.3 the refusal comes after the client is done.
            let mut sink = [0; 64];
            while stream.read(&mut sink).await? > 0 {}
            io::Result::Ok(())
        }
    })
}
