//! Rooms of one tenant.

use chatapi_domain::access::{Actor, Standing};
use chatapi_domain::{
    Fact, Listed, NewRoom, Own, Place, Role, Room, RoomId, RoomPatch, RoomType, TenantId, Timestamp, UserId,
    WebhookEvent,
};
use tokio_postgres::Row;

use crate::db::{Db, Tx};
use crate::feed::{notices, tell_in};
use crate::looks::{Extent, Looks};
use crate::outbox::Outbox;
use crate::row::{self, get, message_columns, room_columns, visible_room, word};
use crate::{Error, Result};

/// Rooms of one tenant.
#[derive(Debug, Clone, Copy)]
pub struct Rooms<'a> {
    pub(crate) db: &'a Db,
    pub(crate) looks: &'a Looks,
    pub(crate) outbox: Outbox<'a>,
    pub(crate) tenant: TenantId,
}

/// Where a page of rooms ended: the activity and id of its last room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoomCursor {
    /// When something last happened in that room.
    pub active_at: Timestamp,
    /// The room.
    pub room_id: RoomId,
}

const CREATE: &str = concat!(
    "with r as (
        insert into rooms (tenant_id, room_id, type, unique_key, name, metadata, member_count, created_by,
                           created_at, updated_at, active_at, active_hour)
        values ($1, $2, $3, $4, $5, $6::text::json, $7, $8, $9, $9, $9, $10)
        on conflict do nothing returning *),
    members as (
        insert into room_members (tenant_id, user_id, room_id, role, joined_at, receipt_at)
        select $1, m.user_id, $2, m.role, $9, $9 from r, unnest($11::text[], $12::text[]) as m (user_id, role)),
    told as (
        insert into outbox (tenant_id, event_id, event, room_id, at)
        select $1, new_id(), 'room.created', $2, $9 from r where $14)
    select ",
    room_columns!(),
    ", (select count(pg_notify('chatapi', p)) from unnest($13::text[]) p) from r"
);

/// What stood in the way of [`CREATE`]: the same room made before, or the dm of the same pair.
/// A union, because an `or` over two indexes uses neither.
const EXISTING: &str = concat!(
    "select ",
    room_columns!(),
    " from (select * from rooms where tenant_id = $1 and room_id = $2
            union all
            select * from rooms where tenant_id = $1 and unique_key = $3) r limit 1"
);

const GET: &str = concat!("select ", room_columns!(), ", own.role from ", visible_room!());

/// A user's rooms: messages are looked up for the page alone, and deletions only where a room has
/// had any change.
const LIST_OF_USER: &str = concat!(
    "select ",
    room_columns!(),
    ", r.role, r.delivered_seq, r.read_seq,
       r.last_seq - greatest(r.read_seq, r.first_seq - 1) - case when r.last_change = 0 then 0 else (
           select count(*) from messages d
            where d.tenant_id = $1 and d.room_id = r.room_id and d.seq > greatest(r.read_seq, r.first_seq - 1) and d.deleted_at is not null
       ) end as unread_count, ",
    message_columns!(),
    " from (select s.*, own.role, own.delivered_seq, own.read_seq
              from room_members own join rooms s on s.tenant_id = own.tenant_id and s.room_id = own.room_id
             where own.tenant_id = $1 and own.user_id = $2 and ($3::text is null or s.type = $3)
               and ($4::timestamptz is null or (s.active_at, s.room_id) < ($4, $5::uuid))
             order by s.active_at desc, s.room_id desc limit $6) r
      left join messages m on m.tenant_id = $1 and m.room_id = r.room_id and m.seq = r.last_seq
     order by r.active_at desc, r.room_id desc"
);

/// All rooms of the tenant. The hour is indexed, and only within an hour is there sorting.
const LIST_OF_TENANT: &str = concat!(
    "select ",
    room_columns!(),
    " from rooms r
     where r.tenant_id = $1 and ($2::text is null or r.type = $2)
       and r.active_hour <= coalesce($5, 2147483647)
       and ($3::timestamptz is null or (r.active_at, r.room_id) < ($3, $4::uuid))
     order by r.active_hour desc, r.active_at desc, r.room_id desc limit $6"
);

const PLACES: &str = "
    select r.room_id, r.type, r.last_seq, r.last_change, r.updated_at, own.role, own.delivered_seq
      from room_members own join rooms r on r.tenant_id = own.tenant_id and r.room_id = own.room_id
     where own.tenant_id = $1 and own.user_id = $2";

const PLACES_IN: &str = "
    select r.room_id, r.type, r.last_seq, r.last_change, r.updated_at, own.role,
           coalesce(own.delivered_seq, 0) as delivered_seq
      from unnest($2::uuid[]) i (room_id)
      join rooms r on r.tenant_id = $1 and r.room_id = i.room_id
      left join room_members own on own.tenant_id = $1 and own.user_id = $3 and own.room_id = i.room_id
     where own.user_id is not null or r.type = 'channel'";

