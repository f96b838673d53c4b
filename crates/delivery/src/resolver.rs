//! Names to addresses, without those inside our own network.
//!
//! The system may take half a minute for a name whose server does not answer, and a thread as long; and
//! threads are for verifying keys too. So a question goes on until it is answered, whoever still waits;
//! the same name is not asked for meanwhile; and a tenant has a few questions at most.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use chatapi_domain::{TenantId, is_public};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use hyper_util::client::legacy::connect::dns::Name;
use tower_service::Service;

/// How long an answer is used.
const KEEP: Duration = Duration::from_secs(10);

/// Answers kept, and questions under way; of all tenants, and of one. There are 512 threads.
const KEPT: usize = 10_000;
const QUESTIONS: usize = 256;
const QUESTIONS_OF_TENANT: usize = 4;

type Answer = Result<Arc<[SocketAddr]>, Arc<str>>;

/// Asks the system, and keeps only addresses that are public, unless any may be called. What it
/// answers is what is connected to: a name that stands for another address a moment later, or for
/// several, gets nowhere else.
#[derive(Debug, Clone)]
pub(crate) struct Resolver {
    allow_private: bool,
    shared: Arc<Mutex<Questions>>,
}

#[derive(Debug, Default)]
struct Questions {
    names: HashMap<Box<str>, Question>,
    of_tenants: HashMap<TenantId, usize>,
}

#[derive(Debug, Clone)]
struct Question {
    asked_at: Instant,
    answer: Shared<BoxFuture<'static, Answer>>,
}

impl Question {
    fn is_answered(&self) -> bool {
        self.answer.peek().is_some()
    }

    /// Whether it need not be asked again.
    fn is_of_use(&self) -> bool {
        !self.is_answered() || self.asked_at.elapsed() < KEEP
    }
}

impl Resolver {
    pub(crate) fn new(allow_private: bool) -> Self {
        Self { allow_private, shared: Arc::default() }
    }

    /// Finds the addresses of a name, in the name of a tenant, so that [`Resolver::call`] has them.
    pub(crate) async fn find(&self, tenant: TenantId, name: &str) -> Result<(), String> {
        let question = self.ask(tenant, name)?;
        let found = question.answer.await.map_err(|error| error.to_string())?;
        permitted(&found, self.allow_private).map(|_| ()).map_err(|error| error.to_string())
    }

    fn ask(&self, tenant: TenantId, name: &str) -> Result<Question, String> {
        let mut questions = self.lock();
        if let Some(question) = questions.names.get(name).filter(|question| question.is_of_use()) {
            return Ok(question.clone());
        }
        if questions.names.len() >= KEPT {
            questions.names.retain(|_, question| question.is_of_use());
        }
        let under_way: usize = questions.of_tenants.values().sum();
        let of_tenant = questions.of_tenants.entry(tenant).or_default();
        if under_way >= QUESTIONS || *of_tenant >= QUESTIONS_OF_TENANT {
            return Err("too many names are being looked up".to_owned());
        }
        *of_tenant += 1;
        let (place, asked) = (Place { resolver: self.clone(), tenant }, name.to_owned());
        let lookup = tokio::task::spawn_blocking(move || {
            let found = (asked.as_str(), 0).to_socket_addrs().map(Iterator::collect::<Arc<[SocketAddr]>>);
            drop(place);
            found
        });
        let answer = lookup.map(|ended| match ended {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => Err(error.to_string().into()),
            Err(_) => Err("the name could not be looked up".into()),
        });
        let question = Question { asked_at: Instant::now(), answer: answer.boxed().shared() };
        questions.names.insert(name.into(), question.clone());
        Ok(question)
    }

    /// What was found for a name a moment ago, or is being found again by now.
    async fn found(self, name: Name) -> io::Result<std::vec::IntoIter<SocketAddr>> {
        let question = self.lock().names.get(name.as_str()).cloned();
        let question = question.ok_or_else(|| io::Error::other("the name was not looked up"))?;
        let found = question.answer.await.map_err(|error| io::Error::other(error.to_string()))?;
        permitted(&found, self.allow_private).map(Vec::into_iter)
    }

    fn lock(&self) -> MutexGuard<'_, Questions> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A tenant's right to a question; given back when its thread ends.
struct Place {
    resolver: Resolver,
    tenant: TenantId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut questions = self.resolver.lock();
        if let Some(of_tenant) = questions.of_tenants.get_mut(&self.tenant) {
            *of_tenant -= 1;
            if *of_tenant == 0 {
                questions.of_tenants.remove(&self.tenant);
            }
        }
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
        Box::pin(self.clone().found(name))
    }
}

fn permitted(found: &[SocketAddr], allow_private: bool) -> io::Result<Vec<SocketAddr>> {
    let is_permitted = |found: &&SocketAddr| allow_private || is_public(found.ip());
    let permitted: Vec<SocketAddr> = found.iter().filter(is_permitted).copied().collect();
    if permitted.is_empty() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the name stands for no public address"));
    }
    Ok(permitted)
}

#[cfg(test)]
mod tests {
    use chatapi_domain::Timestamp;

    use super::*;

    #[test]
    fn private_addresses_of_a_name_are_left_out() {
        let found = ["10.0.0.1:0", "1.1.1.1:0", "[::1]:0", "[2606:4700::1111]:0"];
        let found = found.map(|text| text.parse::<SocketAddr>().expect("an address"));

        let public = permitted(&found, false).expect("two");
        let inside = permitted(&found[..1], false);

        assert_eq!(public, [found[1], found[3]]);
        assert!(inside.is_err());
        assert_eq!(permitted(&found, true).expect("all").len(), 4);
    }

    #[tokio::test]
    async fn a_name_of_this_machine_leads_nowhere() {
        let (tenant, localhost) = (TenantId::new(Timestamp::from_micros(0)), || "localhost".parse().expect("a name"));

        let (mut public, mut any) = (Resolver::new(false), Resolver::new(true));
        assert!(public.find(tenant, "localhost").await.is_err());
        assert!(public.call(localhost()).await.is_err());
        assert!(any.call(localhost()).await.is_err(), "nobody has asked for it");
        any.find(tenant, "localhost").await.expect("found");
        assert!(any.call(localhost()).await.is_ok_and(|found| found.len() > 0));
    }

    #[tokio::test]
    async fn the_same_name_is_one_question_and_a_tenant_has_a_few() {
        let tenant = |number| TenantId::new(Timestamp::from_micros(number));
        let (one, other) = (tenant(1), tenant(2));
        let resolver = Resolver::new(true);
        // Questions that are never answered.
        let hang = |name: &str, tenant: TenantId| {
            let never = futures_util::future::pending::<Answer>().boxed().shared();
            let question = Question { asked_at: Instant::now(), answer: never };
            let mut questions = resolver.lock();
            questions.names.insert(name.into(), question);
            *questions.of_tenants.entry(tenant).or_default() += 1;
        };
        for name in ["a", "b", "c", "d"] {
            hang(name, one);
        }

        assert!(resolver.ask(one, "a").is_ok_and(|question| !question.is_answered()), "it is shared");
        assert!(resolver.ask(other, "a").is_ok(), "also with another tenant");
        assert!(resolver.ask(one, "localhost").is_err(), "no fifth");
        resolver.find(other, "localhost").await.expect("another tenant's own");
        resolver.find(one, "localhost").await.expect("and then it is known");
        assert_eq!(resolver.lock().of_tenants.get(&other), None, "the place is given back");
    }
}
