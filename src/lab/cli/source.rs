//! The interpretation of a mesh file on the command line.

use std::path::PathBuf;

use clap::Args;

use crate::lab::{control::mesh_file::Mesh, embedded::Embedded, testbed::Services, topology::Topology};

/// The name of a lab unless the command line gives another.
pub(super) const DEFAULT_NAME: &str = "lab";

/// What `up` is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct UpArgs {
    /// The mesh file, in YAML
    pub file: PathBuf,
    /// The node proxy to run [default: this program]
    #[arg(long, value_name = "BINARY", conflicts_with = "no_proxy", help_heading = "Proxies")]
    pub proxy: Option<PathBuf>,
    /// Run no proxy
    #[arg(long, help_heading = "Proxies")]
    pub no_proxy: bool,
    /// A setting for the proxies; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting, help_heading = "Proxies")]
    pub env: Vec<(String, String)>,
    /// Redirect the pods' DNS to the proxies
    #[arg(long)]
    pub dns: bool,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("there is no = in it")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Reads mesh files and serves them.
pub trait MeshSource {
    /// The control plane and CNIs that serve a file.
    type Services: Services;

    /// Returns the hosts of the file.
    ///
    /// # Errors
    /// A text that shows what is wrong and where.
    fn topology(&self, up: &UpArgs) -> Result<Topology, String>;

    /// Returns the control plane and CNIs, not started yet.
    ///
    /// # Errors
    /// A text that shows what is wrong and where.
    fn services(&self, up: &UpArgs) -> Result<Self::Services, String>;

    /// Makes the control plane serve the current contents of the file. The caller has already updated the hosts.
    ///
    /// # Errors
    /// A text that shows what is wrong and where.
    fn reload(&self, up: &UpArgs, services: &mut Self::Services) -> Result<(), String>;
}

/// Mesh files of the lab, served by the lab's own control plane and CNIs.
#[derive(Clone, Copy, Debug, Default)]
pub struct MeshFile;

// === impl MeshFile ===

impl MeshSource for MeshFile {
    type Services = Embedded;

    fn topology(&self, up: &UpArgs) -> Result<Topology, String> {
        let mesh = Mesh::read(&up.file).map_err(|error| error.to_string())?;
        Topology::of(&mesh, up.dns).map_err(|error| error.to_string())
    }

    fn services(&self, up: &UpArgs) -> Result<Embedded, String> {
        Mesh::read(&up.file).map(Embedded::new).map_err(|error| error.to_string())
    }

    fn reload(&self, up: &UpArgs, services: &mut Embedded) -> Result<(), String> {
        let mesh = Mesh::read(&up.file).map_err(|error| error.to_string())?;
        services.update(mesh).map_err(|error| error.to_string())
    }
}
