//! What each route does: one line each, one file a noun.

mod keys;
mod members;
pub(crate) mod messages;
mod operations;
mod presence;
mod receipts;
mod rooms;
mod tenants;
mod tokens;

use serde::{Deserialize, Deserializer};

use crate::call::Call;
use crate::error::ApiError;
use crate::reply::Reply;
use crate::route::Route;
use crate::socket;

pub(crate) async fn handle(route: Route, call: Call) -> Result<Reply, ApiError> {
    match route {
        Route::Health => operations::health(call).await,
        Route::Live => operations::live(),
        Route::Ready => operations::ready(call).await,
        Route::Metrics => operations::metrics(&call),
        Route::TenantsList => tenants::list(call).await,
        Route::TenantsCreate => tenants::create(call).await,
        Route::TenantsGet => tenants::get(call).await,
        Route::TenantsUpdate => tenants::update(call).await,
        Route::TenantsDelete => tenants::delete(call).await,
        Route::KeysList | Route::OwnKeysList => keys::list(call).await,
        Route::KeysCreate | Route::OwnKeysCreate => keys::create(call).await,
        Route::KeysRevoke | Route::OwnKeysRevoke => keys::revoke(call).await,
        Route::KeysRotate | Route::OwnKeysRotate => keys::rotate(call).await,
        Route::TenantUpdate => tenants::update_own(call).await,
        Route::TenantGet => tenants::own(&call),
        Route::TokensCreate => tokens::create(call).await,
        Route::TokensRevoke => tokens::revoke(call).await,
        Route::RoomsList => rooms::list(call).await,
        Route::RoomsCreate => rooms::create(call).await,
        Route::RoomsGet => rooms::get(call).await,
        Route::RoomsUpdate => rooms::update(call).await,
        Route::RoomsDelete => rooms::delete(call).await,
        Route::RoomsJoin => members::join(call).await,
        Route::RoomsLeave => members::leave(call).await,
        Route::MembersList => members::list(call).await,
        Route::MembersAdd => members::add(call).await,
        Route::MembersUpdate => members::update(call).await,
        Route::MembersRemove => members::remove(call).await,
        Route::MessagesList => messages::list(call).await,
        Route::MessagesSend => messages::send(call).await,
        Route::MessagesGet => messages::get(call).await,
        Route::MessagesEdit => messages::edit(call).await,
        Route::MessagesDelete => messages::delete(call).await,
        Route::ChangesList => messages::changes(call).await,
        Route::ReceiptsList => receipts::list(call).await,
        Route::Ack => receipts::ack(call).await,
        Route::PresenceGet => presence::of(call).await,
        Route::SocketTicket => tokens::ticket(call).await,
        Route::Socket => socket::open(call).await,
    }
}

/// For a field where absent and `null` differ: absent is `None`, `null` is `Some(None)`.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(field: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(field).map(Some)
}
