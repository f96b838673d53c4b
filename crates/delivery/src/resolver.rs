//! Names to addresses, without those inside our own network.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use chatapi_domain::is_public;
use hyper_util::client::legacy::connect::dns::Name;
use moka::future::Cache;
use tokio::sync::Semaphore;
use tower_service::Service;

/// How long what was found is used again, and how much of it is kept.
const KEEP: Duration = Duration::from_secs(10);
const KEPT: u64 = 10_000;

/// Names the system is asked for at once. Each takes a thread for as long as the system tries, and
/// the threads are for verifying keys too (there are 512).
const ASKING: usize = 128;

/// Asks the system, and keeps only addresses that are public, unless any may be called. What it
/// answers is what is connected to: a name that stands for another address a moment later, or for
/// several, gets nowhere else. Those who want the same name at once share one question.
#[derive(Debug, Clone)]
pub(crate) struct Resolver {
    allow_private: bool,
    found: Cache<Box<str>, Arc<[SocketAddr]>>,
    asking: Arc<Semaphore>,
}

impl Resolver {
    pub(crate) fn new(allow_private: bool) -> Self {
        let found = Cache::builder().max_capacity(KEPT).time_to_live(KEEP).build();
        Self { allow_private, found, asking: Arc::new(Semaphore::new(ASKING)) }
    }

    async fn find(self, name: Box<str>) -> io::Result<std::vec::IntoIter<SocketAddr>> {
        let (asking, asked) = (self.asking.clone(), name.clone());
        let found = self.found.try_get_with(name, async move {
            // The place is given back when the thread ends, though nobody may wait for it any more.
            let place = asking.acquire_owned().await.map_err(io::Error::other)?;
            let lookup = tokio::task::spawn_blocking(move || {
                let found = (&*asked, 0).to_socket_addrs().map(Iterator::collect);
                drop(place);
                found
            });
            lookup.await.map_err(io::Error::other)?
        });
        let found = found.await.map_err(|error| io::Error::new(error.kind(), error.to_string()))?;
        permitted(found.iter().copied(), self.allow_private).map(Vec::into_iter)
    }
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        Box::pin(self.clone().find(name.as_str().into()))
    }
}

fn permitted(found: impl Iterator<Item = SocketAddr>, allow_private: bool) -> io::Result<Vec<SocketAddr>> {
    let permitted: Vec<SocketAddr> = found.filter(|found| allow_private || is_public(found.ip())).collect();
    if permitted.is_empty() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the name stands for no public address"));
    }
    Ok(permitted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_of_a_name_are_left_out() {
        let found = ["10.0.0.1:0", "1.1.1.1:0", "[::1]:0", "[2606:4700::1111]:0"];
        let found = || found.iter().map(|text| text.parse::<SocketAddr>().expect("an address"));

        let public = permitted(found(), false).expect("two");
        let inside = permitted(found().take(1), false);

        assert_eq!(public, ["1.1.1.1:0".parse().expect("one"), "[2606:4700::1111]:0".parse().expect("another")]);
        assert!(inside.is_err());
        assert_eq!(permitted(found(), true).expect("all").len(), 4);
    }

    #[tokio::test]
    async fn a_name_of_this_machine_leads_nowhere() {
        let localhost = || "localhost".parse::<Name>().expect("a name");

        assert!(Resolver::new(false).call(localhost()).await.is_err());
        assert!(Resolver::new(true).call(localhost()).await.is_ok());
    }
}
