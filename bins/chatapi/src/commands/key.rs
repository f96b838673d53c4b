//! `chatapi key`

use chatapi_auth::ApiKey;
use chatapi_domain::{Grace, KeyId, KeyInfo, Name, TenantId, TenantKey};
use chatapi_http::{KeyView, NewKeyView};
use chatapi_storage::{AuditAction, Error as StoreError};
use clap::Subcommand;
use secrecy::ExposeSecret;
use serde_json::json;

use super::confirm::Confirmation;
use super::output::{Output, cell, table};
use super::session::{Asked, Session, now};
use super::tenant::{self, named};
use crate::failure::Failure;

/// Keys read at once.
const PAGE: i64 = 500;

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Makes an API key of a tenant, which is shown this once.
    Create {
        /// The tenant's id.
        tenant: String,
        /// What the key is called.
        #[arg(long)]
        name: Option<String>,
        /// From when on it is refused, as 2026-01-31T12:00:00Z.
        #[arg(long, value_name = "TIME")]
        expires_at: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Lists a tenant's API keys, without their secrets.
    List {
        /// The tenant's id.
        tenant: String,
        #[command(flatten)]
        output: Output,
    },
    /// Makes a new API key in the place of another, which goes on for a while.
    Rotate {
        /// The tenant's id.
        tenant: String,
        /// The id of the key that ends.
        key: String,
        /// How long that goes on, 0 to 604800 seconds; a day if nothing is said.
        #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
        grace_seconds: Option<i64>,
        #[command(flatten)]
        output: Output,
    },
    /// Refuses an API key from now on, and closes its sockets; asks first.
    Revoke {
        /// The tenant's id.
        tenant: String,
        /// The key's id.
        key: String,
        #[command(flatten)]
        confirmation: Confirmation,
        #[command(flatten)]
        output: Output,
    },
}

/// Does what was asked.
pub(super) async fn run(command: KeyCommand, session: &Session) -> Result<(), Failure> {
    match command {
        KeyCommand::Create { tenant, name, expires_at, output } => {
            create(session, &tenant, name, expires_at, output).await
        }
        KeyCommand::List { tenant, output } => list(session, &tenant, output).await,
        KeyCommand::Rotate { tenant, key, grace_seconds, output } => {
            rotate(session, &tenant, &key, grace_seconds, output).await
        }
        KeyCommand::Revoke { tenant, key, confirmation, output } => {
            revoke(session, &tenant, &key, confirmation, output).await
        }
    }
}

/// The id of a key. One that does not parse is no different from one that does not exist.
fn parse(key: &str) -> Result<KeyId, Failure> {
    key.parse().map_err(|_| StoreError::NotFound("Key").into())
}

/// What is to be done with a key, or with the keys of a tenant.
fn asked(action: AuditAction, tenant: &str, key: Option<&str>) -> Asked {
    let key_id = key.and_then(|key| parse(key).ok());
    Asked { action, tenant_id: tenant::parse(tenant).ok(), key_id }
}

async fn create(
    session: &Session,
    tenant: &str,
    name: Option<String>,
    expires_at: Option<String>,
    output: Output,
) -> Result<(), Failure> {
    let (store, asked, tenant) =
        (session.store.clone(), asked(AuditAction::KeyCreate, tenant, None), tenant::parse(tenant));
    let making = async move {
        let (tenant, at) = (tenant?, now());
        let name = name.map(|name| Name::parse("name", name)).transpose()?;
        let expiry = |text: String| TenantKey::parse_expiry("expires_at", &text, at);
        let (key, stored) = ApiKey::make(expires_at.map(expiry).transpose()?)?;
        let made = store.keys().create(tenant, &stored, name.as_ref(), at).await?;
        Ok(((key, made), Some((tenant, stored.key_id))))
    };
    let (key, made) = session.change(asked, making).await?;
    show(&key, &made, output)
}

