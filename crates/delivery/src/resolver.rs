//! Names to addresses, without those inside our own network.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use chatapi_domain::is_public;
use hyper_util::client::legacy::connect::dns::Name;
use tower_service::Service;

/// Asks the system, and keeps only addresses that are public, unless any may be called. What it
/// answers is what is connected to: a name that stands for another address a moment later, or for
/// several, gets nowhere else.
#[derive(Debug, Clone)]
pub(crate) struct Resolver {
    pub(crate) allow_private: bool,
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let allow_private = self.allow_private;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            permitted(found, allow_private).map(Vec::into_iter)
        })
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

        assert!(Resolver { allow_private: false }.call(localhost()).await.is_err());
        assert!(Resolver { allow_private: true }.call(localhost()).await.is_ok());
    }
}
