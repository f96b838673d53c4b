//! A proxy between a program and its database that can be cut.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;

/// Listens on a TCP port and passes everything to a server's Unix socket, until it is cut.
#[derive(Debug)]
pub struct Cutter {
    address: SocketAddr,
    open: Arc<watch::Sender<bool>>,
}

impl Cutter {
    /// A proxy to this Unix socket.
    ///
    /// # Panics
    ///
    /// If there is no port.
    pub async fn start(socket: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let open = Arc::new(watch::Sender::new(true));
        let state = open.subscribe();
        #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
        tokio::spawn(async move {
            while let Ok((inbound, _)) = listener.accept().await {
                tokio::spawn(pass(inbound, socket.clone(), state.clone()));
            }
        });
        Self { address, open }
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Breaks every connection, and each new one at once.
    pub fn cut(&self) {
        self.open.send_replace(false);
    }

    /// Lets connections through again.
    pub fn mend(&self) {
        self.open.send_replace(true);
    }
}

async fn pass(mut inbound: TcpStream, socket: PathBuf, mut open: watch::Receiver<bool>) {
    if !*open.borrow_and_update() {
        return;
    }
    let Ok(mut outbound) = UnixStream::connect(socket).await else { return };
    tokio::select! {
        _ = copy_bidirectional(&mut inbound, &mut outbound) => {}
        _ = open.wait_for(|open| !open) => {}
    }
}
