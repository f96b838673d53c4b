//! Who an endpoint can be sure that it hears from.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chatapi_domain::{WebhookSecrets, secret_bytes};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

/// The signatures of one call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Signatures {
    /// `webhook-signature`: `v1,` and base64, once for each secret, over the id, the time and the body.
    pub(crate) standard: Option<String>,
    /// `X-ChatAPI-Signature`: `sha256=` and hex, with the present secret, over the body alone.
    pub(crate) own: Option<String>,
}

/// Signs a call; without a secret it has no signature.
pub(crate) fn sign(secrets: &WebhookSecrets, id: &str, timestamp: i64, body: &[u8]) -> Signatures {
    let head = format!("{id}.{timestamp}.");
    let one = |secret| format!("v1,{}", STANDARD.encode(mac(secret, &[head.as_bytes(), body])));
    let standard: Vec<String> = secrets.current.iter().chain(secrets.old.iter().rev()).map(one).collect();
    let own = secrets.current.as_ref().map(|secret| format!("sha256={}", hex(&mac(secret, &[body]))));
    Signatures { standard: (!standard.is_empty()).then(|| standard.join(" ")), own }
}

fn mac(secret: &SecretString, parts: &[&[u8]]) -> [u8; 32] {
    let text = secret.expose_secret();
    let key = secret_bytes(text).unwrap_or_else(|| text.as_bytes().to_vec());
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Standard Webhooks specification and its reference libraries.
    #[test]
    fn it_signs_as_the_standard_says() {
        let secrets =
            WebhookSecrets { current: Some("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into()), old: Vec::new() };
        let body = br#"{"test": 2432232314}"#;

        let signed = sign(&secrets, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);

        assert_eq!(signed.standard.as_deref(), Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="));
    }

    /// RFC 4231, test case 2.
    #[test]
    fn the_short_form_is_the_hmac_of_the_body() {
        let secrets = WebhookSecrets { current: Some("Jefe".into()), old: Vec::new() };

        let signed = sign(&secrets, "event_x", 0, b"what do ya want for nothing?");

        let expected = "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(signed.own.as_deref(), Some(expected));
    }

    #[test]
    fn replaced_secrets_sign_too_and_without_any_nothing_is_signed() {
        let secrets = WebhookSecrets { current: Some("new".into()), old: vec!["oldest".into(), "old".into()] };
        let alone = |text: &str| WebhookSecrets { current: Some(text.into()), old: Vec::new() };
        let signed = |secrets: &WebhookSecrets| sign(secrets, "event_x", 1, b"{}");

        let each = ["new", "old", "oldest"].map(|text| signed(&alone(text)).standard.expect("signed"));
        assert_eq!(signed(&secrets).standard, Some(each.join(" ")));
        assert_eq!(signed(&secrets).own, signed(&alone("new")).own);
        assert_eq!(signed(&WebhookSecrets::default()), Signatures { standard: None, own: None });
    }
}
