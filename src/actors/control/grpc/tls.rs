//! The client side of TLS towards the control plane: the roots, versions, suites and names.

use std::{path::Path, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error as TlsError,
    RootCertStore, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    version::{TLS12, TLS13},
};

use super::{error::GrpcError, file::read_file, target::GrpcTarget};
use crate::protocols::config::{Compliance, RootSource};

/// The verifier of webpki, which also accepts a second name.
#[derive(Debug)]
struct EitherName {
    webpki: Arc<WebPkiServerVerifier>,
    alt: Option<ServerName<'static>>,
}

/// Converts `host` for rustls. A name is sent as SNI; an IP address is not.
pub(super) fn server_name(host: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(host.to_owned())
        .map_err(|_| format!("{host:?} is neither a DNS name nor an IP address"))
}

/// Reads the roots of `target` and builds the configuration of one connection.
pub(super) async fn config(target: &GrpcTarget) -> Result<ClientConfig, GrpcError> {
    let (origin, certs) = roots(&target.roots).await?;
    let fail = |reason: String| GrpcError::LocalRoots { origin: origin.clone(), reason };

    let mut store = RootCertStore::empty();
    let (good, bad) = store.add_parsable_certificates(certs);
    if good == 0 {
        return Err(fail(format!("no usable certificate among {bad}")));
    }
    if bad > 0 {
        tracing::warn!(target: "grpc", %origin, bad, "ignored root certificates that are not valid ones");
    }

    let provider = Arc::new(provider(target.tls.compliance == Some(Compliance::Pqc)));
    let alt = target.alt_hostname.as_deref().map(server_name).transpose().map_err(|reason| {
        GrpcError::LocalAddress { address: target.alt_hostname.clone().unwrap_or_default(), reason }
    })?;
    let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider))
        .build()
        .map_err(|e| fail(e.to_string()))?;
    let versions: &[_] = if target.tls.tls12 { &[&TLS13, &TLS12] } else { &[&TLS13] };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|e| fail(e.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(EitherName { webpki, alt }))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn provider(post_quantum_only: bool) -> CryptoProvider {
    use aws_lc_rs::cipher_suite as suite;
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![
        suite::TLS13_AES_256_GCM_SHA384,
        suite::TLS13_AES_128_GCM_SHA256,
        suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ];
    if post_quantum_only {
        provider.kx_groups = vec![aws_lc_rs::kx_group::X25519MLKEM768];
    }
    provider
}

/// Reads the root certificates. Returns the origin of the certificates and the certificates.
async fn roots(source: &RootSource) -> Result<(String, Vec<CertificateDer<'static>>), GrpcError> {
    match source {
        RootSource::File(path) => {
            let pem = read_file(Path::new(path))
                .await
                .map_err(|e| GrpcError::LocalRootsUnreadable { path: path.clone(), source: Arc::new(e) })?;
            let origin = path.clone();
            let certs = parse(&origin, &pem)?;
            Ok((origin, certs))
        }
        RootSource::Inline(pem) => {
            let origin = "inline PEM".to_owned();
            let certs = match parse(&origin, pem.as_bytes())? {
                // A missing file whose path was taken for PEM also ends here, so the error mentions the case.
                none if none.is_empty() => {
                    let shown: String = pem.chars().take(80).collect();
                    let missing = if Path::new(pem).is_absolute() || pem.starts_with("./") {
                        format!("{shown:?} is not PEM, nor was it a file at startup")
                    } else {
                        "is not PEM".to_owned()
                    };
                    return Err(GrpcError::LocalRoots { origin, reason: missing });
                }
                certs => certs,
            };
            Ok((origin, certs))
        }
        RootSource::System => {
            let origin = "SYSTEM".to_owned();
            let load = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs);
            let found = load
                .await
                .map_err(|e| GrpcError::LocalRoots { origin: origin.clone(), reason: e.to_string() })?;
            for error in &found.errors {
                tracing::warn!(target: "grpc", %error, "part of the system's trust store is not readable");
            }
            Ok((origin, found.certs))
        }
    }
}

fn parse(origin: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, GrpcError> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(|e| GrpcError::LocalRoots {
        origin: origin.to_owned(),
        reason: format!("not valid PEM: {e}"),
    })
}

// === impl EitherName ===

impl ServerCertVerifier for EitherName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let verdict =
            self.webpki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match (&verdict, &self.alt) {
            // The chain and the dates are verified before the name, and again here.
            (
                Err(TlsError::InvalidCertificate(
                    CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
                )),
                Some(alt),
            ) => {
                self.webpki.verify_server_cert(end_entity, intermediates, alt, ocsp_response, now).or(verdict)
            }
            _ => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.webpki.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.webpki.root_hint_subjects()
    }
}
