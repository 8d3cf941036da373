//! The headers of every request: the identity of the proxy, and the headers that the operator adds.

use std::{fmt, path::Path, sync::Arc};

use http::{HeaderName, HeaderValue, header::AUTHORIZATION};
use tonic::Request;

use super::{error::GrpcError, file::read_file};
use crate::protocols::config::TokenSource;

const CLUSTER_ID: HeaderName = HeaderName::from_static("clusterid");

/// The headers that are added to every request (docs/spec/controlplane.md 2.1).
#[derive(Clone)]
pub(crate) struct AuthHeaders {
    token: TokenSource,
    cluster_id: HeaderValue,
    extra: Arc<[(HeaderName, HeaderValue)]>,
}

// === impl AuthHeaders ===

impl AuthHeaders {
    /// Makes the headers: `token`, the cluster, and `extra` headers, which replace the proxy's own headers of the
    /// same name.
    ///
    /// # Errors
    /// The cluster's name is not a valid header value.
    pub(crate) fn new(
        token: &TokenSource,
        cluster_id: &str,
        extra: &[(HeaderName, HeaderValue)],
    ) -> Result<Self, GrpcError> {
        let cluster_id = HeaderValue::from_str(cluster_id).map_err(|error| GrpcError::LocalHeader {
            name: CLUSTER_ID.to_string(),
            reason: format!("value: {error}"),
        })?;
        Ok(Self { token: token.clone(), cluster_id, extra: extra.into() })
    }

    /// Adds the headers to `request`. The call fails if the token cannot be read, is empty, or is no valid header
    /// value.
    pub(crate) async fn sign<T>(&self, mut request: Request<T>) -> Result<Request<T>, GrpcError> {
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
            TokenSource::Value(token) => bearer("AUTH_TOKEN", token.expose().as_bytes()).map(Some),
            TokenSource::File(path) => match read_file(Path::new(path)).await {
                Ok(text) => bearer(path, &text).map(Some),
                Err(e) => Err(GrpcError::LocalToken { origin: path.clone(), reason: e.to_string() }),
            },
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
