//! A line to a server that can be cut: whoever is connected hears nothing any more, neither an answer nor that the connection has ended, as
//! behind a network that drops everything. Mended, what was on its way goes on, as TCP sends it again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const BUFFER_BYTES: usize = 64 << 10;

/// See the head of this file.
#[derive(Debug)]
pub struct TcpProxy {
    port: u16,
    server_port: Arc<AtomicU16>,
    is_cut: watch::Sender<bool>,
}

impl TcpProxy {
    /// Listens on a free loopback port; [`TcpProxy::lead_to`] says where to.
    pub async fn listen() -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let server_port = Arc::new(AtomicU16::new(0));
        let is_cut = watch::Sender::new(false);
        tokio::spawn(accept(listener, Arc::clone(&server_port), is_cut.subscribe()));
        Ok(Self { port, server_port, is_cut })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The loopback port of the server behind it.
    pub fn lead_to(&self, port: u16) {
        self.server_port.store(port, Ordering::Release);
    }

    /// Cuts the line, or mends it.
    pub fn set_cut(&self, is_cut: bool) {
        self.is_cut.send_replace(is_cut);
    }
}

async fn accept(listener: TcpListener, server_port: Arc<AtomicU16>, is_cut: watch::Receiver<bool>) {
    while let Ok((client, _)) = listener.accept().await {
        let (port, mut is_cut) = (server_port.load(Ordering::Acquire), is_cut.clone());
        tokio::spawn(async move {
            // Who connects to a cut line waits.
            if is_cut.wait_for(|is_cut| !is_cut).await.is_err() {
                return;
            }
            let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
            tokio::spawn(pass_on(from_client, to_server, is_cut.clone()));
            pass_on(from_server, to_client, is_cut).await;
        });
    }
}

async fn pass_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut is_cut: watch::Receiver<bool>) {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let num_read = from.read(&mut buffer).await.unwrap_or(0);
        // The end of a connection is not heard through a cut line either.
        if is_cut.wait_for(|is_cut| !is_cut).await.is_err() {
            return;
        }
        if num_read == 0 || to.write_all(&buffer[..num_read]).await.is_err() {
            let _ = to.shutdown().await;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    #[tokio::test]
    async fn a_cut_line_passes_nothing_on_and_a_mended_one_what_was_on_its_way() {
        let server = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let proxy = TcpProxy::listen().await.unwrap();
        proxy.lead_to(server.local_addr().unwrap().port());
        let mut client = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
        let (mut served, _) = server.accept().await.unwrap();
        let mut byte = [0];
        client.write_all(b"a").await.unwrap();
        served.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"a");
        proxy.set_cut(true);
        client.write_all(b"b").await.unwrap();
        let heard = timeout(Duration::from_millis(200), served.read_exact(&mut byte)).await;
        assert!(heard.is_err(), "the line is cut");
        proxy.set_cut(false);
        served.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"b");
        drop(served);
        assert_eq!(client.read(&mut byte).await.unwrap(), 0);
    }
}
