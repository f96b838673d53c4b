//! An endpoint for webhooks that remembers what it is told, and answers as it is asked to.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// Longer than anything here may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What an endpoint does with a call.
#[derive(Debug, Clone)]
pub enum Behaviour {
    /// It answers with this status.
    Answer(u16),
    /// It answers with this status after this time.
    Late(Duration, u16),
    /// It answers `302` to this address.
    Redirect(String),
    /// It answers `200`, and never ends its answer.
    Trickle,
    /// It sends nothing but interim answers (`100`), as fast as it can.
    Interim,
    /// It never answers.
    Hang,
}

/// One call.
#[derive(Debug, Clone)]
pub struct Call {
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, to the byte.
    pub bytes: Bytes,
    /// Its body as JSON.
    pub body: Value,
}

impl Call {
    /// A header; empty if it is missing.
    #[must_use]
    pub fn header(&self, name: &str) -> String {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    }
}

/// An endpoint on a port of this machine. It ends with the test's runtime.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    is_tls: bool,
    shared: Arc<Shared>,
    calls: AsyncMutex<mpsc::Receiver<Call>>,
}

#[derive(Debug)]
struct Shared {
    behaviour: Mutex<Behaviour>,
    calls: mpsc::Sender<Call>,
}

impl Receiver {
    /// An endpoint that answers `200`.
    ///
    /// # Panics
    ///
    /// If there is no port.
    pub async fn start() -> Self {
        Self::listen(None).await
    }

    /// The same over TLS, as `localhost`; and the certificate of its authority, which nobody knows.
    ///
    /// # Panics
    ///
    /// If there is no port.
    pub async fn start_tls() -> (Self, String) {
        let mut parameters = CertificateParams::new(Vec::new()).expect("parameters");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(parameters, KeyPair::generate().expect("a key"));
        let authority = authority.expect("a certificate");
        let key = KeyPair::generate().expect("a key");
        let leaf = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
        let leaf = leaf.signed_by(&key, &authority).expect("signed");
        let private = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let config = ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], private)
            .expect("a certificate and its key");
        (Self::listen(Some(TlsAcceptor::from(Arc::new(config)))).await, authority.pem())
    }

    async fn listen(tls: Option<TlsAcceptor>) -> Self {
        let is_tls = tls.is_some();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let (sender, calls) = mpsc::channel(10_000);
        let shared = Arc::new(Shared { behaviour: Mutex::new(Behaviour::Answer(200)), calls: sender });
        let of_server = shared.clone();
        #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, shared) = (tls.clone(), of_server.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, shared).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, shared).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, is_tls, shared, calls: AsyncMutex::new(calls) }
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        if self.is_tls {
            return format!("https://localhost:{}/hook", self.address.port());
        }
        format!("http://{}/hook", self.address)
    }

    /// Behaves like this from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        *self.shared.behaviour.lock().unwrap_or_else(PoisonError::into_inner) = behaviour;
    }

    /// The next call.
    ///
    /// # Panics
    ///
    /// If none comes.
    pub async fn next(&self) -> Call {
        timeout(PATIENCE, self.calls.lock().await.recv()).await.expect("a call in time").expect("it listens")
    }

    /// The next calls, as many.
    ///
    /// # Panics
    ///
    /// If they do not come.
    pub async fn several(&self, many: usize) -> Vec<Call> {
        let mut calls = Vec::with_capacity(many);
        while calls.len() < many {
            calls.push(self.next().await);
        }
        calls
    }

    /// A call that is there already, or comes within this time.
    pub async fn within(&self, time: Duration) -> Option<Call> {
        timeout(time, self.calls.lock().await.recv()).await.ok().flatten()
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>) {
    let interim = matches!(*shared.behaviour.lock().unwrap_or_else(PoisonError::into_inner), Behaviour::Interim);
    if interim {
        let _ = stream.read(&mut [0; 4096]).await;
        let flood = b"HTTP/1.1 100 \r\n\r\n".repeat(10_000);
        while stream.write_all(&flood).await.is_ok() {}
        return;
    }
    let answer = service_fn(|request| answer(request, shared.clone()));
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Body>, Infallible> {
    let behaviour = shared.behaviour.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (parts, body) = request.into_parts();
    let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let body = serde_json::from_slice(&bytes).unwrap_or_default();
    let _ = shared.calls.send(Call { headers: parts.headers, bytes, body }).await;
    let whole = || Full::from("the endpoint's answer").boxed_unsync();
    let (response, body) = match behaviour {
        Behaviour::Answer(status) => (Response::builder().status(status), whole()),
        Behaviour::Late(time, status) => {
            tokio::time::sleep(time).await;
            (Response::builder().status(status), whole())
        }
        Behaviour::Redirect(to) => (Response::builder().status(302).header("location", to), whole()),
        Behaviour::Trickle => {
            let beginning = stream::once(async { Ok(Frame::data(Bytes::from("the beginning"))) });
            (Response::builder(), StreamBody::new(beginning.chain(stream::pending())).boxed_unsync())
        }
        Behaviour::Hang | Behaviour::Interim => std::future::pending().await,
    };
    Ok(response.body(body).expect("a response"))
}
