//! The client itself: where the server is, who asks, and how a request is made.

use std::fmt::{self, Display};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, redirect};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;

use crate::{Backoff, Error, Result};

/// How often a call that may be repeated is made, at most.
const TRIES: u32 = 4;

const CONNECT_WITHIN: Duration = Duration::from_secs(10);

const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// What stays as it is in a path: the unreserved characters.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const MASTER_KEY: HeaderName = HeaderName::from_static("x-master-key");
const USER_ID: HeaderName = HeaderName::from_static("x-user-id");

/// Who asks.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// A tenant's backend, for one of its users or, without one, for the tenant itself.
    ApiKey {
        /// The tenant's key, `sk_…`.
        key: SecretString,
        /// Who acts.
        user: Option<String>,
    },
    /// A user, by a token that the tenant's backend made.
    UserToken(SecretString),
    /// The operator of the server, by the master key; for [`Client::create_tenant`] alone.
    Operator(SecretString),
}

/// Speaks to one server for one caller. Clones are cheap and share their connections.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Arc<str>,
    credentials: Arc<Credentials>,
    headers: HeaderMap,
    ids: Arc<Ids>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("base", &self.base)
            .field("credentials", &self.credentials)
            .finish_non_exhaustive()
    }
}

/// Makes ids for messages: random once, then counted.
struct Ids {
    prefix: String,
    next: AtomicU64,
}

impl Client {
    /// A client of the server at `base_url`, such as `http://localhost:8080`; a path in it is kept.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if the address is not one of http, or a credential cannot be sent.
    pub fn new(base_url: &str, credentials: Credentials) -> Result<Self> {
        let mut url = Url::parse(base_url).map_err(|error| invalid(format!("not an address: {error}")))?;
        if url.scheme() != "http" {
            return Err(invalid(format!("{} is not spoken by this client, only http", url.scheme())));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid("the address may not hold a password".to_owned()));
        }
        url.set_query(None);
        url.set_fragment(None);
        // A redirect would carry the key to another server.
        let http = reqwest::Client::builder()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_WITHIN)
            .timeout(ANSWER_WITHIN)
            .build()
            .map_err(Error::transport)?;
        let mut seed = [0; 16];
        getrandom::fill(&mut seed).map_err(|error| Error::Transport(error.to_string().into()))?;
        Ok(Self {
            http,
            base: url.as_str().trim_end_matches('/').into(),
            headers: headers(&credentials)?,
            credentials: Arc::new(credentials),
            ids: Arc::new(Ids { prefix: format!("{:032x}", u128::from_ne_bytes(seed)), next: AtomicU64::new(0) }),
        })
    }

    /// The same server for another caller, over the same connections.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if a credential cannot be sent.
    pub fn with_credentials(&self, credentials: Credentials) -> Result<Self> {
        Ok(Self { headers: headers(&credentials)?, credentials: Arc::new(credentials), ..self.clone() })
    }

    /// Whether it is a user with a token, who may get another.
    pub(crate) fn is_of_token(&self) -> bool {
        matches!(&*self.credentials, Credentials::UserToken(_))
    }

    /// An id for a message that nobody else makes.
    pub(crate) fn message_id(&self) -> String {
        format!("c_{}_{}", self.ids.prefix, self.ids.next.fetch_add(1, Ordering::Relaxed))
    }

    /// The address of the socket, which holds the token of a user, and the headers to open it with.
    pub(crate) fn socket(&self) -> (SecretString, HeaderMap) {
        let address = format!("ws{}/ws", self.base.trim_start_matches("http"));
        match &*self.credentials {
            Credentials::UserToken(token) => {
                let token = utf8_percent_encode(token.expose_secret(), SEGMENT);
                (format!("{address}?token={token}").into(), HeaderMap::new())
            }
            Credentials::ApiKey { .. } | Credentials::Operator(_) => (address.into(), self.headers.clone()),
        }
    }

    pub(crate) fn get(&self, path: &[&str]) -> Result<Call> {
        Ok(Call { repeatable: true, ..self.call(Method::GET, path)? })
    }

    pub(crate) fn post(&self, path: &[&str]) -> Result<Call> {
        self.call(Method::POST, path)
    }

    pub(crate) fn put(&self, path: &[&str]) -> Result<Call> {
        self.call(Method::PUT, path)
    }

    pub(crate) fn patch(&self, path: &[&str]) -> Result<Call> {
        self.call(Method::PATCH, path)
    }

    pub(crate) fn delete(&self, path: &[&str]) -> Result<Call> {
        self.call(Method::DELETE, path)
    }

    fn call(&self, method: Method, path: &[&str]) -> Result<Call> {
        let mut address = self.base.to_string();
        for segment in path {
            // These would be taken for steps in the path, encoded or not.
            if matches!(*segment, "" | "." | "..") {
                return Err(invalid(format!("\"{segment}\" is no id")));
            }
            address.push('/');
            address.extend(utf8_percent_encode(segment, SEGMENT));
        }
        let url = Url::parse(&address).map_err(|error| invalid(error.to_string()))?;
        Ok(Call { client: self.clone(), method, url, body: None, repeatable: false })
    }
}

/// One request, to be made once or, if it may be, until it succeeds.
pub(crate) struct Call {
    client: Client,
    method: Method,
    url: Url,
    body: Option<Vec<u8>>,
    repeatable: bool,
}

