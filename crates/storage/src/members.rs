//! Members of one tenant's rooms.

use chatapi_domain::access::Actor;
use chatapi_domain::{Fact, Member, Role, Room, RoomId, TenantId, Timestamp, UserId, WebhookEvent};

use crate::db::{Db, Tx};
use crate::feed::tell_in;
use crate::outbox::Outbox;
use crate::rooms::{Locked, lock};
use crate::row::{self, get, room_columns, visible_room, word};
use crate::{Error, Result};

/// Members of one tenant's rooms.
#[derive(Debug, Clone, Copy)]
pub struct Members<'a> {
    pub(crate) db: &'a Db,
    pub(crate) outbox: Outbox<'a>,
    pub(crate) tenant: TenantId,
}

/// The members of a room that the actor may see; a row without a member if there are none.
const LIST: &str = concat!(
    "select page.* from (select r.tenant_id, r.room_id from ",
    visible_room!(),
    ") r left join lateral (
        select m.user_id, m.role, m.joined_at from room_members m
         where m.tenant_id = $1 and m.room_id = $2 and ($4::text is null or m.user_id > $4)
         order by m.user_id limit $5) page on true
     order by page.user_id"
);

const ADD: &str = "
    insert into room_members (tenant_id, user_id, room_id, role, joined_at, delivered_seq, read_seq, receipt_at)
    select $1, u.user_id, $2, $4, $5, $6, $6, $5 from unnest($3::text[]) as u (user_id)
        on conflict do nothing
 returning user_id";

const COUNT: &str = concat!(
    "update rooms r set member_count = member_count + $3, updated_at = $4
      where tenant_id = $1 and room_id = $2 returning ",
    room_columns!()
);

const ROLE: &str = "
    select m.role, m.joined_at, m.role = 'admin' and not exists (
        select from room_members a
         where a.tenant_id = $1 and a.room_id = $2 and a.role = 'admin' and a.user_id <> $3) as last_admin
      from room_members m where m.tenant_id = $1 and m.room_id = $2 and m.user_id = $3";

const SET_ROLE: &str = "update room_members set role = $4 where tenant_id = $1 and room_id = $2 and user_id = $3";

const REMOVE: &str = "delete from room_members where tenant_id = $1 and room_id = $2 and user_id = $3";

struct Present {
    role: Role,
    joined_at: Timestamp,
    last_admin: bool,
}

