//! What ends one tenant's user tokens, and its tickets for sockets.

use chatapi_domain::{Fact, KeyId, TenantId, Timestamp, UserId};

use crate::db::Db;
use crate::feed::tell_in;
use crate::row::get;
use crate::{Error, Result};

/// One tenant's user tokens and tickets.
#[derive(Debug, Clone, Copy)]
pub struct Tokens<'a> {
    pub(crate) db: &'a Db,
    pub(crate) tenant: TenantId,
}

/// What a ticket opens a socket for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The user.
    pub user_id: UserId,
    /// What asked for the ticket, and ends the socket.
    pub issuer: Issuer,
}

/// What a socket ends with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Issuer {
    /// A key.
    Key(KeyId),
    /// A user token.
    Token {
        /// When it was issued.
        issued_at: Timestamp,
        /// When it ends.
        expires_at: Timestamp,
    },
}

const REVOKE: &str = "
    insert into token_revocations (tenant_id, user_id, revoked_at) values ($1, $2, $3)
        on conflict (tenant_id, user_id) do update set revoked_at = excluded.revoked_at";

const REVOKE_ALL: &str = "update tenants set tokens_revoked_at = $2 where tenant_id = $1";

const REVOKED_AT: &str = "select revoked_at from token_revocations where tenant_id = $1 and user_id = $2";

const KEEP_TICKET: &str = "
    insert into socket_tickets
           (tenant_id, ticket_hash, user_id, key_id, token_issued_at, token_expires_at, expires_at)
    values ($1, $2, $3, $4, $5, $6, $7)";

const USE_TICKET: &str = "
    delete from socket_tickets where tenant_id = $1 and ticket_hash = $2 and expires_at > $3
 returning user_id, key_id, token_issued_at, token_expires_at";

/// Longer than any token lives.
const FORGET_REVOCATIONS: &str = "
    delete from token_revocations
     where ctid = any (array(select ctid from token_revocations where revoked_at < now() - interval '31 days' limit 1000))";

const FORGET_TICKETS: &str = "
    delete from socket_tickets
     where ctid = any (array(select ctid from socket_tickets where expires_at < now() limit 1000))";

impl Tokens<'_> {
    /// Refuses from now on every token of the user, or of all users, that was issued until `now`.
    ///
    /// # Errors
    ///
    /// [`Error`] if the database fails.
    pub async fn revoke(&self, user: Option<&UserId>, now: Timestamp) -> Result<()> {
        let mut client = self.db.client().await?;
        let tx = client.begin().await?;
        match user {
            Some(user) => tx.execute(REVOKE, &[&self.tenant, user, &now]).await?,
            None => tx.execute(REVOKE_ALL, &[&self.tenant, &now]).await?,
        };
        tell_in(&tx, self.tenant, &[Fact::TokensRevoked { user_id: user.cloned() }]).await?;
        tx.commit().await
    }

    /// When this user's tokens were last revoked by themselves.
    ///
    /// # Errors
    ///
    /// [`Error`] if the database fails.
    pub async fn revoked_at(&self, user: &UserId) -> Result<Option<Timestamp>> {
        let row = self.db.query_opt(REVOKED_AT, &[&self.tenant, user]).await?;
        row.as_ref().map(|row| get(row, "revoked_at")).transpose()
    }

    /// Keeps a ticket, by the SHA-256 of its text, until `expires_at`.
    ///
    /// # Errors
    ///
    /// [`Error`] if the database fails.
    pub async fn keep_ticket(&self, hash: [u8; 32], ticket: &Ticket, expires_at: Timestamp) -> Result<()> {
        let (key, issued, ends) = match &ticket.issuer {
            Issuer::Key(key) => (Some(key), None, None),
            Issuer::Token { issued_at, expires_at } => (None, Some(issued_at), Some(expires_at)),
        };
        let hash = hash.as_slice();
        let parameters: &crate::db::Params<'_> =
            &[&self.tenant, &hash, &ticket.user_id, &key, &issued, &ends, &expires_at];
        self.db.execute(KEEP_TICKET, parameters).await.map(|_| ())
    }

    /// Uses a ticket up.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is none, or no more.
    pub async fn use_ticket(&self, hash: [u8; 32], now: Timestamp) -> Result<Ticket> {
        let row = self.db.query_opt(USE_TICKET, &[&self.tenant, &hash.as_slice(), &now]).await?;
        let row = row.ok_or(Error::NotFound("Ticket"))?;
        let times = (get(&row, "token_issued_at")?, get(&row, "token_expires_at")?);
        let issuer = match (get::<Option<KeyId>>(&row, "key_id")?, times) {
            (Some(key), _) => Issuer::Key(key),
            (None, (Some(issued_at), Some(expires_at))) => Issuer::Token { issued_at, expires_at },
            (None, _) => return Err(Error::Corrupt { column: "key_id", source: "nobody asked for it".into() }),
        };
        Ok(Ticket { user_id: get(&row, "user_id")?, issuer })
    }
}

/// Forgets a thousand tickets and revocations that are too old to matter.
pub(crate) async fn forget_old(db: &Db) -> Result<()> {
    db.execute(FORGET_TICKETS, &[]).await?;
    db.execute(FORGET_REVOCATIONS, &[]).await.map(|_| ())
}