const LOCK: &str = "
    select r.type, r.last_seq, r.last_change, r.member_count, own.role
      from rooms r left join room_members own
        on own.tenant_id = r.tenant_id and own.room_id = r.room_id and own.user_id = $3
     where r.tenant_id = $1 and r.room_id = $2
       for no key update of r";

const UPDATE: &str = concat!(
    "update rooms r
        set name = case when $3 then $4 else name end,
            metadata = case when $5 then $6::text::json else metadata end,
            updated_at = $7
      where tenant_id = $1 and room_id = $2
  returning ",
    room_columns!()
);

const DELETE: &str = "delete from rooms where tenant_id = $1 and room_id = $2";
const BEGIN_ERASURE: &str = "insert into erased_rooms (tenant_id, room_id) values ($1, $2)";
const ERASE_ANSWERS: &str = "update idempotency_keys set body = null where tenant_id = $1 and room_id = $2";

/// A room whose row is locked, and how the actor stands to it.
pub(crate) struct Locked {
    pub(crate) standing: Standing,
    pub(crate) last_seq: i64,
    pub(crate) last_change: i64,
    pub(crate) member_count: i32,
}

/// Locks a room's row for the rest of the transaction, against messages and other changes.
pub(crate) async fn lock(tx: &Tx<'_>, tenant: TenantId, room: RoomId, actor: &Actor) -> Result<Locked> {
    let row = tx.query_opt(LOCK, &[&tenant, &room, &actor.user()]).await?.ok_or(Error::NotFound("Room"))?;
    let (last_seq, member_count) = (get(&row, "last_seq")?, get(&row, "member_count")?);
    let last_change = get(&row, "last_change")?;
    Ok(Locked { standing: standing(&row, actor)?, last_seq, last_change, member_count })
}

/// How the actor stands to the room of a row with the columns `type` and `role`.
pub(crate) fn standing(row: &Row, actor: &Actor) -> Result<Standing> {
    Ok(Standing {
        room_type: word(row, "type", RoomType::from_word)?,
        role: row::role(row)?,
        backend: *actor == Actor::Tenant,
    })
}

/// The hour of a moment, as `rooms.active_hour` counts.
pub(crate) fn hour(moment: Timestamp) -> i32 {
    i32::try_from(moment.as_micros().div_euclid(3_600_000_000)).unwrap_or(i32::MAX)
}

