//! Tenants.

use std::fmt;

use secrecy::SecretString;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::{Client, Result};

/// A tenant that was just made.
#[derive(Deserialize)]
pub struct NewTenant {
    /// Its id, `tenant_…`.
    pub tenant_id: String,
    /// Its name.
    pub name: String,
    /// Its first key; this is the only time it is shown.
    #[serde(deserialize_with = "secret")]
    pub api_key: SecretString,
    /// When it was made.
    pub created_at: String,
}

impl fmt::Debug for NewTenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewTenant")
            .field("tenant_id", &self.tenant_id)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct Body<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<&'a Value>,
}

/// Reads a text that is kept secret from then on.
pub(crate) fn secret<'de, D: Deserializer<'de>>(input: D) -> Result<SecretString, D::Error> {
    String::deserialize(input).map(Into::into)
}

impl Client {
    /// Makes a tenant with a first key; for [`Credentials::Operator`](crate::Credentials::Operator).
    ///
    /// # Errors
    ///
    /// Any of [`Error`](crate::Error) that concerns requests.
    pub async fn create_tenant(&self, name: &str, config: Option<&Value>) -> Result<NewTenant> {
        self.post(&["admin", "tenants"])?.body(&Body { name, config }).fetch().await
    }
}
