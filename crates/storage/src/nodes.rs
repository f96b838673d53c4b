//! The running servers of one database, and who is online on which. One of the few files that see
//! more than one tenant.
//!
//! A node shows every [`BEAT`] that it is alive. One that did not for 12 seconds is buried by
//! another: its users are offline then, unless they are somewhere else. Times are the database's
//! own, so the clocks of the nodes do not matter.

use std::collections::BTreeMap;
use std::time::Duration;

use chatapi_domain::{Fact, NodeId, TenantId, UserId, WebhookEvent};

use crate::Result;
use crate::db::Db;
use crate::outbox::put_presence_in;
use crate::row::get;

/// How often a node shows that it is alive.
pub(crate) const BEAT: Duration = Duration::from_secs(3);

/// Users whose presence is changed in one transaction.
const STEP: usize = 500;

/// A user of a tenant.
pub type TenantUser = (TenantId, UserId);

const SHOW: &str = "
    with before as materialized (select seen_at from nodes where node_id = $1)
    insert into nodes (node_id, seen_at) values ($1, now())
        on conflict (node_id) do update set seen_at = now()
 returning coalesce((select seen_at < now() - interval '12 seconds' from before), true) as joined";

/// 12 seconds: with the beat and the sweep a killed node's users are offline within 20.
const OTHERS: &str =
    "select count(*) as others from nodes where node_id <> $1 and seen_at > now() - interval '12 seconds'";

const DEAD: &str = "select node_id from nodes where node_id <> $1 and seen_at < now() - interval '12 seconds'";

const USERS: &str = "select tenant_id, user_id from presence where node_id = $1 order by tenant_id, user_id limit $2";

const FORGET: &str = "
    delete from nodes where node_id = $1 and seen_at < now() - interval '12 seconds'
       and not exists (select from presence where node_id = $1)";

/// A node that stops in order looks dead at once, so that another need not wait.
const LEAVE: &str = "update nodes set seen_at = now() - interval '1 hour' where node_id = $1";

/// Locks the users' rows, in their order, against others who change their presence.
const MARK: &str = "
    insert into last_seen (tenant_id, user_id, seen_at)
    select i.tenant_id, i.user_id, now()
      from unnest($1::uuid[], $2::text[]) with ordinality i (tenant_id, user_id, ord) order by i.ord
        on conflict (tenant_id, user_id) do update set seen_at = now()";

/// Those who were nowhere before. A statement of its own after [`MARK`]: it sees what others did
/// while that waited.
const ARRIVE: &str = "
    with input as (select * from unnest($1::uuid[], $2::text[]) i (tenant_id, user_id)),
    added as (
        insert into presence (tenant_id, user_id, node_id) select tenant_id, user_id, $3 from input
            on conflict (tenant_id, user_id, node_id) do update set leaving = false where presence.leaving)
    select tenant_id, user_id from input i
     where not exists (select from presence p where p.tenant_id = i.tenant_id and p.user_id = i.user_id)";

/// These have no connection to the node any more, and may come back: of the tenants whose endpoints are
/// told, as nobody else asks.
const LEAVE_FOR_NOW: &str = "
    with asked as materialized (
        select p.tenant_id, p.user_id, p.node_id
          from unnest($1::uuid[], $2::text[]) with ordinality i (tenant_id, user_id, ord)
          join tenants t on t.tenant_id = i.tenant_id and t.config ? 'webhook_url'
          join presence p on p.tenant_id = i.tenant_id and p.user_id = i.user_id and p.node_id = $3
         order by i.ord for update of p)
    update presence p set leaving = true from asked a
     where p.tenant_id = a.tenant_id and p.user_id = a.user_id and p.node_id = a.node_id
 returning p.tenant_id, p.user_id";

/// Those who are nowhere now.
const GO: &str = "
    with input as (select * from unnest($1::uuid[], $2::text[]) i (tenant_id, user_id)),
    gone as (
        delete from presence p using input i
         where p.tenant_id = i.tenant_id and p.user_id = i.user_id and p.node_id = $3)
    select tenant_id, user_id from input i
     where not exists (
        select from presence p where p.tenant_id = i.tenant_id and p.user_id = i.user_id and p.node_id <> $3)";

const LEADS: &str = "
    select coalesce((select node_id from nodes where seen_at > now() - interval '12 seconds'
                      order by node_id limit 1) = $1, false) as leads";

/// Whether this node is the one that does what one of them must do.
pub(crate) async fn leads(db: &Db, node: NodeId) -> Result<bool> {
    let row = db.query_opt(LEADS, &[&node]).await?;
    row.as_ref().map_or(Ok(false), |row| get(row, "leads"))
}

/// What a beat found.
pub(crate) struct State {
    /// Other nodes alive.
    pub(crate) others: usize,
    /// Whether this node has just come, or was silent so long that others took it for dead.
    pub(crate) joined: bool,
}

