//! Rooms and messages against a small model of their rules, on the real store.

use std::collections::BTreeMap;

use chatapi_domain::access::Actor;
use chatapi_domain::{Content, HistoryQuery, MessageId, Order, ReceiptKind, Role, RoomId, RoomType};
use chatapi_storage::{Error, Store, TenantStore};
use chatapi_testkit::Database;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::chat::{message, named, now, room, tenant, user};

const USERS: [&str; 4] = ["ann", "bob", "cat", "dan"];
const MAX_MEMBERS: u32 = 3;

/// What somebody tries. Rooms and messages are picked by number among those there are.
#[derive(Debug, Clone)]
enum Step {
    Make(RoomType, usize, usize),
    Add { room: usize, by: Option<usize>, who: usize, role: Role },
    Join { room: usize, who: usize },
    SetRole { room: usize, by: Option<usize>, who: usize, role: Role },
    Remove { room: usize, by: Option<usize>, who: usize },
    Send { room: usize, who: usize, id: Option<u8> },
    Edit { room: usize, who: usize, message: usize },
    Erase { room: usize, who: usize, message: usize },
    Ack { room: usize, who: usize, seq: i64, read: bool },
    Delete { room: usize, by: Option<usize> },
}

/// How it went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Went {
    NotFound,
    Forbidden,
    Conflict,
    Invalid,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (room, who, by) = (0..6_usize, 0..USERS.len(), prop::option::weighted(0.8, 0..USERS.len()));
    let kind = prop::sample::select(vec![RoomType::Dm, RoomType::Group, RoomType::Channel]);
    let role = prop::sample::select(vec![Role::Admin, Role::Member]);
    let step = prop_oneof![
        2 => (kind, who.clone(), 1..USERS.len()).prop_map(|(kind, a, b)| Step::Make(kind, a, (a + b) % USERS.len())),
        2 => (room.clone(), by.clone(), who.clone(), role.clone())
            .prop_map(|(room, by, who, role)| Step::Add { room, by, who, role }),
        2 => (room.clone(), who.clone()).prop_map(|(room, who)| Step::Join { room, who }),
        2 => (room.clone(), by.clone(), who.clone(), role).prop_map(|(room, by, who, role)| Step::SetRole { room, by, who, role }),
        2 => (room.clone(), by.clone(), who.clone()).prop_map(|(room, by, who)| Step::Remove { room, by, who }),
        8 => (room.clone(), who.clone(), prop::option::of(0..4_u8)).prop_map(|(room, who, id)| Step::Send { room, who, id }),
        3 => (room.clone(), who.clone(), 0..8_usize).prop_map(|(room, who, message)| Step::Edit { room, who, message }),
        3 => (room.clone(), who.clone(), 0..8_usize).prop_map(|(room, who, message)| Step::Erase { room, who, message }),
        3 => (room.clone(), who, 0..8_i64, any::<bool>()).prop_map(|(room, who, seq, read)| Step::Ack { room, who, seq, read }),
        1 => (room, by).prop_map(|(room, by)| Step::Delete { room, by }),
    ];
    prop::collection::vec(step, 1..60)
}

#[derive(Debug, Clone)]
struct ModelMessage {
    id: MessageId,
    sender: usize,
    client_id: Option<u8>,
    text: String,
    deleted: bool,
    change: i64,
}

#[derive(Debug, Clone)]
struct ModelMember {
    admin: bool,
    delivered: i64,
    read: i64,
}

/// A room, in the plainest form that obeys the rules.
#[derive(Debug, Clone)]
struct ModelRoom {
    id: RoomId,
    kind: RoomType,
    members: BTreeMap<usize, ModelMember>,
    messages: Vec<ModelMessage>,
    changes: i64,
}

impl ModelRoom {
    fn last_seq(&self) -> i64 {
        i64::try_from(self.messages.len()).expect("few")
    }

    fn sees(&self, by: Option<usize>) -> bool {
        by.is_none_or(|user| self.members.contains_key(&user)) || self.kind == RoomType::Channel
    }

    fn administers(&self, by: Option<usize>) -> bool {
        by.is_none_or(|user| self.members.get(&user).is_some_and(|member| member.admin))
    }

