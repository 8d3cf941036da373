//! Certificate revocation (docs/spec/dataplane.md 9): the file of revocation lists is watched, its lists are put into
//! force, and the tunnels of revoked peers are cut.

mod actor;
mod file;
mod handle;
mod shared;
#[cfg(test)]
mod tests;

pub(crate) use self::handle::Crl;