pub(crate) async fn beat(db: &Db, node: NodeId) -> Result<State> {
    let shown = db.query(SHOW, &[&node]).await?;
    let counted = db.query(OTHERS, &[&node]).await?;
    let joined = shown.first().map_or(Ok(false), |row| get(row, "joined"))?;
    let others: i64 = counted.first().map_or(Ok(0), |row| get(row, "others"))?;
    Ok(State { others: usize::try_from(others).unwrap_or(0), joined })
}

pub(crate) async fn leave(db: &Db, node: NodeId) -> Result<()> {
    db.execute(LEAVE, &[&node]).await.map(|_| ())
}

/// Ends the presence of dead nodes' users; what is to be told of it.
pub(crate) async fn bury(db: &Db, own: NodeId) -> Result<Vec<(TenantId, Fact)>> {
    let mut facts = Vec::new();
    for row in db.query(DEAD, &[&own]).await? {
        let dead: NodeId = get(&row, "node_id")?;
        loop {
            let rows = db.query(USERS, &[&dead, &i64::try_from(STEP).unwrap_or(i64::MAX)]).await?;
            let users = rows.iter().map(user).collect::<Result<Vec<_>>>()?;
            if users.is_empty() {
                break;
            }
            facts.extend(as_facts(&change(db, dead, &users, false).await?, false));
        }
        db.execute(FORGET, &[&dead]).await?;
    }
    Ok(facts)
}

fn user(row: &tokio_postgres::Row) -> Result<TenantUser> {
    Ok((get(row, "tenant_id")?, get(row, "user_id")?))
}

/// Notes that users came to a node, or went; those of them for whom that changes whether they are
/// online anywhere.
async fn change(db: &Db, node: NodeId, users: &[TenantUser], online: bool) -> Result<Vec<TenantUser>> {
    let (sql, event) =
        if online { (ARRIVE, WebhookEvent::PresenceOnline) } else { (GO, WebhookEvent::PresenceOffline) };
    let mut sorted = users.to_vec();
    sorted.sort();
    sorted.dedup();
    let mut changed = Vec::new();
    for step in sorted.chunks(STEP) {
        let (tenants, ids): (Vec<TenantId>, Vec<&UserId>) = step.iter().map(|(tenant, id)| (*tenant, id)).unzip();
        let mut client = db.client().await?;
        let tx = client.begin().await?;
        tx.execute(MARK, &[&tenants, &ids]).await?;
        let rows = tx.query(sql, &[&tenants, &ids, &node]).await?;
        let of_step = rows.iter().map(user).collect::<Result<Vec<_>>>()?;
        if !of_step.is_empty() {
            put_presence_in(&tx, &of_step, event).await?;
        }
        tx.commit().await?;
        changed.extend(of_step);
    }
    Ok(changed)
}

/// Facts that say of these users that they came or went, by tenant.
fn as_facts(users: &[TenantUser], online: bool) -> Vec<(TenantId, Fact)> {
    let mut by_tenant: BTreeMap<TenantId, Vec<UserId>> = BTreeMap::new();
    for (tenant, user) in users {
        by_tenant.entry(*tenant).or_default().push(user.clone());
    }
    let tell = |(tenant, users): (TenantId, Vec<UserId>)| {
        Fact::each_of(&users, |user_ids| Fact::Presence { user_ids, online })
            .into_iter()
            .map(move |fact| (tenant, fact))
    };
    by_tenant.into_iter().flat_map(tell).collect()
}

/// Who is online on this node.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a> {
    pub(crate) db: &'a Db,
    pub(crate) node_id: NodeId,
}

impl Node<'_> {
    /// Notes that these users are connected here. What is to be told: those who were nowhere before.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::Error) if the database fails.
    pub async fn arrive(&self, users: &[TenantUser]) -> Result<Vec<(TenantId, Fact)>> {
        Ok(as_facts(&change(self.db, self.node_id, users, true).await?, true))
    }

    /// Notes that these users have no connection here any more. They count as online for a while, but
    /// what they must not miss is told them in another way. Those of whom it was noted: the users of
    /// tenants that have such a way.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::Error) if the database fails.
    pub async fn leave_for_now(&self, users: &[TenantUser]) -> Result<Vec<TenantUser>> {
        let mut sorted = users.to_vec();
        sorted.sort();
        let mut noted = Vec::new();
        for step in sorted.chunks(STEP) {
            let (tenants, ids): (Vec<TenantId>, Vec<&UserId>) = step.iter().map(|(tenant, id)| (*tenant, id)).unzip();
            for row in &self.db.query(LEAVE_FOR_NOW, &[&tenants, &ids, &self.node_id]).await? {
                noted.push(user(row)?);
            }
        }
        Ok(noted)
    }

    /// Notes that these users are connected here no more. What is to be told: those who are
    /// nowhere now.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::Error) if the database fails.
    pub async fn go(&self, users: &[TenantUser]) -> Result<Vec<(TenantId, Fact)>> {
        Ok(as_facts(&change(self.db, self.node_id, users, false).await?, false))
    }
}
