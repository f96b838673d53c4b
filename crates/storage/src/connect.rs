//! How a connection is made: the database's URL, TLS by `sslmode`, the session's settings.

use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;
use url::Url;

/// What every session of ours runs with.
///
/// Every statement is keyed by tenant, so the index plan is right whatever the statistics say. On
/// a near-empty table PostgreSQL would choose, and keep, a sequential scan; planning anew each
/// time would cost more than running (0.59 against 0.33 ms for a message, measured on 2 cores).
/// What is switched off is still used where there is no other way.
pub const SESSION: &str = "-c statement_timeout=15s -c idle_in_transaction_session_timeout=30s \
    -c plan_cache_mode=force_generic_plan -c random_page_cost=1.1 -c enable_seqscan=off -c enable_hashjoin=off \
    -c enable_mergejoin=off -c enable_hashagg=off -c enable_bitmapscan=off -c enable_memoize=off -c jit=off -c timezone=UTC \
    -c application_name=chatapi";

/// The database's URL is not usable. The message never holds the password.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct InvalidUrl(String);

/// Makes connections to one database.
#[derive(Clone)]
pub struct Connector {
    plain: tokio_postgres::Config,
    tls: MakeRustlsConnect,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("hosts", &self.plain.get_hosts()).finish_non_exhaustive()
    }
}

impl Connector {
    /// Reads a `postgres://` URL. Beside what the driver knows, `sslmode` may be `verify-ca` or
    /// `verify-full`, and `sslrootcert` names a PEM file of trusted roots (default: the system's).
    ///
    /// As with `PostgreSQL`'s own client, `require` does not look at the certificate unless
    /// `sslrootcert` is given, and then it is `verify-ca`.
    ///
    /// # Errors
    ///
    /// [`InvalidUrl`] if it cannot be read, or the roots cannot.
    pub fn parse(text: &str) -> Result<Self, InvalidUrl> {
        let mut url = Url::parse(text).map_err(|error| InvalidUrl(format!("not a URL: {error}")))?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(InvalidUrl("expected postgres://…".to_owned()));
        }
        let parameters: Vec<_> = url.query_pairs().into_owned().collect();
        let of = |wanted: &str| parameters.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        let (mode, tls) = tls(of("sslmode").unwrap_or("prefer"), of("sslrootcert").map(Path::new))?;
        // The driver's own stay as they were written: it knows no `+` for a space.
        let is_ours = |pair: &str| matches!(pair.split('=').next(), Some("sslmode" | "sslrootcert"));
        let theirs = url.query().map(|query| {
            query.split('&').filter(|pair| !pair.is_empty() && !is_ours(pair)).collect::<Vec<_>>().join("&")
        });
        url.set_query(theirs.as_deref());

        let mut plain: tokio_postgres::Config = url.as_str().parse().map_err(|error: tokio_postgres::Error| {
            let reason = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            InvalidUrl(format!("{error}: {reason}"))
        })?;
        plain.ssl_mode(mode);
        if plain.get_connect_timeout().is_none() {
            plain.connect_timeout(Duration::from_secs(5));
        }
        // A server that is gone without a word is noticed within this time.
        plain.keepalives_idle(Duration::from_secs(15)).tcp_user_timeout(Duration::from_secs(15));
        Ok(Self { plain, tls: MakeRustlsConnect::new(tls) })
    }

    /// Where it connects to, for people: the URL without password and settings.
    #[must_use]
    pub fn address(&self) -> String {
        use tokio_postgres::config::Host;
        let ports = self.plain.get_ports();
        let host = |(at, host): (usize, &Host)| match host {
            Host::Tcp(name) => format!("{name}:{}", ports.get(at).or(ports.first()).unwrap_or(&5432)),
            Host::Unix(folder) => folder.display().to_string(),
        };
        let hosts: Vec<_> = self.plain.get_hosts().iter().enumerate().map(host).collect();
        let user = self.plain.get_user().map(|user| format!("{user}@")).unwrap_or_default();
        format!("postgres://{user}{}/{}", hosts.join(","), self.plain.get_dbname().unwrap_or_default())
    }

    /// The settings and TLS of a session for requests.
    pub(crate) fn for_requests(&self) -> (tokio_postgres::Config, MakeRustlsConnect) {
        // Lists that can come sorted from an index are sorted piece by piece, not as a whole.
        self.with_options("-c lock_timeout=5s -c enable_sort=off")
    }

    /// The settings and TLS of a session of the message writer, which many wait for: a room that
    /// somebody else holds is given up sooner.
    pub(crate) fn for_writer(&self) -> (tokio_postgres::Config, MakeRustlsConnect) {
        self.with_options("-c lock_timeout=250ms")
    }

    /// The settings and TLS of the session that listens and tells: what it tells need not be on
    /// disk.
    pub(crate) fn for_feed(&self) -> (tokio_postgres::Config, MakeRustlsConnect) {
        self.with_options("-c lock_timeout=5s -c synchronous_commit=off")
    }

    /// The settings and TLS of a session that exports or imports: the other end may be slow, and an
    /// id that another import has taken is not waited for long.
    pub(crate) fn for_transfer(&self) -> (tokio_postgres::Config, MakeRustlsConnect) {
        let times = "-c lock_timeout=1s -c statement_timeout=60s -c idle_in_transaction_session_timeout=120s";
        self.with_options(&format!("{times} -c enable_sort=off"))
    }

    fn with_options(&self, more: &str) -> (tokio_postgres::Config, MakeRustlsConnect) {
        let mut config = self.plain.clone();
        let own = config.get_options().unwrap_or_default().to_owned();
        config.options(format!("{SESSION} {more} {own}"));
        (config, self.tls.clone())
    }

    /// The settings and TLS of a session with the database's own settings.
    pub(crate) fn plain(&self) -> (tokio_postgres::Config, MakeRustlsConnect) {
        (self.plain.clone(), self.tls.clone())
    }
}

