//! The headers of every request: who we are, and what the operator adds.

use std::{fmt, path::PathBuf, sync::Arc};

use http::{HeaderName, HeaderValue, header::AUTHORIZATION};
use tonic::Request;

use super::{GrpcError, read_file};

const CLUSTER_ID: HeaderName = HeaderName::from_static("clusterid");

/// A bearer token. Debug does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Arc<str>);

/// Where the bearer token comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// There is none: requests carry neither `authorization` nor `clusterid`.
    None,
    /// A file, read again for every request, for it is rotated under us. Not trimmed; empty is an error.
    File(PathBuf),
    /// The token itself.
    Literal(Token),
}

/// What is added to every request (docs/spec/controlplane.md 2.1).
#[derive(Clone)]
pub struct AuthHeaders {
    token: TokenSource,
    cluster_id: HeaderValue,
    extra: Arc<[(HeaderName, HeaderValue)]>,
}

// === impl Token ===

impl Token {
    /// Keeps `text`.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

// === impl AuthHeaders ===

impl AuthHeaders {
    /// `extra` are names, in any case, and values; they win over our own. Fails on what HTTP cannot carry, naming it.
    pub fn new(
        token: TokenSource,
        cluster_id: &str,
        extra: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, GrpcError> {
        let cluster_id = value("clusterid", cluster_id)?;
        let extra = extra
            .into_iter()
            .map(|(name, text)| {
                let header = HeaderName::from_bytes(name.as_bytes())
                    .map_err(|e| GrpcError::LocalHeader { name: name.clone(), reason: e.to_string() })?;
                let mut value = value(&name, &text)?;
                value.set_sensitive(true);
                Ok((header, value))
            })
            .collect::<Result<_, GrpcError>>()?;
        Ok(Self { token, cluster_id, extra })
    }

    /// `request` with the headers. Fails when the token cannot be read, is empty, or fits no header.
    pub async fn sign<T>(&self, mut request: Request<T>) -> Result<Request<T>, GrpcError> {
        let token = self.token().await?;
        let headers = request.metadata_mut().as_mut();
        if let Some(token) = token {
            headers.insert(AUTHORIZATION, token);
            headers.insert(CLUSTER_ID, self.cluster_id.clone());
        }
        for (name, value) in self.extra.iter() {
            headers.insert(name.clone(), value.clone());
        }
        Ok(request)
    }

    async fn token(&self) -> Result<Option<HeaderValue>, GrpcError> {
        match &self.token {
            TokenSource::None => Ok(None),
            TokenSource::Literal(token) => bearer("AUTH_TOKEN", token.0.as_bytes()).map(Some),
            TokenSource::File(path) => {
                let origin = path.display().to_string();
                match read_file(path).await {
                    Ok(text) => bearer(&origin, &text).map(Some),
                    Err(e) => Err(GrpcError::LocalToken { origin, reason: e.to_string() }),
                }
            }
        }
    }
}

impl fmt::Debug for AuthHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthHeaders")
            .field("token", &self.token)
            .field("cluster_id", &self.cluster_id)
            .field("extra", &self.extra.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .finish()
    }
}

fn bearer(origin: &str, token: &[u8]) -> Result<HeaderValue, GrpcError> {
    let fail = |reason: &str| GrpcError::LocalToken { origin: origin.to_owned(), reason: reason.to_owned() };
    if token.is_empty() {
        return Err(fail("is empty"));
    }
    let mut value = HeaderValue::from_bytes(&[b"Bearer ", token].concat())
        .map_err(|_| fail("holds bytes no header may hold, such as a line end"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn value(name: &str, text: &str) -> Result<HeaderValue, GrpcError> {
    HeaderValue::from_str(text)
        .map_err(|e| GrpcError::LocalHeader { name: name.to_owned(), reason: format!("value: {e}") })
}