    /// Who may change members, or why not.
    fn change_members(&self, by: Option<usize>) -> Result<(), Went> {
        match () {
            () if !self.sees(by) => Err(Went::NotFound),
            () if self.kind == RoomType::Dm => Err(Went::Conflict),
            () if !self.administers(by) => Err(Went::Forbidden),
            () => Ok(()),
        }
    }

    fn enter(&mut self, who: usize, admin: bool) -> Result<(), Went> {
        if self.members.contains_key(&who) {
            return Ok(());
        }
        if self.members.len() >= MAX_MEMBERS as usize {
            return Err(Went::Conflict);
        }
        let seq = self.last_seq();
        self.members.insert(who, ModelMember { admin, delivered: seq, read: seq });
        Ok(())
    }

    fn is_last_admin(&self, who: usize) -> bool {
        self.members[&who].admin && self.members.values().filter(|member| member.admin).count() == 1
    }

    fn post(&self, who: usize) -> Result<(), Went> {
        match () {
            () if !self.sees(Some(who)) => Err(Went::NotFound),
            () if !self.members.contains_key(&who) => Err(Went::Forbidden),
            () => Ok(()),
        }
    }

    fn apply(&mut self, step: &Step, new_id: MessageId) -> Result<(), Went> {
        match *step {
            Step::Make(..) | Step::Delete { .. } => Ok(()),
            Step::Add { by, who, role, .. } => {
                self.change_members(by)?;
                self.enter(who, role == Role::Admin)
            }
            Step::Join { who, .. } => match self.kind {
                RoomType::Channel => self.enter(who, false),
                _ if self.sees(Some(who)) => Err(Went::Conflict),
                _ => Err(Went::NotFound),
            },
            Step::SetRole { by, who, role, .. } => {
                self.change_members(by)?;
                if !self.members.contains_key(&who) {
                    return Err(Went::NotFound);
                }
                if role == Role::Member && self.is_last_admin(who) {
                    return Err(Went::Conflict);
                }
                self.members.get_mut(&who).expect("present").admin = role == Role::Admin;
                Ok(())
            }
            Step::Remove { by, who, .. } => {
                match self.change_members(by) {
                    Err(Went::Forbidden) if by == Some(who) => {}
                    result => result?,
                }
                if !self.members.contains_key(&who) {
                    return Err(Went::NotFound);
                }
                if self.is_last_admin(who) && self.members.len() > 1 {
                    return Err(Went::Conflict);
                }
                self.members.remove(&who);
                Ok(())
            }
            Step::Send { who, id, .. } => {
                self.post(who)?;
                if id.is_some() && self.messages.iter().any(|message| message.sender == who && message.client_id == id)
                {
                    return Ok(());
                }
                let text = format!("{} by {who}", self.messages.len() + 1);
                let new = ModelMessage { id: new_id, sender: who, client_id: id, text, deleted: false, change: 0 };
                self.messages.push(new);
                let seq = self.last_seq();
                let member = self.members.get_mut(&who).expect("present");
                (member.delivered, member.read) = (seq, seq);
                Ok(())
            }
            Step::Edit { who, message, .. } | Step::Erase { who, message, .. } => {
                let erasing = matches!(step, Step::Erase { .. });
                if !self.sees(Some(who)) {
                    return Err(Went::NotFound);
                }
                let admin = self.administers(Some(who));
                let found = self.messages.get_mut(message).ok_or(Went::NotFound)?;
                if found.sender != who && !(erasing && admin) {
                    return Err(Went::Forbidden);
                }
                match (found.deleted, erasing) {
                    (true, true) => return Ok(()),
                    (true, false) => return Err(Went::Conflict),
                    (false, _) => {}
                }
                self.changes += 1;
                found.change = self.changes;
                found.deleted = erasing;
                found.text = if erasing { String::new() } else { format!("change {}", self.changes) };
                Ok(())
            }
            Step::Ack { who, seq, read, .. } => {
                self.post(who)?;
                if seq > self.last_seq() {
                    return Err(Went::Invalid);
                }
                let member = self.members.get_mut(&who).expect("present");
                member.delivered = member.delivered.max(seq);
                if read {
                    member.read = member.read.max(seq);
                }
                Ok(())
            }
        }
    }

    fn unread(&self, who: usize) -> i64 {
        let read = usize::try_from(self.members[&who].read).expect("small");
        let of_others = self.messages.iter().skip(read).filter(|message| message.sender != who && !message.deleted);
        i64::try_from(of_others.count()).expect("few")
    }
}