fn tls(mode: &str, roots: Option<&Path>) -> Result<(SslMode, ClientConfig), InvalidUrl> {
    let (ssl, check) = match mode {
        "disable" => (SslMode::Disable, Check::Nothing),
        "prefer" | "allow" => (SslMode::Prefer, Check::Nothing),
        "require" if roots.is_none() => (SslMode::Require, Check::Nothing),
        "require" | "verify-ca" => (SslMode::Require, Check::Chain),
        "verify-full" => (SslMode::Require, Check::ChainAndName),
        _ => {
            let expected = "sslmode: expected disable, prefer, require, verify-ca or verify-full";
            return Err(InvalidUrl(expected.to_owned()));
        }
    };
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(Verifier::new(check, roots, &provider)?);
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| InvalidUrl(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok((ssl, config))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    Nothing,
    Chain,
    ChainAndName,
}

/// Checks the server's certificate as far as `sslmode` asks.
#[derive(Debug)]
struct Verifier {
    chain: Option<Arc<WebPkiServerVerifier>>,
    name: bool,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(check: Check, roots: Option<&Path>, provider: &Arc<CryptoProvider>) -> Result<Self, InvalidUrl> {
        let chain = if check == Check::Nothing {
            None
        } else {
            let roots = Arc::new(trusted(roots)?);
            let built = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build();
            Some(built.map_err(|error| InvalidUrl(format!("sslrootcert: {error}")))?)
        };
        Ok(Self { chain, name: check == Check::ChainAndName, provider: provider.clone() })
    }
}

fn trusted(file: Option<&Path>) -> Result<RootCertStore, InvalidUrl> {
    let mut store = RootCertStore::empty();
    let Some(path) = file else {
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(store);
    };
    let wrong = |error: String| InvalidUrl(format!("sslrootcert: {}: {error}", path.display()));
    let pem = fs::read(path).map_err(|error| wrong(error.to_string()))?;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        store.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if store.is_empty() { Err(wrong("holds no certificate".to_owned())) } else { Ok(store) }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last: an error here says that the chain is good.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.name => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_url_says_what_would_be_right_and_never_the_password() {
        for bad in [
            "mysql://u:sesame@h/d",
            "postgres://u:sesame@h/d?sslmode=maybe",
            "postgres://u:sesame@h:99999/d",
            "postgres://u:sesame@h/d?sslmode=verify-full&sslrootcert=/nowhere.pem",
            "postgres://u:sesame@h/d?no_such=1",
            "u:sesame",
        ] {
            let error = Connector::parse(bad).expect_err(bad).to_string();
            assert!(!error.contains("sesame"), "{error}");
        }
        let good = Connector::parse("postgres://u:sesame@h/d?sslmode=require").expect("a URL");
        assert!(!format!("{good:?}").contains("sesame"));
        assert_eq!(good.address(), "postgres://u@h:5432/d");
    }

    #[test]
    fn options_of_a_url_come_last_so_that_they_hold() {
        let url = "postgres://u@h/d?sslmode=disable&&options=-c%20work_mem%3D64MB%20-c%20a.b%3D1&application_name=x";
        let (config, _) = Connector::parse(url).expect("a URL").for_requests();
        let options = config.get_options().expect("some");
        assert!(options.starts_with("-c statement_timeout=15s "), "{options}");
        assert!(options.ends_with(" -c work_mem=64MB -c a.b=1"), "{options}");
        assert_eq!(config.get_application_name(), Some("x"));
    }
}
