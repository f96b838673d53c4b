//! Tokens, with which a user's own program may come.

use std::time::Duration;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::tenants::secret;
use crate::{Client, Result};

/// A token of one user.
#[derive(Debug, Deserialize)]
pub struct UserToken {
    /// What the user presents.
    #[serde(deserialize_with = "secret")]
    pub token: SecretString,
    /// Whose it is.
    pub user_id: String,
    /// Until when it is good.
    pub expires_at: String,
}

/// What opens one socket, once and soon.
#[derive(Debug, Deserialize)]
pub struct SocketTicket {
    /// `wst_…`
    #[serde(deserialize_with = "secret")]
    pub token: SecretString,
    /// For how many seconds it is good.
    pub expires_in: u64,
}

#[derive(Serialize)]
struct NewToken<'a> {
    user_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in: Option<u64>,
}

#[derive(Serialize)]
struct Revoked<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a str>,
}

impl Client {
    /// Makes a token for a user, good for an hour if not said otherwise; for backends.
    ///
    /// # Errors
    ///
    /// Any of [`Error`](crate::Error) that concerns requests.
    pub async fn create_token(&self, user_id: &str, expires_in: Option<Duration>) -> Result<UserToken> {
        let expires_in = expires_in.map(|time| time.as_secs());
        self.post(&["tokens"])?.body(&NewToken { user_id, expires_in }).fetch().await
    }

    /// Ends all tokens made until now, of one user or of all; for backends.
    ///
    /// # Errors
    ///
    /// As [`create_token`](Self::create_token).
    pub async fn revoke_tokens(&self, user_id: Option<&str>) -> Result<()> {
        self.post(&["tokens", "revoke"])?.body(&Revoked { user_id }).run().await
    }

    /// Makes a ticket for a socket, to be opened by a program that may not hold the key or token.
    ///
    /// # Errors
    ///
    /// As [`create_token`](Self::create_token).
    pub async fn socket_ticket(&self) -> Result<SocketTicket> {
        self.post(&["ws", "token"])?.fetch().await
    }
}
