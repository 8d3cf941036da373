//! The hosts that a name may mean. This module undoes the search of a pod's resolver and repeats it.

use domain::base::Name;

/// A host that a name may mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate<'a> {
    /// The host.
    pub host: String,
    /// The name without the search domain that the pod's resolver appended, if the host results from removing that
    /// domain.
    pub stripped: Option<&'a str>,
}

/// The namespace, the domain and the search list of a pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// The pod's namespace.
    pub namespace: &'a str,
    /// The cluster's domain.
    pub domain: &'a str,
    /// The search domains of the pod's resolver; `None` stands for those that Kubernetes sets.
    pub search: Option<&'a [String]>,
}

/// The hosts that `name` may mean, in the order they are tried. `name` is in lower case, without a dot at its end.
pub(crate) fn candidates<'a>(name: &'a str, place: &Place<'_>) -> Vec<Candidate<'a>> {
    let Place { namespace, domain, search } = place;
    let mut found = Vec::new();
    let mut add = |name: &str, stripped: Option<&'a str>| {
        found.push(Candidate { host: name.to_owned(), stripped });
        found.extend(expansions(name, place).map(|host| Candidate { host, stripped }));
    };
    add(name, None);
    let mut strip = |search: &str| {
        let rest = name.strip_suffix(search).and_then(|rest| rest.strip_suffix('.'));
        if let Some(rest) = rest.filter(|rest| !rest.is_empty()) {
            add(rest, Some(rest));
        }
    };
    match search {
        Some(search) => search.iter().for_each(|search| strip(search)),
        None => {
            for search in [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), (*domain).to_owned()]
            {
                strip(&search);
            }
        }
    }
    found
}

/// The full names that a short name of a Kubernetes service or of one of its pods may stand for.
fn expansions(name: &str, place: &Place<'_>) -> impl Iterator<Item = String> {
    let Place { namespace, domain, .. } = place;
    let is_svc = name.ends_with(".svc");
    let in_cluster = || Some(format!("{name}.{domain}"));
    let as_service = || Some(format!("{name}.svc.{domain}"));
    let in_namespace = || Some(format!("{name}.{namespace}.svc.{domain}"));
    let both = match name.split('.').count() {
        1 => [in_namespace(), None],
        2 => [as_service(), in_namespace()],
        3 if is_svc => [in_cluster(), as_service()],
        3 => [as_service(), None],
        4 if is_svc => [in_cluster(), None],
        _ => [None, None],
    };
    both.into_iter().flatten()
}

/// The wildcards that cover `host`, the most specific first.
pub(crate) fn wildcards(host: &str) -> impl Iterator<Item = String> {
    let mut rest = host;
    std::iter::from_fn(move || {
        rest = rest.split_once('.')?.1;
        Some(format!("*.{rest}"))
    })
}

/// Converts `host`, which has no final dot, to a DNS name. The result is `None` if `host` is no name.
pub(super) fn absolute(host: &str) -> Option<Name<Vec<u8>>> {
    let mut wire = Vec::with_capacity(host.len() + 2);
    for label in host.split('.') {
        wire.push(u8::try_from(label.len()).ok()?);
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    Name::from_octets(wire).ok()
}