impl Rooms<'_> {
    /// Makes a room under this id. A dm that exists is returned unchanged, also when two make it
    /// at once; so is a room of the same id. The flag says whether it was made.
    ///
    /// # Errors
    ///
    /// [`Error`] if the database fails.
    pub async fn create(&self, room_id: RoomId, new: &NewRoom, now: Timestamp) -> Result<(Room, bool)> {
        let key = new.roster.unique_key();
        let members = new.roster.members();
        let users: Vec<&UserId> = members.iter().map(|(user, _)| user).collect();
        let roles: Vec<&str> = members.iter().map(|(_, role)| role.as_str()).collect();
        let count = i32::try_from(members.len()).unwrap_or(i32::MAX);
        let metadata = new.metadata.as_ref().map(chatapi_domain::Json::as_str);
        let named: Vec<UserId> = users.iter().map(|user| (*user).clone()).collect();
        let told = Fact::each_of(&named, |user_ids| Fact::RoomCreated { room_id, user_ids });
        let told = notices(self.tenant, &told)?;
        let announced = self.outbox.wants(WebhookEvent::RoomCreated);
        // Again only if what stood in the way was deleted between the two statements.
        for _ in 0..3 {
            let made = self
                .db
                .query_opt(
                    CREATE,
                    &[
                        &self.tenant,
                        &room_id,
                        &new.room_type.as_str(),
                        &key,
                        &new.name,
                        &metadata,
                        &count,
                        &new.created_by,
                        &now,
                        &hour(now),
                        &users,
                        &roles,
                        &told,
                        &announced,
                    ],
                )
                .await?;
            if let Some(row) = made {
                self.outbox.filled(WebhookEvent::RoomCreated);
                return Ok((row::room(&row)?, true));
            }
            if let Some(row) = self.db.query_opt(EXISTING, &[&self.tenant, &room_id, &key]).await? {
                return Ok((row::room(&row)?, false));
            }
        }
        Err(Error::unavailable("a room of this key is made and deleted over and over"))
    }

    /// One room, as the actor may see it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is none that the actor may see.
    pub async fn get(&self, room: RoomId, actor: &Actor) -> Result<Room> {
        let row = self.db.query_opt(GET, &[&self.tenant, &room, &actor.user()]).await?;
        row.as_ref().map(row::room).transpose()?.ok_or(Error::NotFound("Room"))
    }

    /// How far a room is that the actor may see; cheaper than anything else that says so.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is none that the actor may see; [`Error::Unavailable`] if too
    /// many ask.
    pub async fn extent(&self, room: RoomId, actor: &Actor) -> Result<Extent> {
        self.looks.look(self.tenant, room, actor).await
    }

    /// The actor's rooms (the tenant's: all), the one with the newest activity first.
    ///
    /// # Errors
    ///
    /// [`Error`] if the database fails.
    pub async fn list(
        &self,
        actor: &Actor,
        room_type: Option<RoomType>,
        after: Option<RoomCursor>,
        limit: i64,
    ) -> Result<Vec<Listed>> {
        let kind = room_type.map(RoomType::as_str);
        let (at, id) = (after.map(|after| after.active_at), after.map(|after| after.room_id));
        let rows = match actor {
            Actor::User(user) => self.db.query(LIST_OF_USER, &[&self.tenant, user, &kind, &at, &id, &limit]).await?,
            Actor::Tenant => {
                self.db.query(LIST_OF_TENANT, &[&self.tenant, &kind, &at, &id, &at.map(hour), &limit]).await?
            }
        };
        rows.iter().map(|row| listed(row, actor)).collect()
    }

    /// How far the user's rooms are, and the user in them; all of them.
    ///
    /// # Errors
    ///
    /// [`Error`] if the database fails.
    pub async fn places(&self, user: &UserId) -> Result<Vec<Place>> {
        self.db.query(PLACES, &[&self.tenant, user]).await?.iter().map(place).collect()
    }

    /// How far these rooms are, and the user in them; those the user may not see are missing.
    ///
    /// # Errors
    ///
    /// [`Error`] if the database fails.
    pub async fn places_in(&self, rooms: &[RoomId], user: &UserId) -> Result<Vec<Place>> {
        self.db.query(PLACES_IN, &[&self.tenant, &rooms, user]).await?.iter().map(place).collect()
    }

    /// Changes name and metadata.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] and [`Error::Forbidden`] as the room's rules say.
    pub async fn update(&self, room: RoomId, actor: &Actor, patch: &RoomPatch, now: Timestamp) -> Result<Room> {
        let mut client = self.db.client().await?;
        let tx = client.begin().await?;
        lock(&tx, self.tenant, room, actor).await?.standing.rename()?;
        let name = patch.name.clone().flatten();
        let metadata = patch.metadata.iter().flatten().next().map(chatapi_domain::Json::as_str);
        let row = tx
            .query_opt(
                UPDATE,
                &[&self.tenant, &room, &patch.name.is_some(), &name, &patch.metadata.is_some(), &metadata, &now],
            )
            .await?
            .ok_or(Error::NotFound("Room"))?;
        tell_in(&tx, self.tenant, &[Fact::RoomUpdated { room_id: room }]).await?;
        self.outbox.put_in(&tx, WebhookEvent::RoomUpdated, room, now).await?;
        tx.commit().await?;
        self.outbox.filled(WebhookEvent::RoomUpdated);
        row::room(&row)
    }

    /// Deletes a room, its members and its messages. From the first moment nobody sees any of
    /// it; the messages' rows go in the background, in small steps.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] and [`Error::Forbidden`] as the room's rules say.
    pub async fn delete(&self, room: RoomId, actor: &Actor, now: Timestamp) -> Result<()> {
        let mut client = self.db.client().await?;
        let tx = client.begin().await?;
        lock(&tx, self.tenant, room, actor).await?.standing.delete()?;
        tx.execute(DELETE, &[&self.tenant, &room]).await?;
        tx.execute(BEGIN_ERASURE, &[&self.tenant, &room]).await?;
        tx.execute(ERASE_ANSWERS, &[&self.tenant, &room]).await?;
        tell_in(&tx, self.tenant, &[Fact::RoomDeleted { room_id: room }]).await?;
        self.outbox.put_in(&tx, WebhookEvent::RoomDeleted, room, now).await?;
        tx.commit().await?;
        self.outbox.filled(WebhookEvent::RoomDeleted);
        Ok(())
    }
}

fn place(row: &Row) -> Result<Place> {
    Ok(Place {
        room_id: get(row, "room_id")?,
        room_type: word(row, "type", RoomType::from_word)?,
        last_seq: get(row, "last_seq")?,
        last_change: get(row, "last_change")?,
        updated_at: get(row, "updated_at")?,
        role: row::role(row)?,
        delivered_seq: get(row, "delivered_seq")?,
    })
}

fn listed(row: &Row, actor: &Actor) -> Result<Listed> {
    let own = match actor {
        Actor::Tenant => None,
        Actor::User(_) => Some(Own {
            role: word(row, "role", Role::from_word)?,
            delivered_seq: get(row, "delivered_seq")?,
            read_seq: get(row, "read_seq")?,
            unread_count: get(row, "unread_count")?,
            last_message: row::optional_message(row)?,
        }),
    };
    Ok(Listed { room: row::room(row)?, active_at: get(row, "active_at")?, own })
}
