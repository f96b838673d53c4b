//! The operator's key.

use std::sync::Mutex;

use argon2::password_hash::phc::PasswordHash;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::key::verify_secret;

/// The master key that was set is not usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMasterKey {
    /// Neither the key nor its hash.
    #[error("neither a master key nor its hash is set")]
    Missing,
    /// The hash is none.
    #[error("not an argon2id PHC string ($argon2id$…)")]
    Hash,
}

/// The master keys that are accepted: one in clear, one as a hash, or, during a rotation, both.
#[derive(Debug)]
pub struct MasterKeys {
    plain: Option<[u8; 32]>,
    hash: Option<String>,
    /// The SHA-256 of the key that fitted the hash, so that argon2 runs once.
    known: Mutex<Option<[u8; 32]>>,
}

impl MasterKeys {
    /// Accepts these keys.
    ///
    /// # Errors
    ///
    /// [`InvalidMasterKey`] if there is none, or the hash is no argon2id PHC string.
    pub fn new(plain: Option<&SecretString>, hash: Option<String>) -> Result<Self, InvalidMasterKey> {
        if plain.is_none() && hash.is_none() {
            return Err(InvalidMasterKey::Missing);
        }
        let is_argon2id = |hash: &str| hash.starts_with("$argon2id$") && PasswordHash::new(hash).is_ok();
        if hash.as_deref().is_some_and(|hash| !is_argon2id(hash)) {
            return Err(InvalidMasterKey::Hash);
        }
        Ok(Self { plain: plain.map(|key| digest(key.expose_secret())), hash, known: Mutex::new(None) })
    }

    /// Whether this is the key in clear, or was verified before; in constant time.
    pub(crate) fn is_known(&self, presented: &str) -> bool {
        let presented = digest(presented);
        let known = self.known.lock().map_or(None, |known| *known);
        // Digests are compared, so neither length nor place of a difference shows.
        [self.plain, known].iter().flatten().any(|key| key.ct_eq(&presented).into())
    }

    /// Whether this key fits the hash; slow, and remembered.
    pub(crate) fn fits_hash(&self, presented: &SecretString) -> bool {
        let fits = self.hash.as_deref().is_some_and(|hash| verify_secret(presented, hash));
        if fits && let Ok(mut known) = self.known.lock() {
            *known = Some(digest(presented.expose_secret()));
        }
        fits
    }

    /// Whether there is a hash to look at.
    pub(crate) const fn has_hash(&self) -> bool {
        self.hash.is_some()
    }
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash_secret;

    #[test]
    fn either_key_opens_during_a_rotation_and_no_other() {
        let (old, new): (SecretString, SecretString) = ("old key".into(), "new key".into());
        let hash = hash_secret(&old).expect("memory");
        let keys = MasterKeys::new(Some(&new), Some(hash)).expect("both are right");

        assert!(keys.is_known("new key"));
        assert!(!keys.is_known("old key"), "not yet seen");
        assert!(keys.fits_hash(&old) && keys.is_known("old key"));
        for wrong in ["", "old", "new key ", "OLD KEY"] {
            assert!(!keys.is_known(wrong) && !keys.fits_hash(&wrong.into()), "{wrong}");
        }
    }

    #[test]
    fn what_is_no_hash_is_refused() {
        assert_eq!(MasterKeys::new(None, None).err(), Some(InvalidMasterKey::Missing));
        for bad in ["", "secret", "$argon2id$", "$argon2i$v=19$m=16,t=2,p=1$c29tZXNhbHQ$aGFzaA"] {
            assert_eq!(MasterKeys::new(None, Some(bad.to_owned())).err(), Some(InvalidMasterKey::Hash), "{bad}");
        }
    }
}
