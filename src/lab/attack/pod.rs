//! Attacks of a pod of the node on its own proxy, and an application that helps others by reading nothing.

use std::{io, net::SocketAddr};

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpStream, UdpSocket};

use super::hands::{Attack, hands};
use crate::lab::{
    apps::{AppError, Background, Stop, background},
    net::Namespace,
};

/// The receive buffer of an application that reads nothing, in bytes.
const LITTLE: usize = 4096;
/// The connections that such an application accepts and holds.
const HELD: usize = 4096;

/// Queries for names that no one knows, and for names of the mesh, faster than anybody answers.
pub(super) fn queries(from: &Namespace, to: SocketAddr) -> Result<Attack, String> {
    hands(from, 4, move |blows| async move {
        let socket = UdpSocket::bind("0.0.0.0:0").await?;
        socket.connect(to).await?;
        let mut sink = [0; 4096];
        for id in 0..u16::MAX {
            let name = if id % 2 == 0 { format!("n{id}") } else { "victim".to_owned() };
            socket.send(&query(id, &name)).await?;
            blows.dealt(1);
            while socket.try_recv(&mut sink).is_ok() {}
            if id % 64 == 0 {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    })
}

/// A query for the IPv4 addresses of `name.default.svc.cluster.local`.
fn query(id: u16, name: &str) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in [name, "default", "svc", "cluster", "local"] {
        message.push(u8::try_from(label.len()).unwrap_or(0));
        message.extend_from_slice(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

/// Connections to where nobody answers.
pub(super) fn dead_ends(from: &Namespace, to: SocketAddr) -> Result<Attack, String> {
    hands(from, 200, move |blows| async move {
        let stream = TcpStream::connect(to).await?;
        blows.dealt(1);
        stream.readable().await
    })
}

/// An application on `port` of `namespace` that accepts connections and reads nothing of them.
pub(super) fn reads_nothing(namespace: &Namespace, port: u16) -> Result<Background<u64>, AppError> {
    let started = |source| AppError::Start { name: namespace.name().to_owned(), source };
    let listen = || -> io::Result<std::net::TcpListener> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_recv_buffer_size(LITTLE)?;
        socket.bind(&SocketAddr::from(([0; 4], port)).into())?;
        socket.listen(1024)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    let listener = namespace.run(listen)?.map_err(started)?;
    background(namespace, move |mut stop: Stop| async move {
        let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return 0 };
        let mut held = Vec::new();
        loop {
            tokio::select! {
                () = stop.stopped() => return held.len() as u64,
                accepted = listener.accept(), if held.len() < HELD => held.extend(accepted.ok()),
            }
        }
    })
}
