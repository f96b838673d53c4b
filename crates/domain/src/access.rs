//! Who may do what in a room.
//!
//! A [`Standing`] is how somebody stands to a room; each method is one thing that can be done,
//! and says [`Refusal`] if this somebody may not. A room that may not be seen is *not found*, the
//! same as one that does not exist: each method asks that first.

use crate::{Role, RoomType, UserId};

/// Who asks: a user, or the tenant itself (its backend without naming a user).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// A user of the tenant.
    User(UserId),
    /// The tenant's backend, which may do everything but post.
    Tenant,
}

impl Actor {
    /// The user, if one asks.
    #[must_use]
    pub const fn user(&self) -> Option<&UserId> {
        match self {
            Self::User(user) => Some(user),
            Self::Tenant => None,
        }
    }
}

/// Why something may not be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is not there, or must look as if it were not.
    NotFound(&'static str),
    /// It is there, but not for this user to do.
    Forbidden(&'static str),
    /// Nobody may do it as things are.
    Conflict(&'static str),
}

const ROOM: Refusal = Refusal::NotFound("Room");
const ADMINS_ONLY: Refusal = Refusal::Forbidden("Only an admin of the room may do this");
const DM_FIXED: Refusal = Refusal::Conflict("The members of a dm are fixed");

/// How somebody stands to a room.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// The kind of the room.
    pub room_type: RoomType,
    /// The role of the user who asks, if a member.
    pub role: Option<Role>,
    /// Whether the tenant itself asks.
    pub backend: bool,
}

impl Standing {
    /// May know that the room exists, and read it.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotFound`] for a user outside a dm or group.
    pub fn see(self) -> Result<(), Refusal> {
        let visible = self.backend || self.role.is_some() || self.room_type == RoomType::Channel;
        visible.then_some(()).ok_or(ROOM)
    }

    /// May post messages and move receipts: members.
    ///
    /// # Errors
    ///
    /// [`Refusal`] if the room is not visible or the user is no member.
    pub fn take_part(self) -> Result<(), Refusal> {
        self.see()?;
        self.role.map(|_| ()).ok_or(Refusal::Forbidden("Only members of the room may do this"))
    }

    /// May change name and metadata: admins, in a dm both members.
    ///
    /// # Errors
    ///
    /// [`Refusal`] for anybody else.
    pub fn rename(self) -> Result<(), Refusal> {
        if self.room_type == RoomType::Dm { self.see() } else { self.administer() }
    }

    /// May delete the room: admins; a dm only the backend.
    ///
    /// # Errors
    ///
    /// [`Refusal`] for anybody else.
    pub fn delete(self) -> Result<(), Refusal> {
        self.administer()
    }

    /// May add members and change roles: admins, never in a dm.
    ///
    /// # Errors
    ///
    /// [`Refusal`] for anybody else, and in a dm.
    pub fn change_members(self) -> Result<(), Refusal> {
        self.see()?;
        if self.room_type == RoomType::Dm { Err(DM_FIXED) } else { self.administer() }
    }

    /// May remove a member: admins anybody, a member oneself, never in a dm.
    ///
    /// # Errors
    ///
    /// [`Refusal`] for anybody else, and in a dm.
    pub fn remove_member(self, oneself: bool) -> Result<(), Refusal> {
        self.see()?;
        match self.room_type {
            RoomType::Dm => Err(DM_FIXED),
            RoomType::Group | RoomType::Channel if oneself => Ok(()),
            RoomType::Group | RoomType::Channel => self.administer(),
        }
    }

    /// May become a member of one's own accord: channels only.
    ///
    /// # Errors
    ///
    /// [`Refusal`] in other rooms.
    pub fn join(self) -> Result<(), Refusal> {
        self.see()?;
        match self.room_type {
            RoomType::Channel => Ok(()),
            RoomType::Group => Err(Refusal::Conflict("Only a channel can be joined; a group is by invitation")),
            RoomType::Dm => Err(DM_FIXED),
        }
    }

    /// May change a message: its sender.
    ///
    /// # Errors
    ///
    /// [`Refusal`] for anybody else.
    pub fn edit_message(self, own: bool) -> Result<(), Refusal> {
        self.see()?;
        own.then_some(()).ok_or(Refusal::Forbidden("Only its sender may edit a message"))
    }

    /// May erase a message: its sender, or an admin of the room.
    ///
    /// # Errors
    ///
    /// [`Refusal`] for anybody else.
    pub fn erase_message(self, own: bool) -> Result<(), Refusal> {
        self.see()?;
        let allowed = own || self.role == Some(Role::Admin);
        allowed.then_some(()).ok_or(Refusal::Forbidden("Only its sender or an admin of the room may delete a message"))
    }

    fn administer(self) -> Result<(), Refusal> {
        self.see()?;
        let allowed = self.backend || self.role == Some(Role::Admin);
        allowed.then_some(()).ok_or(ADMINS_ONLY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn standing(room_type: RoomType, role: Option<Role>, backend: bool) -> Standing {
        Standing { room_type, role, backend }
    }

    /// N: not found, F: forbidden, C: conflict, y: allowed.
    fn letter(result: Result<(), Refusal>) -> char {
        match result {
            Ok(()) => 'y',
            Err(Refusal::NotFound(_)) => 'N',
            Err(Refusal::Forbidden(_)) => 'F',
            Err(Refusal::Conflict(_)) => 'C',
        }
    }

    #[test]
    fn the_table_of_the_contract() {
        use RoomType::{Channel, Dm, Group};
        let (admin, member) = (Some(Role::Admin), Some(Role::Member));
        // see, take part, rename, delete, change members, remove another, remove oneself, join
        let table = [
            (standing(Dm, None, false), "NNNNNNNN"),
            (standing(Dm, member, false), "yyyFCCCC"),
            (standing(Dm, None, true), "yFyyCCCC"),
            (standing(Group, None, false), "NNNNNNNN"),
            (standing(Group, member, false), "yyFFFFyC"),
            (standing(Group, admin, false), "yyyyyyyC"),
            (standing(Group, None, true), "yFyyyyyC"),
            (standing(Channel, None, false), "yFFFFFyy"),
            (standing(Channel, member, false), "yyFFFFyy"),
            (standing(Channel, admin, false), "yyyyyyyy"),
            (standing(Channel, None, true), "yFyyyyyy"),
        ];
        for (who, expected) in table {
            let found: String = [
                who.see(),
                who.take_part(),
                who.rename(),
                who.delete(),
                who.change_members(),
                who.remove_member(false),
                who.remove_member(true),
                who.join(),
            ]
            .into_iter()
            .map(letter)
            .collect();
            assert_eq!(found, expected, "{who:?}");
        }
    }

    #[test]
    fn a_message_is_edited_by_its_sender_and_erased_by_an_admin_too() {
        let member = standing(RoomType::Group, Some(Role::Member), false);
        let admin = standing(RoomType::Group, Some(Role::Admin), false);

        assert_eq!(letter(member.edit_message(true)), 'y');
        assert_eq!(letter(admin.edit_message(false)), 'F');
        assert_eq!(letter(member.erase_message(false)), 'F');
        assert_eq!(letter(admin.erase_message(false)), 'y');
    }
}
