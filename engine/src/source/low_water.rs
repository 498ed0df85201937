//! How much must have come over a TCP connection before its reader is woken (`SO_RCVLOWAT`, socket(7)).
//!
//! A reader that gathers does not poll its socket meanwhile, but the runtime still is woken by the kernel for each packet, only to
//! go back to sleep: at 10 000 events a second those were 4 500 wake-ups, a twentieth of what an uplink costs in all. With a mark
//! there is one when it is time or when a lot has come. An end of the connection always wakes.
//!
//! Limits: only a saving. Where the kernel refuses, reading goes on as without it.
#![allow(unsafe_code, reason = "one setsockopt that no crate here wraps")]

use std::ffi::c_int;
use std::os::fd::{AsRawFd as _, OwnedFd};

use tokio::net::TcpStream;

/// The mark of one connection.
#[derive(Debug)]
pub(super) struct LowWater {
    /// A second handle of the socket: the first one is inside the TLS layer. `None`: no mark can be set.
    socket: Option<OwnedFd>,
    mark_bytes: usize,
}

impl LowWater {
    /// Of this connection, unset: every byte wakes.
    pub(super) fn of(tcp: &TcpStream) -> Self {
        use std::os::fd::AsFd as _;
        Self { socket: tcp.as_fd().try_clone_to_owned().ok(), mark_bytes: 1 }
    }

    /// Wakes the reader for so many bytes from now on; at once, if as many wait already.
    pub(super) fn set(&mut self, mark_bytes: usize) {
        if self.mark_bytes == mark_bytes {
            return;
        }
        let (Some(socket), Ok(value)) = (&self.socket, c_int::try_from(mark_bytes)) else { return };
        let size = size_of::<c_int>() as libc::socklen_t;
        // SAFETY: the descriptor is ours and open, and the kernel only reads the integer, which outlives the call.
        let answer = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVLOWAT,
                std::ptr::from_ref(&value).cast(),
                size,
            )
        };
        if answer == 0 {
            self.mark_bytes = mark_bytes;
        } else if mark_bytes != 1 {
            // Never tried again: a mark that could be set and not be taken back would keep events waiting.
            self.socket = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let near = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
        let (far, _) = listener.accept().await.expect("its other end");
        far.set_nodelay(true).expect("an option");
        (near, far)
    }

    #[tokio::test]
    async fn below_the_mark_nobody_is_woken_and_taking_it_back_wakes_for_what_waits() {
        let (mut near, mut far) = pair().await;
        let mut low_water = LowWater::of(&near);
        low_water.set(1000);
        far.write_all(&[7; 10]).await.expect("ten bytes");
        let early = timeout(Duration::from_millis(100), near.readable()).await;
        assert!(early.is_err(), "woken for less than the mark");
        low_water.set(1);
        let mut buffer = [0; 64];
        let num_bytes = timeout(LONG, near.read(&mut buffer)).await.expect("woken").expect("a read");
        assert_eq!(&buffer[..num_bytes], &[7; 10]);
    }

    #[tokio::test]
    async fn the_mark_is_reached_or_the_connection_ends() {
        let (mut near, mut far) = pair().await;
        let mut low_water = LowWater::of(&near);
        low_water.set(1000);
        far.write_all(&[1; 1000]).await.expect("a thousand bytes");
        let mut buffer = [0; 4096];
        let num_bytes = timeout(LONG, near.read(&mut buffer)).await.expect("woken").expect("a read");
        assert_eq!(num_bytes, 1000);
        far.write_all(&[2; 10]).await.expect("ten bytes");
        drop(far);
        timeout(LONG, near.readable()).await.expect("woken by the end").expect("an end");
    }
}
