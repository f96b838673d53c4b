//! User tokens: a JWT (HS256) signed with a secret of the tenant.

use chatapi_domain::{TenantId, Timestamp, UserId};
use jsonwebtoken::dangerous::insecure_decode_claims;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde::{Deserialize, Serialize};

/// Longer than any token of ours.
const MAX_LENGTH: usize = 2048;

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    /// The tenant.
    pub(crate) tid: TenantId,
    /// The user.
    pub(crate) sub: UserId,
    /// Issued at, in seconds; for those who read tokens.
    iat: i64,
    /// The end, in seconds.
    exp: i64,
    /// Issued at, in microseconds: a token made right after a revocation is good.
    iat_us: i64,
}

impl Claims {
    pub(crate) fn new(tenant: TenantId, user: UserId, now: Timestamp, seconds: u32) -> Self {
        let issued = now.as_micros().div_euclid(1_000_000);
        Self { tid: tenant, sub: user, iat: issued, exp: issued + i64::from(seconds), iat_us: now.as_micros() }
    }

    pub(crate) const fn issued_at(&self) -> Timestamp {
        Timestamp::from_micros(self.iat_us)
    }

    pub(crate) const fn expires_at(&self) -> Timestamp {
        Timestamp::from_micros(self.exp.saturating_mul(1_000_000))
    }

    /// The token that says this.
    pub(crate) fn sign(&self, secret: &SecretSlice<u8>) -> Result<SecretString, jsonwebtoken::errors::Error> {
        let key = EncodingKey::from_secret(secret.expose_secret());
        encode(&Header::new(Algorithm::HS256), self, &key).map(SecretString::from)
    }

    /// What a token claims, before anybody has checked it: whose secret to check it with.
    pub(crate) fn claimed(token: &str) -> Option<Self> {
        (token.len() <= MAX_LENGTH).then(|| insecure_decode_claims(token).ok()).flatten()
    }

    /// What a token says, if this secret signed it; its end is not looked at.
    pub(crate) fn verify(token: &str, secret: &SecretSlice<u8>) -> Option<Self> {
        let mut validation = Validation::new(Algorithm::HS256);
        // The clock is ours to read.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        decode(token, &DecodingKey::from_secret(secret.expose_secret()), &validation).ok().map(|data| data.claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        let now = Timestamp::from_micros(1_800_000_000_123_456);
        Claims::new(TenantId::new(now), UserId::parse("user", "auth0|42").expect("a user"), now, 60)
    }

    #[test]
    fn a_token_reads_back_and_only_under_its_own_secret() {
        let (ours, theirs) = (SecretSlice::from(vec![1; 32]), SecretSlice::from(vec![2; 32]));
        let token = claims().sign(&ours).expect("signed");
        let token = token.expose_secret();

        assert_eq!(Claims::verify(token, &ours).map(|read| read.issued_at()), Some(claims().issued_at()));
        assert_eq!(Claims::verify(token, &theirs), None);
        assert_eq!(Claims::claimed(token).map(|read| read.sub), Some(claims().sub));
        assert_eq!(claims().expires_at(), Timestamp::from_micros(1_800_000_060_000_000));
        for at in 0..token.len() {
            let mut forged = token.to_owned().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).expect("ASCII");
            // The last letter of a part may hold bits that do not count.
            assert!(Claims::verify(&forged, &ours).is_none_or(|read| Some(read) == Claims::verify(token, &ours)));
        }
    }

    #[test]
    fn an_unsigned_or_otherwise_signed_token_is_none() {
        use base64::Engine;
        let part = |json: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json);
        let body = part(&serde_json::to_string(&claims()).expect("JSON"));
        let secret = SecretSlice::from(vec![1; 32]);

        for head in [r#"{"alg":"none"}"#, r#"{"alg":"RS256","typ":"JWT"}"#, r#"{"alg":"HS256"}"#] {
            assert_eq!(Claims::verify(&format!("{}.{body}.", part(head)), &secret), None, "{head}");
        }
        for junk in ["", "a.b.c", "..", &"x".repeat(5000)] {
            assert_eq!(Claims::claimed(junk), None);
        }
    }
}
