//! `chatapi tenant`

use chatapi_auth::ApiKey;
use chatapi_domain::{Invalid, Tenant, TenantId, TenantPatch, TenantStatus};
use chatapi_http::{NewTenantView, TenantView};
use chatapi_storage::{AuditAction, Error as StoreError};
use clap::Subcommand;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::confirm::Confirmation;
use super::output::{Output, table};
use super::session::{Asked, Session, now};
use crate::failure::Failure;

/// Tenants read at once.
const PAGE: i64 = 500;

#[derive(Debug, Subcommand)]
pub(crate) enum TenantCommand {
    /// Makes a tenant with its first API key, which is shown this once.
    Create {
        /// What the tenant is called.
        name: String,
        /// Its configuration: fields as in `POST /admin/tenants`.
        #[arg(long, value_name = "JSON")]
        config: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Lists tenants, the newest first.
    List {
        /// Only those with this status.
        #[arg(long, value_parser = ["active", "suspended", "deleting"])]
        status: Option<String>,
        /// Only those of this name.
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Switches a tenant off; its data stays.
    Suspend {
        /// The tenant's id.
        tenant: String,
        #[command(flatten)]
        output: Output,
    },
    /// Switches a suspended tenant on again.
    Resume {
        /// The tenant's id.
        tenant: String,
        #[command(flatten)]
        output: Output,
    },
    /// Deletes a tenant with everything it has; asks first.
    Delete {
        /// The tenant's id.
        tenant: String,
        #[command(flatten)]
        confirmation: Confirmation,
        #[command(flatten)]
        output: Output,
    },
}

/// Does what was asked.
pub(super) async fn run(command: TenantCommand, session: &Session) -> Result<(), Failure> {
    match command {
        TenantCommand::Create { name, config, output } => create(session, name, config, output).await,
        TenantCommand::List { status, name, output } => list(session, status, name, output).await,
        TenantCommand::Suspend { tenant, output } => {
            set_status(session, &tenant, TenantStatus::Suspended, output).await
        }
        TenantCommand::Resume { tenant, output } => set_status(session, &tenant, TenantStatus::Active, output).await,
        TenantCommand::Delete { tenant, confirmation, output } => delete(session, &tenant, confirmation, output).await,
    }
}

/// The id of a tenant. One that does not parse is no different from one that does not exist.
pub(super) fn parse(tenant: &str) -> Result<TenantId, Failure> {
    tenant.parse().map_err(|_| StoreError::NotFound("Tenant").into())
}

async fn create(session: &Session, name: String, config: Option<String>, output: Output) -> Result<(), Failure> {
    let store = session.store.clone();
    let asked = Asked { action: AuditAction::TenantCreate, tenant_id: None, key_id: None };
    let making = async move {
        let config: Option<Value> = config.as_deref().map(serde_json::from_str).transpose().map_err(|error| {
            let reason = format!("expected a JSON object ({error})");
            Invalid::new("config", reason)
        })?;
        let at = now();
        let tenant = Tenant::new(TenantId::new(at), name, config.as_ref(), at)?;
        let (key, stored) = ApiKey::make(None)?;
        store.tenants().create(&tenant, &stored).await?;
        let made = (tenant.tenant_id, stored.key_id);
        Ok(((tenant, key), Some(made)))
    };
    let (tenant, key) = session.change(asked, making).await?;
    let exposed = key.expose();
    let view = NewTenantView::new(&tenant, &session.config.defaults, key.key_id(), Some(exposed.expose_secret()));
    output.print(&view, || {
        let key = [("key_id", key.key_id().to_string()), ("api_key", exposed.expose_secret().to_owned())];
        eprintln!("The api_key is shown this once.");
        table(&[&rows(&tenant)[..], &named(key)].concat())
    })
}

async fn list(session: &Session, status: Option<String>, name: Option<String>, output: Output) -> Result<(), Failure> {
    let status = status.as_deref().and_then(TenantStatus::from_word);
    let mut tenants: Vec<Tenant> = Vec::new();
    loop {
        let before = tenants.last().map(|tenant| tenant.tenant_id);
        let page = session.store.tenants().list(before, status, name.as_deref(), PAGE).await?;
        if page.is_empty() {
            break;
        }
        tenants.extend(page);
    }
    let views: Vec<_> = tenants.iter().map(|tenant| TenantView::new(tenant, &session.config.defaults)).collect();
    output.print(&json!({ "tenants": views, "next_cursor": null }), || {
        let row = |tenant: &Tenant| {
            let Tenant { tenant_id, name, status, created_at, .. } = tenant;
            [tenant_id.to_string(), status.as_str().to_owned(), created_at.to_string(), name.as_str().to_owned()]
        };
        let header = ["TENANT_ID", "STATUS", "CREATED_AT", "NAME"].map(str::to_owned);
        table(&[header].into_iter().chain(tenants.iter().map(row)).collect::<Vec<_>>())
    })
}

async fn set_status(session: &Session, tenant: &str, status: TenantStatus, output: Output) -> Result<(), Failure> {
    let (store, tenant) = (session.store.clone(), parse(tenant));
    let asked = Asked { action: AuditAction::TenantUpdate, tenant_id: tenant.as_ref().ok().copied(), key_id: None };
    let patch = TenantPatch { status: Some(status), ..TenantPatch::default() };
    let changing = async move { Ok((store.tenants().update(tenant?, &patch, chatapi_http::now().wall).await?, None)) };
    let changed = session.change(asked, changing).await?;
    output.print(&TenantView::new(&changed, &session.config.defaults), || table(&rows(&changed)))
}

async fn delete(session: &Session, tenant: &str, confirmation: Confirmation, output: Output) -> Result<(), Failure> {
    let (store, tenant) = (session.store.clone(), parse(tenant));
    if let (Ok(tenant), false) = (&tenant, confirmation.is_given()) {
        match store.tenants().get(*tenant).await {
            Ok(found) => {
                let name = found.name.as_str();
                let question = format!("Type the tenant's name ({name}) to delete it with everything it has: ");
                confirmation.ask(question, name).await?;
            }
            // Tried all the same, so that it is noted.
            Err(StoreError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let asked = Asked { action: AuditAction::TenantDelete, tenant_id: tenant.as_ref().ok().copied(), key_id: None };
    let deleting = async move {
        let tenant = tenant?;
        store.tenants().delete(tenant).await?;
        Ok((tenant, None))
    };
    let tenant = session.change(asked, deleting).await?;
    output.print(&json!({ "tenant_id": tenant, "status": "deleting" }), || {
        format!("{tenant} is being deleted: it is not served any more, and a server erases its rows as it runs.\n")
    })
}

/// What people are shown of a tenant.
pub(super) fn rows(tenant: &Tenant) -> [[String; 2]; 4] {
    named([
        ("tenant_id", tenant.tenant_id.to_string()),
        ("name", tenant.name.as_str().to_owned()),
        ("status", tenant.status.as_str().to_owned()),
        ("created_at", tenant.created_at.to_string()),
    ])
}

/// Rows of a table of two columns.
pub(super) fn named<const N: usize>(rows: [(&str, String); N]) -> [[String; 2]; N] {
    rows.map(|(name, value)| [name.to_owned(), value])
}