fn actor(by: Option<usize>) -> Actor {
    by.map_or(Actor::Tenant, |at| Actor::User(user(USERS[at])))
}

fn went<T>(result: Result<T, Error>) -> Result<(), Went> {
    match result {
        Ok(_) => Ok(()),
        Err(Error::NotFound(_)) => Err(Went::NotFound),
        Err(Error::Forbidden(_)) => Err(Went::Forbidden),
        Err(Error::Conflict(_)) => Err(Went::Conflict),
        Err(Error::Invalid(_)) => Err(Went::Invalid),
        Err(error) => panic!("{error:?}"),
    }
}

/// Does on the store what the model does in memory.
async fn perform(chat: TenantStore<'_>, model: &ModelRoom, step: &Step, new_id: MessageId) -> Result<(), Went> {
    let (id, members) = (model.id, chat.members());
    let message_of = |at: usize| model.messages.get(at).map_or_else(|| MessageId::new(now()), |message| message.id);
    match *step {
        Step::Make(..) | Step::Delete { .. } => Ok(()),
        Step::Add { by, who, role, .. } => {
            went(members.add(id, &actor(by), &[user(USERS[who])], role, MAX_MEMBERS, now()).await)
        }
        Step::Join { who, .. } => went(members.join(id, &user(USERS[who]), MAX_MEMBERS, now()).await),
        Step::SetRole { by, who, role, .. } => went(members.set_role(id, &actor(by), &user(USERS[who]), role).await),
        Step::Remove { by, who, .. } => went(members.remove(id, &actor(by), &user(USERS[who]), now()).await),
        Step::Send { who, id: client_id, .. } => {
            let mut new = message(id, USERS[who], &format!("{} by {who}", model.messages.len() + 1));
            new.message_id = new_id;
            let new = client_id.map_or_else(|| new.clone(), |id| named(new.clone(), &id.to_string()));
            went(chat.messages().append(new).await)
        }
        Step::Edit { who, message, .. } => {
            let content = Content::parse(format!("change {}", model.changes + 1), 100).expect("content");
            went(chat.messages().edit(id, &user(USERS[who]), message_of(message), &content, None, now()).await)
        }
        Step::Erase { who, message, .. } => {
            went(chat.messages().erase(id, &user(USERS[who]), message_of(message), now()).await)
        }
        Step::Ack { who, seq, read, .. } => {
            let kind = if read { ReceiptKind::Read } else { ReceiptKind::Delivered };
            went(chat.receipts().advance(id, &user(USERS[who]), seq, kind, now()).await)
        }
    }
}

async fn make(chat: TenantStore<'_>, rooms: &mut Vec<ModelRoom>, kind: RoomType, a: usize, b: usize) {
    let made = room(chat, kind, &[USERS[a], USERS[b]]).await;
    if rooms.iter().any(|room| room.id == made.room_id) {
        assert_eq!(kind, RoomType::Dm, "only a dm comes back");
        return;
    }
    let twin =
        |room: &ModelRoom| room.kind == RoomType::Dm && room.members.contains_key(&a) && room.members.contains_key(&b);
    assert!(kind != RoomType::Dm || !rooms.iter().any(twin), "a second dm of one pair");
    let member = |admin| ModelMember { admin, delivered: 0, read: 0 };
    let members = BTreeMap::from([(a, member(kind != RoomType::Dm)), (b, member(false))]);
    rooms.push(ModelRoom { id: made.room_id, kind, members, messages: Vec::new(), changes: 0 });
}

