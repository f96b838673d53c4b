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
use hyper_util::client::legacy::connect::dns::Name;
use tokio::sync::watch;
use tower_service::Service;

/// How long an answer is used by those who ask; and it is kept for longer, for those who have it already
/// and are about to connect.
const USE: Duration = Duration::from_secs(10);
const KEEP: Duration = Duration::from_secs(30);

/// Answers kept, and questions under way; of all tenants, and of one. There are 512 threads.
const KEPT: usize = 10_000;
const QUESTIONS: usize = 256;
const QUESTIONS_OF_TENANT: usize = 4;

/// Too many questions are under way: of the tenant, or of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Busy;

/// What the system said, and when.
#[derive(Debug, Clone)]
struct Answer {
    at: Instant,
    found: Result<Arc<[SocketAddr]>, Arc<str>>,
}

/// A question, and its answer once there is one, whether anybody waits for it or not.
type Question = watch::Receiver<Option<Answer>>;

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

/// Whether a question is under way, or was answered less than `age` ago.
fn is_within(question: &Question, age: Duration) -> bool {
    match &*question.borrow() {
        Some(answer) => answer.at.elapsed() < age,
        // Without an answer and nobody to give one, its thread has gone.
        None => question.has_changed().is_ok(),
    }
}

impl Resolver {
    pub(crate) fn new(allow_private: bool) -> Self {
        Self { allow_private, shared: Arc::default() }
    }

    /// Finds the addresses of a name, in the name of a tenant, so that [`Resolver::call`] has them.
    pub(crate) async fn find(&self, tenant: TenantId, name: &str) -> Result<Result<(), String>, Busy> {
        let question = self.ask(tenant, name)?;
        Ok(self.answered(question).await.map(|_| ()).map_err(|error| error.to_string()))
    }

    fn ask(&self, tenant: TenantId, name: &str) -> Result<Question, Busy> {
        let mut questions = self.lock();
        if let Some(question) = questions.names.get(name).filter(|question| is_within(question, USE)) {
            return Ok(question.clone());
        }
        if questions.names.len() >= KEPT {
            questions.names.retain(|_, question| is_within(question, KEEP));
        }
        let under_way: usize = questions.of_tenants.values().sum();
        let of_tenant = questions.of_tenants.get(&tenant).copied().unwrap_or_default();
        if under_way >= QUESTIONS || of_tenant >= QUESTIONS_OF_TENANT {
            return Err(Busy);
        }
        questions.of_tenants.insert(tenant, of_tenant + 1);
        let (answering, question) = watch::channel(None);
        questions.names.insert(name.into(), question.clone());
        // Not under the lock: a runtime that ends drops what it does not run any more.
        drop(questions);
        let (place, name) = (Place { resolver: self.clone(), tenant }, name.to_owned());
        tokio::task::spawn_blocking(move || {
            let found = (name.as_str(), 0).to_socket_addrs().map(Iterator::collect::<Arc<[SocketAddr]>>);
            let found = found.map_err(|error| error.to_string().into());
            answering.send_replace(Some(Answer { at: Instant::now(), found }));
            drop(place);
        });
        Ok(question)
    }

    /// What was found for a name a moment ago, or is being found again by now.
    async fn found(self, name: Name) -> io::Result<std::vec::IntoIter<SocketAddr>> {
        let question = self.lock().names.get(name.as_str()).cloned();
        let question = question.ok_or_else(|| io::Error::other("the name was not looked up"))?;
        self.answered(question).await.map(Vec::into_iter)
    }

    async fn answered(&self, mut question: Question) -> io::Result<Vec<SocketAddr>> {
        let answer = question.wait_for(Option::is_some).await.map(|answer| answer.clone());
        let found = answer.ok().flatten().map(|answer| answer.found);
        let found = found.unwrap_or_else(|| Err("the name could not be looked up".into()));
        let found = found.map_err(|error| io::Error::other(error.to_string()))?;
        permitted(&found, self.allow_private)
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
        assert!(public.find(tenant, "localhost").await.is_ok_and(|found| found.is_err()));
        assert!(public.call(localhost()).await.is_err());
        assert!(any.call(localhost()).await.is_err(), "nobody has asked for it");
        any.find(tenant, "localhost").await.expect("asked").expect("found");
        assert!(any.call(localhost()).await.is_ok_and(|found| found.len() > 0));
    }

    #[tokio::test]
    async fn the_same_name_is_one_question_and_a_tenant_has_a_few() {
        let tenant = |number| TenantId::new(Timestamp::from_micros(number));
        let (one, other) = (tenant(1), tenant(2));
        let resolver = Resolver::new(true);
        // Questions that are not answered.
        let hang = |name: &str| {
            let (answering, question) = watch::channel(None);
            let mut questions = resolver.lock();
            questions.names.insert(name.into(), question);
            *questions.of_tenants.entry(one).or_default() += 1;
            answering
        };
        let answering = ["a", "b", "c", "d"].map(hang);

        assert!(resolver.ask(one, "a").is_ok_and(|question| question.borrow().is_none()), "it is shared");
        assert!(resolver.ask(other, "a").is_ok(), "also with another tenant");
        assert_eq!(resolver.ask(one, "localhost").err(), Some(Busy), "no fifth");
        resolver.find(other, "localhost").await.expect("another tenant's own").expect("found");
        resolver.find(one, "localhost").await.expect("and then it is known").expect("found");
        while resolver.lock().of_tenants.contains_key(&other) {
            tokio::task::yield_now().await;
        }

        // What is answered after everybody has gone is of use for its time; what is old, or will never be
        // answered, is asked again.
        let [first, second, ..] = answering;
        first.send_replace(Some(Answer { at: Instant::now(), found: Err("late".into()) }));
        assert_eq!(resolver.find(other, "a").await, Ok(Err("late".to_owned())));
        let at = Instant::now().checked_sub(USE).expect("the machine runs for longer");
        first.send_replace(Some(Answer { at, found: Err("old".into()) }));
        drop(second);
        for name in ["a", "b"] {
            let before = resolver.lock().names[name].clone();
            let again = resolver.ask(other, name).expect("asked again");
            assert!(!again.same_channel(&before), "{name}");
        }
    }
}
