//! A tenant's API key: `sk_`, a 12-character id, a 33-character secret.

use std::fmt;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use chatapi_domain::{KeyId, TenantKey, Timestamp};
use secrecy::{ExposeSecret, SecretString};

const PREFIX: &str = "sk_";

/// 33 characters of 62 are 196 bits.
const SECRET_LENGTH: usize = 33;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A text that is no key of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an API key")]
pub struct InvalidKey;

/// The system has no randomness or no memory for a new key.
#[derive(Debug, thiserror::Error)]
#[error("a key could not be made: {0}")]
pub struct NotMade(String);

/// A key in clear: shown once when it is made, and presented with every request.
pub struct ApiKey {
    key_id: KeyId,
    secret: SecretString,
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

impl ApiKey {
    /// A new key, and what the database keeps of it. That takes an argon2 (see [`hash_secret`]).
    ///
    /// # Errors
    ///
    /// [`NotMade`] if there is no memory or randomness for it.
    pub fn make(expires_at: Option<Timestamp>) -> Result<(Self, TenantKey), NotMade> {
        let key = Self::generate().map_err(|error| NotMade(error.to_string()))?;
        let secret_hash = hash_secret(key.secret()).map_err(|error| NotMade(error.to_string()))?;
        let stored = TenantKey { key_id: key.key_id.clone(), secret_hash, expires_at, revoked_at: None };
        Ok((key, stored))
    }

    /// A new key from the system's source of randomness.
    ///
    /// # Errors
    ///
    /// If that source fails.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let key_id = KeyId::parse(&random_text(KeyId::LENGTH)?).map_err(|_| getrandom::Error::UNEXPECTED)?;
        Ok(Self { key_id, secret: random_text(SECRET_LENGTH)?.into() })
    }

    /// Reads what a caller presents.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`] if no key looks like this.
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        let body = text.strip_prefix(PREFIX).ok_or(InvalidKey)?;
        let (id, secret) = body.split_at_checked(KeyId::LENGTH).ok_or(InvalidKey)?;
        let key_id = KeyId::parse(id).map_err(|_| InvalidKey)?;
        let right = secret.len() == SECRET_LENGTH && secret.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if right { Ok(Self { key_id, secret: secret.into() }) } else { Err(InvalidKey) }
    }

    /// The public part.
    #[must_use]
    pub const fn key_id(&self) -> &KeyId {
        &self.key_id
    }

    /// The secret part.
    #[must_use]
    pub const fn secret(&self) -> &SecretString {
        &self.secret
    }

    /// The whole key, to be shown once.
    #[must_use]
    pub fn expose(&self) -> SecretString {
        format!("{PREFIX}{}{}", self.key_id.as_str(), self.secret.expose_secret()).into()
    }
}

/// `length` characters of the alphabet, each as likely as the others.
pub(crate) fn random_text(length: usize) -> Result<String, getrandom::Error> {
    let mut text = String::with_capacity(length);
    let mut bytes = [0; 64];
    while text.len() < length {
        getrandom::fill(&mut bytes)?;
        // 248 is the largest multiple of 62 in a byte: the rest would favour some characters.
        let fair = bytes.iter().filter(|&&byte| byte < 248);
        text.extend(fair.take(length - text.len()).map(|byte| char::from(ALPHABET[usize::from(byte % 62)])));
    }
    Ok(text)
}

/// Hashes a secret with argon2id at the OWASP setting (19 MiB, 2 passes): some 26 ms of one core.
///
/// # Errors
///
/// If there is no memory or randomness for it.
pub fn hash_secret(secret: &SecretString) -> Result<String, argon2::password_hash::Error> {
    Ok(Argon2::default().hash_password(secret.expose_secret().as_bytes())?.to_string())
}

/// Whether the secret is the one that was hashed; as slow as hashing.
pub(crate) fn verify_secret(secret: &SecretString, hash: &str) -> bool {
    PasswordHash::new(hash)
        .is_ok_and(|hash| Argon2::default().verify_password(secret.expose_secret().as_bytes(), &hash).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_form_of_the_contract_and_reads_back() {
        let key = ApiKey::generate().expect("randomness");
        let text = key.expose().expose_secret().to_owned();

        assert_eq!(text.len(), 48);
        assert!(text[3..].bytes().all(|byte| byte.is_ascii_alphanumeric()));
        let read = ApiKey::parse(&text).expect("our own key");
        assert_eq!(read.expose().expose_secret(), text);
        assert_eq!(read.key_id().as_str(), &text[3..15]);
    }

    #[test]
    fn what_is_no_key_does_not_parse() {
        let good = ApiKey::generate().expect("randomness").expose().expose_secret().to_owned();
        let longer = format!("{good}x");
        let odd = format!("{}é", &good[..46]);

        for bad in ["", "sk_", "sk_abc", &good[3..], &good[..47], &longer, &odd, "sk_ééééééé"] {
            assert!(ApiKey::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_the_secret_that_was_hashed_is_verified_and_no_debug_shows_it() {
        let key = ApiKey::generate().expect("randomness");
        let hash = hash_secret(key.secret()).expect("memory");

        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(verify_secret(key.secret(), &hash));
        assert!(!verify_secret(&"x".repeat(33).into(), &hash));
        assert!(!verify_secret(key.secret(), "no hash"));
        assert!(!format!("{key:?}").contains(key.secret().expose_secret()));
    }
}