impl Call {
    /// Adds a parameter, if there is a value for it.
    pub(crate) fn query(mut self, name: &str, value: Option<impl Display>) -> Self {
        if let Some(value) = value {
            self.url.query_pairs_mut().append_pair(name, &value.to_string());
        }
        self
    }

    /// Sets all parameters, encoded already.
    pub(crate) fn encoded_query(mut self, query: &str) -> Self {
        self.url.set_query(Some(query));
        self
    }

    pub(crate) fn body(mut self, body: &impl Serialize) -> Self {
        self.body = Some(serde_json::to_vec(body).expect("texts and numbers can be written as JSON"));
        self
    }

    /// Doing it twice does it once.
    pub(crate) fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }

    /// Makes the request and reads the answer.
    pub(crate) async fn fetch<T: DeserializeOwned>(self) -> Result<T> {
        serde_json::from_slice(&self.send().await?).map_err(Error::Decode)
    }

    /// Makes the request; what is answered does not matter.
    pub(crate) async fn run(self) -> Result<()> {
        self.send().await.map(drop)
    }

    async fn send(self) -> Result<Vec<u8>> {
        let mut backoff = Backoff::default();
        let mut left = if self.repeatable { TRIES } else { 1 };
        loop {
            let error = match self.attempt().await {
                Ok(body) => return Ok(body),
                Err(error) => error,
            };
            left -= 1;
            match error.worth_repeating(backoff.wait()) {
                Some(wait) if left > 0 => tokio::time::sleep(wait).await,
                _ => return Err(error),
            }
        }
    }

    async fn attempt(&self) -> Result<Vec<u8>> {
        let request = self.client.http.request(self.method.clone(), self.url.clone());
        let mut request = request.headers(self.client.headers.clone());
        if let Some(body) = &self.body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.clone());
        }
        let answer = request.send().await.map_err(Error::transport)?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = answer.bytes().await.map_err(Error::transport)?;
        if status.is_success() { Ok(body.into()) } else { Err(Error::from_answer(status.as_u16(), &headers, &body)) }
    }
}

fn headers(credentials: &Credentials) -> Result<HeaderMap> {
    let secret = |text: &str| -> Result<HeaderValue> {
        let mut value = HeaderValue::from_str(text).map_err(|_| invalid("the key or token is not one".to_owned()))?;
        value.set_sensitive(true);
        Ok(value)
    };
    let mut headers = HeaderMap::new();
    match credentials {
        Credentials::ApiKey { key, user } => {
            headers.insert(API_KEY, secret(key.expose_secret())?);
            if let Some(user) = user {
                let user = HeaderValue::from_str(user).map_err(|_| invalid(format!("{user:?} is no user id")))?;
                headers.insert(USER_ID, user);
            }
        }
        Credentials::UserToken(token) => {
            let bearer = SecretString::from(format!("Bearer {}", token.expose_secret()));
            headers.insert(AUTHORIZATION, secret(bearer.expose_secret())?);
        }
        Credentials::Operator(key) => {
            headers.insert(MASTER_KEY, secret(key.expose_secret())?);
        }
    }
    Ok(headers)
}

const fn invalid(message: String) -> Error {
    Error::Invalid(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(base: &str) -> Result<Client> {
        Client::new(base, Credentials::ApiKey { key: "sk_secret".into(), user: Some("alice".to_owned()) })
    }

    #[test]
    fn ids_are_encoded_in_paths_and_none_of_them_is_a_step() {
        let client = backend("http://localhost:8080/chat/").expect("an address");

        let call = client.get(&["rooms", "room_1", "members", "auth0|a/b%?#ü"]).expect("a path");

        let path = "/chat/rooms/room_1/members/auth0%7Ca%2Fb%25%3F%23%C3%BC";
        assert_eq!(call.url.as_str(), format!("http://localhost:8080{path}"));
        for step in ["", ".", ".."] {
            assert!(matches!(client.get(&["rooms", step]), Err(Error::Invalid(_))), "{step:?}");
        }
    }

    #[test]
    fn only_http_is_spoken_and_what_is_no_header_is_refused() {
        for bad in ["localhost", "https://localhost", "ftp://localhost", "http://a:b@localhost", ""] {
            assert!(matches!(backend(bad), Err(Error::Invalid(_))), "{bad}");
        }
        let key = Credentials::UserToken("a\nb".into());
        assert!(matches!(Client::new("http://localhost", key), Err(Error::Invalid(_))));
    }

    #[test]
    fn no_secret_is_in_debug_or_in_the_headers_of_a_users_socket() {
        let client = backend("http://localhost").expect("an address");
        let user = client.with_credentials(Credentials::UserToken("ey.J+9".into())).expect("a token");
        let (address, headers) = user.socket();

        assert_eq!(address.expose_secret(), "ws://localhost/ws?token=ey.J%2B9");
        assert!(headers.is_empty());
        let (address, headers) = client.socket();
        assert_eq!(address.expose_secret(), "ws://localhost/ws");
        assert_eq!((headers.len(), &headers["x-user-id"]), (2, &HeaderValue::from_static("alice")));
        let debug = format!("{client:?} {user:?} {headers:?}");
        assert!(!debug.contains("sk_secret") && !debug.contains("ey.J"), "{debug}");
    }

    #[test]
    fn each_message_gets_an_id_of_its_own() {
        let client = backend("http://localhost").expect("an address");

        assert_ne!(client.message_id(), client.clone().message_id());
        assert_ne!(client.message_id(), backend("http://localhost").expect("an address").message_id());
    }
}