async fn list(session: &Session, tenant: &str, output: Output) -> Result<(), Failure> {
    let tenant = tenant::parse(tenant)?;
    session.store.tenants().get(tenant).await?;
    let mut keys: Vec<KeyInfo> = Vec::new();
    loop {
        let after = keys.last().map(|key| key.key_id.clone());
        let page = session.store.keys().list(tenant, after.as_ref(), PAGE).await?;
        if page.is_empty() {
            break;
        }
        keys.extend(page);
    }
    let views: Vec<_> = keys.iter().map(KeyView::from).collect();
    output.print(&json!({ "keys": views, "next_cursor": null }), || {
        let row = |key: &KeyInfo| {
            let times = [Some(key.created_at), key.last_used_at, key.expires_at, key.revoked_at].map(cell);
            let [created_at, last_used_at, expires_at, revoked_at] = times;
            let name = cell(key.name.as_ref().map(Name::as_str));
            [key.key_id.to_string(), created_at, last_used_at, expires_at, revoked_at, name]
        };
        let header = ["KEY_ID", "CREATED_AT", "LAST_USED_AT", "EXPIRES_AT", "REVOKED_AT", "NAME"].map(str::to_owned);
        table(&[header].into_iter().chain(keys.iter().map(row)).collect::<Vec<_>>())
    })
}

async fn rotate(
    session: &Session,
    tenant: &str,
    key: &str,
    grace_seconds: Option<i64>,
    output: Output,
) -> Result<(), Failure> {
    let store = session.store.clone();
    let (asked, tenant, old) = (asked(AuditAction::KeyRotate, tenant, Some(key)), tenant::parse(tenant), parse(key));
    let making = async move {
        let (tenant, old, at) = (tenant?, old?, now());
        let grace = grace_seconds.map(|seconds| Grace::parse("grace_seconds", seconds)).transpose()?;
        let (key, stored) = ApiKey::make(None)?;
        let made = store.keys().rotate(tenant, &old, &stored, grace.unwrap_or_default().ends(at), at).await?;
        Ok(((key, made), Some((tenant, stored.key_id))))
    };
    let (key, made) = session.change(asked, making).await?;
    show(&key, &made, output)
}

async fn revoke(
    session: &Session,
    tenant: &str,
    key: &str,
    confirmation: Confirmation,
    output: Output,
) -> Result<(), Failure> {
    if !confirmation.is_given() && tenant::parse(tenant).is_ok() && parse(key).is_ok() {
        let question = format!("{key} of {tenant} will be refused, and its sockets closed. Revoke it? [y/N] ");
        confirmation.ask(question, "y").await?;
    }
    let store = session.store.clone();
    let (asked, tenant, key) = (asked(AuditAction::KeyRevoke, tenant, Some(key)), tenant::parse(tenant), parse(key));
    let revoking = async move {
        let (tenant, key): (TenantId, KeyId) = (tenant?, key?);
        // The operator may leave a tenant without a key.
        store.keys().revoke(tenant, &key, false, now()).await?;
        let found = store.keys().find(&key).await?;
        Ok(((key, found.and_then(|found| found.key.revoked_at)), None))
    };
    let (key, revoked_at) = session.change(asked, revoking).await?;
    output.print(&json!({ "key_id": key, "revoked_at": revoked_at }), || format!("{key} is revoked.\n"))
}

/// Shows a new key, with its secret this once.
fn show(key: &ApiKey, made: &KeyInfo, output: Output) -> Result<(), Failure> {
    let exposed = key.expose();
    output.print(&NewKeyView::new(made, Some(exposed.expose_secret())), || {
        let rows = named([
            ("key_id", made.key_id.to_string()),
            ("name", cell(made.name.as_ref().map(Name::as_str))),
            ("created_at", made.created_at.to_string()),
            ("expires_at", cell(made.expires_at)),
            ("api_key", exposed.expose_secret().to_owned()),
        ]);
        eprintln!("The api_key is shown this once.");
        table(&rows)
    })
}