impl Members<'_> {
    /// The members of a room in the byte order of their ids, at most `limit` after `after`.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is no room that the actor may see.
    pub async fn list(&self, room: RoomId, actor: &Actor, after: Option<&UserId>, limit: i64) -> Result<Vec<Member>> {
        let rows = self.db.query(LIST, &[&self.tenant, &room, &actor.user(), &after, &limit]).await?;
        if rows.is_empty() {
            return Err(Error::NotFound("Room"));
        }
        let mut members = Vec::with_capacity(rows.len());
        for row in &rows {
            let Some(user_id) = get(row, "user_id")? else { break };
            let (role, joined_at) = (word(row, "role", Role::from_word)?, get(row, "joined_at")?);
            members.push(Member { user_id, role, joined_at });
        }
        Ok(members)
    }

    /// Adds users to a room; those who are members stay as they are. They begin at the room's
    /// newest message: what came before can be read, but is not unread.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] if the room would have more than `max_members`, or is a dm;
    /// [`Error::NotFound`] and [`Error::Forbidden`] as the room's rules say.
    pub async fn add(
        &self,
        room: RoomId,
        actor: &Actor,
        users: &[UserId],
        role: Role,
        max_members: u32,
        now: Timestamp,
    ) -> Result<()> {
        let mut client = self.db.client().await?;
        let tx = client.begin().await?;
        let locked = lock(&tx, self.tenant, room, actor).await?;
        locked.standing.change_members()?;
        self.enter(&tx, room, &locked, users, role, max_members, now).await?;
        tx.commit().await?;
        self.outbox.filled(WebhookEvent::MemberAdded);
        Ok(())
    }

    /// Makes the user a member of a channel; a member stays one.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] if the room is full or no channel; [`Error::NotFound`] if the user may
    /// not see it.
    pub async fn join(&self, room: RoomId, user: &UserId, max_members: u32, now: Timestamp) -> Result<Room> {
        let actor = Actor::User(user.clone());
        let mut client = self.db.client().await?;
        let tx = client.begin().await?;
        let locked = lock(&tx, self.tenant, room, &actor).await?;
        locked.standing.join()?;
        let users = std::slice::from_ref(user);
        let joined = self.enter(&tx, room, &locked, users, Role::Member, max_members, now).await?;
        tx.commit().await?;
        self.outbox.filled(WebhookEvent::MemberAdded);
        Ok(joined)
    }

    /// Gives a member another role.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] if the last admin would be demoted, or the room is a dm;
    /// [`Error::NotFound`] and [`Error::Forbidden`] as the room's rules say.
    pub async fn set_role(&self, room: RoomId, actor: &Actor, user: &UserId, role: Role) -> Result<Member> {
        let mut client = self.db.client().await?;
        let tx = client.begin().await?;
        lock(&tx, self.tenant, room, actor).await?.standing.change_members()?;
        let present = self.present(&tx, room, user).await?;
        if present.last_admin && role != Role::Admin {
            return Err(Error::Conflict("The last admin of a room cannot be demoted"));
        }
        tx.execute(SET_ROLE, &[&self.tenant, &room, user, &role.as_str()]).await?;
        tx.commit().await?;
        Ok(Member { user_id: user.clone(), role, joined_at: present.joined_at })
    }

    /// Takes a member out of a room.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] if it is the last admin of a room that has other members, or the room
    /// is a dm; [`Error::NotFound`] and [`Error::Forbidden`] as the room's rules say.
    pub async fn remove(&self, room: RoomId, actor: &Actor, user: &UserId, now: Timestamp) -> Result<()> {
        let mut client = self.db.client().await?;
        let tx = client.begin().await?;
        let locked = lock(&tx, self.tenant, room, actor).await?;
        locked.standing.remove_member(actor.user() == Some(user))?;
        let present = self.present(&tx, room, user).await?;
        if present.last_admin && locked.member_count > 1 {
            return Err(Error::Conflict("The last admin cannot leave a room that has other members"));
        }
        debug_assert!(present.role == Role::Admin || !present.last_admin);
        tx.execute(REMOVE, &[&self.tenant, &room, user]).await?;
        self.count(&tx, room, -1, now).await?;
        tell_in(&tx, self.tenant, &[Fact::MemberRemoved { room_id: room, user_id: user.clone() }]).await?;
        let removed = std::slice::from_ref(user);
        self.outbox.put_users_in(&tx, WebhookEvent::MemberRemoved, room, removed, None, now).await?;
        tx.commit().await?;
        self.outbox.filled(WebhookEvent::MemberRemoved);
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "one step of two methods that have them all")]
    async fn enter(
        &self,
        tx: &Tx<'_>,
        room: RoomId,
        locked: &Locked,
        users: &[UserId],
        role: Role,
        max_members: u32,
        now: Timestamp,
    ) -> Result<Room> {
        let rows = tx.query(ADD, &[&self.tenant, &room, &users, &role.as_str(), &now, &locked.last_seq]).await?;
        let entered = rows.iter().map(|row| get(row, "user_id")).collect::<Result<Vec<UserId>>>()?;
        let added = i32::try_from(entered.len()).unwrap_or(i32::MAX);
        let total = u32::try_from(locked.member_count.saturating_add(added)).unwrap_or(0);
        if added > 0 && total > max_members {
            return Err(Error::Conflict("The room is full"));
        }
        if entered.is_empty() {
            return self.unchanged(tx, room).await;
        }
        let (last_seq, last_change) = (locked.last_seq, locked.last_change);
        let fact = |user_ids| Fact::MembersAdded { room_id: room, user_ids, role, last_seq, last_change };
        tell_in(tx, self.tenant, &Fact::each_of(&entered, fact)).await?;
        self.outbox.put_users_in(tx, WebhookEvent::MemberAdded, room, &entered, Some(role), now).await?;
        self.count(tx, room, added, now).await
    }

    async fn unchanged(&self, tx: &Tx<'_>, room: RoomId) -> Result<Room> {
        const GET: &str =
            concat!("select ", room_columns!(), " from rooms r where r.tenant_id = $1 and r.room_id = $2");
        let row = tx.query_opt(GET, &[&self.tenant, &room]).await?;
        row.as_ref().map(row::room).transpose()?.ok_or(Error::NotFound("Room"))
    }

    async fn count(&self, tx: &Tx<'_>, room: RoomId, by: i32, now: Timestamp) -> Result<Room> {
        let row = tx.query_opt(COUNT, &[&self.tenant, &room, &by, &now]).await?;
        row.as_ref().map(row::room).transpose()?.ok_or(Error::NotFound("Room"))
    }

    async fn present(&self, tx: &Tx<'_>, room: RoomId, user: &UserId) -> Result<Present> {
        let row = tx.query_opt(ROLE, &[&self.tenant, &room, user]).await?.ok_or(Error::NotFound("Member"))?;
        Ok(Present {
            role: word(&row, "role", Role::from_word)?,
            joined_at: get(&row, "joined_at")?,
            last_admin: get(&row, "last_admin")?,
        })
    }
}
