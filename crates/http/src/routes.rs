//! What each route does: one line each, one file a noun.

mod audit;
mod dead_letters;
mod keys;
mod members;
pub(crate) mod messages;
mod operations;
mod presence;
mod receipts;
mod rooms;
mod tenants;
mod tokens;
mod transfer;
mod usage;
mod webhook;

use serde::{Deserialize, Deserializer};

use crate::call::Call;
use crate::error::ApiError;
use crate::reply::Reply;
use crate::route::Route;
use crate::socket;

/// Rare routes that do much are boxed: the others need not carry room for them.
pub(crate) async fn handle(route: Route, call: Call) -> Result<Reply, ApiError> {
    match route {
        Route::Health => operations::health(call).await,
        Route::Live => operations::live(),
        Route::Ready => operations::ready(call).await,
        Route::Metrics => operations::metrics(&call),
        Route::TenantsList => tenants::list(call).await,
        Route::TenantsCreate => Box::pin(tenants::create(call)).await,
        Route::TenantsGet => tenants::get(call).await,
        Route::TenantsUpdate => Box::pin(tenants::update(call)).await,
        Route::TenantsDelete => tenants::delete(call).await,
        Route::TenantsExport => Box::pin(transfer::export(call)).await,
        Route::TenantsImport => Box::pin(transfer::import(call)).await,
        Route::DeadLettersList => Box::pin(dead_letters::list(call)).await,
        Route::DeadLettersRetry => Box::pin(dead_letters::retry(call)).await,
        Route::WebhookTest => Box::pin(webhook::test(call)).await,
        Route::AuditList => audit::list(call).await,
        Route::UsageTotals => Box::pin(usage::totals(call)).await,
        Route::UsageList | Route::OwnUsageList => Box::pin(usage::list(call)).await,
        Route::KeysList | Route::OwnKeysList => keys::list(call).await,
        Route::KeysCreate | Route::OwnKeysCreate => Box::pin(keys::create(call)).await,
        Route::KeysRevoke | Route::OwnKeysRevoke => Box::pin(keys::revoke(call)).await,
        Route::KeysRotate | Route::OwnKeysRotate => Box::pin(keys::rotate(call)).await,
        Route::TenantUpdate => Box::pin(tenants::update_own(call)).await,
        Route::TenantGet => tenants::own(&call),
        Route::TokensCreate => Box::pin(tokens::create(call)).await,
        Route::TokensRevoke => Box::pin(tokens::revoke(call)).await,
        Route::RoomsList => rooms::list(call).await,
        Route::RoomsCreate => Box::pin(rooms::create(call)).await,
        Route::RoomsGet => rooms::get(call).await,
        Route::RoomsUpdate => Box::pin(rooms::update(call)).await,
        Route::RoomsDelete => Box::pin(rooms::delete(call)).await,
        Route::RoomsJoin => Box::pin(members::join(call)).await,
        Route::RoomsLeave => Box::pin(members::leave(call)).await,
        Route::MembersList => members::list(call).await,
        Route::MembersAdd => Box::pin(members::add(call)).await,
        Route::MembersUpdate => Box::pin(members::update(call)).await,
        Route::MembersRemove => Box::pin(members::remove(call)).await,
        Route::MessagesList => messages::list(call).await,
        Route::MessagesSend => messages::send(call).await,
        Route::MessagesGet => messages::get(call).await,
        Route::MessagesEdit => Box::pin(messages::edit(call)).await,
        Route::MessagesDelete => Box::pin(messages::delete(call)).await,
        Route::ChangesList => messages::changes(call).await,
        Route::ReceiptsList => receipts::list(call).await,
        Route::Ack => receipts::ack(call).await,
        Route::PresenceGet => presence::of(call).await,
        Route::SocketTicket => Box::pin(tokens::ticket(call)).await,
        Route::Socket => Box::pin(socket::open(call)).await,
    }
}

/// For a field where absent and `null` differ: absent is `None`, `null` is `Some(None)`.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(field: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(field).map(Some)
}