/// Runs the steps against both, then compares all that can be read.
async fn run(store: &Store, steps: &[Step]) {
    let tenant = tenant(store).await;
    let chat = store.tenant(tenant);
    let mut rooms: Vec<ModelRoom> = Vec::new();
    for step in steps {
        let at = match step {
            Step::Make(kind, a, b) => {
                make(chat, &mut rooms, *kind, *a, *b).await;
                continue;
            }
            Step::Add { room, .. }
            | Step::Join { room, .. }
            | Step::SetRole { room, .. }
            | Step::Remove { room, .. }
            | Step::Send { room, .. }
            | Step::Edit { room, .. }
            | Step::Erase { room, .. }
            | Step::Ack { room, .. }
            | Step::Delete { room, .. } => *room,
        };
        let Some(model) = rooms.get_mut(at) else { continue };
        if let Step::Delete { by, .. } = step {
            let expected = match () {
                () if !model.sees(*by) => Err(Went::NotFound),
                () if !model.administers(*by) => Err(Went::Forbidden),
                () => Ok(()),
            };
            assert_eq!(went(chat.rooms().delete(model.id, &actor(*by), now()).await), expected, "{step:?}");
            if expected.is_ok() {
                rooms.remove(at);
            }
            continue;
        }
        let new_id = MessageId::new(now());
        let found = perform(chat, model, step, new_id).await;
        let mut after = model.clone();
        let expected = after.apply(step, new_id);
        assert_eq!(found, expected, "{step:?} on {model:#?}");
        if expected.is_ok() {
            *model = after;
        }
    }
    for model in &rooms {
        compare(chat, model).await;
    }
    for (at, name) in USERS.iter().enumerate() {
        compare_list(chat, &rooms, at, name).await;
    }
}

async fn compare(chat: TenantStore<'_>, model: &ModelRoom) {
    let found = chat.rooms().get(model.id, &Actor::Tenant).await.expect("it is there");
    assert_eq!((found.last_seq, found.last_change), (model.last_seq(), model.changes));
    assert_eq!(usize::try_from(found.member_count).expect("few"), model.members.len());

    let all = HistoryQuery { after_seq: None, before_seq: None, order: Order::Ascending, limit: 100 };
    let history = chat.messages().history(model.id, &Actor::Tenant, &all).await.expect("readable").messages;
    let texts: Vec<_> = history.iter().map(|message| (message.message_id, message.content.as_str())).collect();
    let expected: Vec<_> = model.messages.iter().map(|message| (message.id, message.text.as_str())).collect();
    assert_eq!(texts, expected);
    assert!(history.iter().zip(1..).all(|(message, seq)| message.seq == seq));
    assert!(history.is_sorted_by_key(|message| message.created_at));

    let changes = chat.messages().changes(model.id, &Actor::Tenant, 0, 100).await.expect("readable").messages;
    let found: Vec<_> = changes.iter().map(|change| (change.change, change.message.message_id)).collect();
    let mut expected: Vec<_> = model
        .messages
        .iter()
        .filter(|message| message.change > 0)
        .map(|message| (message.change, message.id))
        .collect();
    expected.sort_unstable_by_key(|(change, _)| *change);
    assert_eq!(found, expected);

    let receipts = chat.receipts().list(model.id, &Actor::Tenant, None, 100).await.expect("readable");
    let found: Vec<_> = receipts
        .iter()
        .map(|receipt| (receipt.user_id.to_string(), receipt.positions.delivered_seq, receipt.positions.read_seq))
        .collect();
    let expected: Vec<_> =
        model.members.iter().map(|(at, member)| (USERS[*at].to_owned(), member.delivered, member.read)).collect();
    assert_eq!(found, expected);
}

async fn compare_list(chat: TenantStore<'_>, rooms: &[ModelRoom], at: usize, name: &str) {
    let listed = chat.rooms().list(&Actor::User(user(name)), None, None, 100).await.expect("readable");
    assert!(listed.is_sorted_by(|a, b| a.active_at >= b.active_at));
    let own = listed.iter().map(|listed| (listed.room.room_id, listed.own.as_ref().expect("a user's list")));
    let found: BTreeMap<RoomId, _> =
        own.map(|(id, own)| (id, (own.unread_count, own.last_message.as_ref().map(|message| message.seq)))).collect();
    let mine = rooms.iter().filter(|room| room.members.contains_key(&at));
    let expected: BTreeMap<RoomId, _> =
        mine.map(|room| (room.id, (room.unread(at), (!room.messages.is_empty()).then(|| room.last_seq())))).collect();
    assert_eq!(found, expected, "the list of {name}");
}

#[test]
fn rooms_and_messages_obey_their_rules_whatever_is_tried() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let (database, store) = runtime.block_on(async {
        let database = Database::new().await;
        let store = database.store();
        (database, store)
    });
    let mut runner = TestRunner::new(Config { cases: 60, failure_persistence: None, ..Config::default() });

    let result = runner.run(&steps(), |steps| {
        runtime.block_on(run(&store, &steps));
        Ok(())
    });

    result.unwrap_or_else(|error| panic!("{error}"));
    drop(database);
}
