//! `chatapi export` and `chatapi import`

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use chatapi_auth::ApiKey;
use chatapi_domain::TenantId;
use chatapi_http::{CountsView, ImportedView};
use chatapi_storage::{AuditAction, Counts, Export};
use clap::Args;
use futures_util::{Stream, StreamExt};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use secrecy::ExposeSecret;
use serde_json::json;
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_util::io::ReaderStream;

use super::output::{Output, table};
use super::session::{Asked, Session, now};
use super::tenant::{self, named};
use crate::failure::Failure;

/// Bytes read at once.
const CHUNK: usize = 64 << 10;

#[derive(Debug, Args)]
pub(crate) struct ExportCommand {
    /// The tenant's id.
    tenant: String,
    /// Writes to this file instead of standard output; it is there only once it is whole.
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

impl ExportCommand {
    /// Fails if standard output would have to hold two things.
    pub(super) fn check(&self) -> Result<(), Failure> {
        if self.output.is_json() && self.file.is_none() {
            return Err(Failure::Usage("the export itself is on standard output; --json goes with -o FILE".to_owned()));
        }
        if self.file.is_none() && io::stdout().is_terminal() {
            return Err(Failure::Usage("an export is not for a terminal; add -o FILE".to_owned()));
        }
        Ok(())
    }
}

#[derive(Debug, Args)]
pub(crate) struct ImportCommand {
    /// What `chatapi export` wrote; `-` is standard input.
    file: PathBuf,
    /// Imports it under this id instead of its own.
    #[arg(long, value_name = "TENANT")]
    tenant_id: Option<String>,
    #[command(flatten)]
    output: Output,
}

/// Writes a tenant as lines of JSON.
pub(super) async fn export(command: ExportCommand, session: &Session) -> Result<(), Failure> {
    let ExportCommand { tenant, file, output } = command;
    let tenant = tenant::parse(&tenant);
    let asked = Asked { action: AuditAction::TenantExport, tenant_id: tenant.as_ref().ok().copied(), key_id: None };
    let exporting = async {
        let export = session.store.transfer().export(tenant?, now()).await?;
        let totals = export.totals();
        let bytes = match &file {
            Some(file) => to_file(export, file).await?,
            None => copy(export, &mut tokio::io::stdout(), "standard output").await?,
        };
        Ok(((totals, bytes), None))
    };
    let (totals, bytes) = session.attempt(asked, exporting).await?;
    let Some(file) = file else { return Ok(()) };
    let view = json!({ "file": file, "bytes": bytes, "exported": CountsView::from(totals) });
    output.print(&view, || table(&[&counted(totals)[..], &named([("bytes", bytes.to_string())])].concat()))
}

/// Writes beside the file and puts it in its place at the end: what has its name is whole. What is
/// not put in its place is removed, and is for nobody else to read: it holds all that the tenant's
/// users wrote.
async fn to_file(export: Export, file: &Path) -> Result<u64, Failure> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = |error: &io::Error| Failure::Refused(format!("{}: {error}", file.display()));
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".");
    let partial = tempfile::Builder::new().prefix(&name).suffix(".partial").tempfile_in(folder);
    let (opened, partial) = partial.map_err(|error| failed(&error))?.into_parts();
    let mut opened = File::from_std(opened);
    let bytes = copy(export, &mut opened, &file.display().to_string()).await?;
    opened.sync_all().await.map_err(|error| failed(&error))?;
    partial.persist(file).map_err(|error| failed(&error.error))?;
    Ok(bytes)
}

/// Writes all of an export; how many bytes that were.
async fn copy(mut export: Export, into: &mut (impl AsyncWrite + Unpin), name: &str) -> Result<u64, Failure> {
    let Counts { rooms, members, messages, last_seen } = export.totals();
    // The first and the last line beside.
    let bar = bar(rooms + members + messages + last_seen + 2, "{wide_bar} {human_pos}/{human_len} lines, {eta}");
    let mut bytes = 0;
    let failed = |error: &io::Error| Failure::Refused(format!("{name}: {error}"));
    while let Some(chunk) = export.next().await {
        let chunk = chunk?;
        into.write_all(&chunk).await.map_err(|error| failed(&error))?;
        bytes += chunk.len() as u64;
        bar.inc(chunk.split(|byte| *byte == b'\n').count() as u64 - 1);
    }
    into.flush().await.map_err(|error| failed(&error))?;
    bar.finish_and_clear();
    Ok(bytes)
}

/// Brings back what was exported, with one new key.
pub(super) async fn import(command: ImportCommand, session: &Session) -> Result<(), Failure> {
    let ImportCommand { file, tenant_id, output } = command;
    let into = tenant_id.as_deref().map(parse_new).transpose()?;
    let (source, bar) = open(&file).await?;
    let asked = Asked { action: AuditAction::TenantImport, tenant_id: into, key_id: None };
    let importing = async {
        let (key, stored) = ApiKey::make(None)?;
        let imported = session.store.transfer().import(source, into, &stored, now()).await?;
        let made = (imported.tenant.tenant_id, stored.key_id);
        Ok(((imported, key), Some(made)))
    };
    let done = session.attempt(asked, importing).await;
    bar.finish_and_clear();
    let (imported, key) = done?;
    let exposed = key.expose();
    let view = ImportedView::new(&imported, &session.config.defaults, key.key_id(), exposed.expose_secret());
    output.print(&view, || {
        let key = [("key_id", key.key_id().to_string()), ("api_key", exposed.expose_secret().to_owned())];
        eprintln!("The api_key is shown this once.");
        table(&[&tenant::rows(&imported.tenant)[..], &counted(imported.counts), &named(key)].concat())
    })
}

/// The id of a tenant that is to be.
fn parse_new(tenant: &str) -> Result<TenantId, Failure> {
    tenant.parse().map_err(|_| Failure::Usage("--tenant-id: expected the id of a tenant".to_owned()))
}

type Source = std::pin::Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// What is to be imported, in pieces, and how much of it has been read.
async fn open(file: &Path) -> Result<(Source, ProgressBar), Failure> {
    if file == Path::new("-") {
        let bar = bar(0, "{spinner} {bytes} of standard input, {bytes_per_sec}");
        return Ok((pieces(tokio::io::stdin(), bar.clone()), bar));
    }
    let failed = |error: io::Error| Failure::Refused(format!("{}: {error}", file.display()));
    let opened = File::open(file).await.map_err(failed)?;
    let length = opened.metadata().await.map_err(failed)?.len();
    let bar = bar(length, "{wide_bar} {bytes}/{total_bytes}, {eta}");
    Ok((pieces(opened, bar.clone()), bar))
}

fn pieces(from: impl AsyncRead + Send + 'static, bar: ProgressBar) -> Source {
    let count = move |piece: &io::Result<Bytes>| bar.inc(piece.as_ref().map_or(0, |piece| piece.len() as u64));
    Box::pin(ReaderStream::with_capacity(from, CHUNK).inspect(count))
}

/// A bar on standard error, if that is a terminal.
fn bar(length: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

fn counted(Counts { rooms, members, messages, last_seen }: Counts) -> [[String; 2]; 4] {
    named([
        ("rooms", rooms.to_string()),
        ("members", members.to_string()),
        ("messages", messages.to_string()),
        ("last_seen", last_seen.to_string()),
    ])
}
