//! One address for several servers, which may change.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

/// Passes each new connection to the next of its servers.
#[derive(Debug, Clone)]
pub struct RoundRobin {
    address: SocketAddr,
    servers: Arc<Mutex<Vec<SocketAddr>>>,
}

impl RoundRobin {
    /// Listens on a port of its own; ends with the test's runtime.
    ///
    /// # Panics
    ///
    /// If there is no port.
    pub async fn start(servers: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let this = Self { address, servers: Arc::default() };
        this.set(servers);
        let servers = this.servers.clone();
        #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
        tokio::spawn(async move {
            let mut turn = 0;
            while let Ok((mut inbound, _)) = listener.accept().await {
                let servers = servers.lock().expect("not poisoned").clone();
                turn += 1;
                let server = servers[turn % servers.len()];
                tokio::spawn(async move {
                    let Ok(mut outbound) = TcpStream::connect(server).await else { return };
                    let _ = (inbound.set_nodelay(true), outbound.set_nodelay(true));
                    let _ = copy_bidirectional(&mut inbound, &mut outbound).await;
                });
            }
        });
        this
    }

    /// Passes further connections to these.
    ///
    /// # Panics
    ///
    /// If a URL is none of a server of ours.
    pub fn set(&self, urls: &[&str]) {
        let address = |url: &&str| url.trim_start_matches("http://").parse().expect("an address");
        *self.servers.lock().expect("not poisoned") = urls.iter().map(address).collect();
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}
