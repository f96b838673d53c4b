//! One connection, from its first frame to its last.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Semaphore;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep, timeout};

use crate::command::{Command, Effect, command_id};
use crate::session::Session;
use crate::socket::{End, OPEN_WITHIN, Socket};
use crate::tracker::{Hole, Item};
use crate::wire::{After, Connected, Head, InRoom, Refusal, RoomDone, Sent, Sync, SyncDone, frame};
use crate::{Error, Event, History, ListedRoom, MessagePage, Position, Room, RoomPage};

/// Rooms in one sync: their ids and positions stay far below the largest frame.
const ROOMS_IN_A_SYNC: usize = 500;

/// Requests over REST at once.
const LOOKUPS: usize = 4;

/// A page as long as the server gives.
const PAGE: Option<u32> = Some(100);

/// Before a sync that the server could not answer is asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Half heartbeats without a frame until somebody asks, and until nobody is there.
const QUIET: u32 = 4;
const DEAD: u32 = 6;

/// Half heartbeats without progress of a sync until it is given up.
const STALLED: u32 = 6;

/// What the connection itself said and waits for.
enum Asked {
    Sync(Vec<String>),
    Subscribe(String),
}

/// What came over REST.
enum Found {
    Rooms(Result<RoomPage, Error>),
    Room(String, Result<Room, Error>),
    Hole(Hole, Result<MessagePage, Error>),
    /// It is time to ask about these again.
    AskAgain(Vec<String>),
}

type Lookup = Pin<Box<dyn Future<Output = Found> + Send>>;

/// What woke the connection.
enum Waking {
    Frame(String),
    Nothing,
    Found(Found),
    Command(Command),
    Tick,
    Stop,
}

pub(crate) struct Connection<'a> {
    session: &'a mut Session,
    socket: Socket,
    lookups: FuturesUnordered<Lookup>,
    permits: Arc<Semaphore>,
    asked: HashMap<String, Asked>,
    next_id: u64,
    /// The rooms listed so far.
    rooms: Vec<ListedRoom>,
    /// Rooms whose sync failed together with that of others.
    alone: Vec<String>,
    user_id: String,
    /// To be told when the first list of rooms is complete.
    announcement: Option<Event>,
    quiet: u32,
    stalled: u32,
}

impl<'a> Connection<'a> {
    pub(crate) fn new(session: &'a mut Session, socket: Socket) -> Self {
        Self {
            session,
            socket,
            lookups: FuturesUnordered::new(),
            permits: Arc::new(Semaphore::new(LOOKUPS)),
            asked: HashMap::new(),
            next_id: 0,
            rooms: Vec::new(),
            alone: Vec::new(),
            user_id: String::new(),
            announcement: None,
            quiet: 0,
            stalled: 0,
        }
    }

    /// Talks until something ends it.
    pub(crate) async fn run(mut self) -> End {
        let mut ticks = match timeout(OPEN_WITHIN, self.greet()).await {
            Ok(Ok(ticks)) => ticks,
            Ok(Err(end)) => return end,
            Err(_) => return End::lost("no greeting"),
        };
        if let Err(end) = self.begin().await {
            return end;
        }
        loop {
            if let Err(end) = self.turn(&mut ticks).await {
                return end;
            }
        }
    }

    /// Reads the first frame.
    async fn greet(&mut self) -> Result<Interval, End> {
        let text = loop {
            if let Some(text) = self.socket.next().await? {
                break text;
            }
        };
        let greeting: Connected = serde_json::from_str(&text).map_err(not_understood)?;
        let beat = Duration::try_from_secs_f64(greeting.heartbeat_seconds.unwrap_or(30.0) / 2.0).unwrap_or_default();
        // Ticks count, not time: while the user is slow nothing is read, and that is not the server's fault.
        let beat = beat.max(Duration::from_millis(1));
        let mut ticks = interval_at(Instant::now() + beat, beat);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let Connected { connection_id, user_id, .. } = greeting;
        self.user_id.clone_from(&user_id);
        self.announcement = Some(Event::Connected { connection_id, user_id });
        Ok(ticks)
    }

    /// Says again what was not answered, and asks for what was missed.
    async fn begin(&mut self) -> Result<(), End> {
        self.session.accepted();
        self.session.tracker.connected();
        self.list(None);
        if self.session.announced {
            self.announce().await?;
        }
        let subscribed: Vec<_> = self.session.subscribed.keys().cloned().collect();
        for room_id in subscribed {
            let id = self.next_id();
            self.socket.send(frame("subscribe", &id, &InRoom { room_id: &room_id })).await?;
            self.asked.insert(id, Asked::Subscribe(room_id));
        }
        for text in self.session.pending.again() {
            self.socket.send(text).await?;
        }
        Ok(())
    }

    async fn announce(&mut self) -> Result<(), End> {
        self.session.announced = true;
        match self.announcement.take() {
            Some(event) => self.session.emit(Item::Event(event)).await,
            None => Ok(()),
        }
    }

    /// Does what is to be done, then waits for one thing to happen.
    async fn turn(&mut self, ticks: &mut Interval) -> Result<(), End> {
        self.work().await?;
        let waking = tokio::select! {
            frame = self.socket.next() => frame?.map_or(Waking::Nothing, |text| Waking::Frame(text.to_string())),
            Some(found) = self.lookups.next() => Waking::Found(found),
            Some(command) = self.session.commands.recv(), if self.session.pending.has_room() => {
                Waking::Command(command)
            }
            _ = ticks.tick() => Waking::Tick,
            () = self.session.stop.cancelled() => Waking::Stop,
        };
        match waking {
            Waking::Frame(text) => {
                self.quiet = 0;
                self.frame(&text)
            }
            Waking::Nothing => {
                self.quiet = 0;
                Ok(())
            }
            Waking::Found(found) => self.found(found).await,
            Waking::Command(command) => {
                let text = command.text.clone();
                self.session.accept(command);
                self.socket.send(text).await
            }
            Waking::Tick => self.tick().await,
            Waking::Stop => {
                self.socket.close().await;
                Err(End::Stopped)
            }
        }
    }

    /// Does what the tracker wants done.
    async fn work(&mut self) -> Result<(), End> {
        let work = self.session.tracker.take_work();
        // First of all: the tracker counts them as handed out, whatever becomes of the connection.
        for item in work.items {
            self.session.emit(item).await?;
        }
        if work.reconnect {
            return Err(End::lost("the server leaves gaps"));
        }
        for room_ids in work.syncs.chunks(ROOMS_IN_A_SYNC) {
            self.sync(room_ids).await?;
        }
        for room_id in std::mem::take(&mut self.alone) {
            self.sync(&[room_id]).await?;
        }
        for hole in work.holes {
            let part = History {
                after_seq: Some(hole.after),
                before_seq: Some(hole.before),
                limit: PAGE,
                ..History::default()
            };
            let client = self.session.client.clone();
            self.look_up(async move {
                let page = client.messages(&hole.room_id, &part).await;
                Found::Hole(hole, page)
            });
        }
        for room_id in work.lookups {
            let client = self.session.client.clone();
            self.look_up(async move {
                let room = client.room(&room_id).await;
                Found::Room(room_id, room)
            });
        }
        Ok(())
    }

    /// Asks the server what is missing in these rooms.
    async fn sync(&mut self, room_ids: &[String]) -> Result<(), End> {
        let after = |room_id: &'_ String| self.session.tracker.ask_after(room_id);
        let rooms: HashMap<_, _> = room_ids
            .iter()
            .filter_map(|room_id| Some((room_id.as_str(), after(room_id)?)))
            .map(|(room_id, position)| (room_id, After::from(position)))
            .collect();
        if rooms.is_empty() {
            return Ok(());
        }
        let id = self.next_id();
        self.socket.send(frame("sync", &id, &Sync { rooms })).await?;
        self.asked.insert(id, Asked::Sync(room_ids.to_vec()));
        self.stalled = 0;
        Ok(())
    }

    /// Reads the list of rooms from here.
    fn list(&mut self, cursor: Option<String>) {
        let client = self.session.client.clone();
        self.look_up(async move { Found::Rooms(client.rooms(None, PAGE, cursor.as_deref()).await) });
    }

    fn look_up(&self, lookup: impl Future<Output = Found> + Send + 'static) {
        let permits = Arc::clone(&self.permits);
        self.lookups.push(Box::pin(async move {
            // Never closed; without a permit it would only be less polite.
            let _permit = permits.acquire_owned().await;
            lookup.await
        }));
    }

    fn next_id(&mut self) -> String {
        self.next_id += 1;
        format!("s{}", self.next_id)
    }

    async fn found(&mut self, found: Found) -> Result<(), End> {
        match found {
            Found::AskAgain(room_ids) => room_ids.iter().for_each(|room_id| self.session.tracker.ask_again(room_id)),
            Found::Rooms(Err(error)) => return Err(End::Refused(error)),
            Found::Rooms(Ok(RoomPage { rooms, next_cursor })) => {
                let reads_on = self.session.tracker.reads_on(&rooms);
                self.rooms.extend(rooms);
                if reads_on && next_cursor.is_some() {
                    self.list(next_cursor);
                    return Ok(());
                }
                self.session.tracker.listed(&self.rooms, self.session.options.from_delivered);
                self.rooms.clear();
                self.work().await?;
                self.announce().await?;
            }
            Found::Room(room_id, Ok(room)) => self.session.tracker.found(&room_id, Some(&room)),
            Found::Room(room_id, Err(error)) if error.is_absent() => self.session.tracker.found(&room_id, None),
            Found::Hole(hole, Ok(MessagePage { messages, has_more })) => {
                // What is behind the page is another hole, if it is one.
                let read = messages.last().filter(|_| has_more).map(|last| last.seq + 1);
                let before = read.unwrap_or(hole.before);
                self.session.tracker.filled(&Hole { before, ..hole }, messages);
            }
            Found::Hole(hole, Err(error)) if error.is_absent() => self.session.tracker.forget(&hole.room_id),
            Found::Room(_, Err(error)) | Found::Hole(_, Err(error)) => return Err(End::Lost(error)),
        }
        Ok(())
    }

    fn frame(&mut self, text: &str) -> Result<(), End> {
        let Head { kind, request_id } = serde_json::from_str(text).map_err(not_understood)?;
        match (&*kind, request_id) {
            ("ok", Some(id)) => self.answered(&id, Ok(text.to_owned())),
            ("error", Some(id)) => {
                let Refusal { code, message } = serde_json::from_str(text).map_err(not_understood)?;
                self.answered(&id, Err(Error::from_frame(code, message)))
            }
            ("sync.done", id) => {
                let done: SyncDone = serde_json::from_str(text).map_err(not_understood)?;
                let asked = id.and_then(|id| self.asked.remove(&id));
                self.synced(asked, &done);
                Ok(())
            }
            ("pong", _) => Ok(()),
            (kind, _) => {
                let event = Event::parse(kind, text).map_err(not_understood)?;
                self.event(event);
                Ok(())
            }
        }
    }

    /// Something has come that nobody asked for, or that belongs to a sync.
    fn event(&mut self, event: Event) {
        let tracker = &mut self.session.tracker;
        match event {
            Event::Message(message) => {
                self.stalled = 0;
                return tracker.message(message, false);
            }
            Event::Edited(change) => {
                self.stalled = 0;
                let (room_id, number, seq) = (change.message.room_id.clone(), change.change, change.message.seq);
                return tracker.change(&room_id, number, seq, Event::Edited(change));
            }
            Event::Deleted { ref room_id, seq, change, .. } => {
                self.stalled = 0;
                return tracker.change(&room_id.clone(), change, seq, event);
            }
            Event::RoomCreated(ref room) => tracker.created(room),
            Event::MemberAdded { ref room_id, ref user_ids, ref room } => {
                let is_own = user_ids.contains(&self.user_id);
                match room {
                    Some(room) if is_own => tracker.joined(room),
                    None if is_own => tracker.look_up(room_id),
                    _ => {}
                }
                if let Some(is_guest) = self.session.subscribed.get_mut(room_id) {
                    *is_guest &= !is_own;
                }
            }
            Event::MemberRemoved { ref room_id, ref user_ids } if user_ids.contains(&self.user_id) => {
                tracker.forget(room_id);
            }
            Event::RoomDeleted { ref room_id } => tracker.forget(room_id),
            Event::Shutdown { reconnect_after } => self.session.reconnect_after = Some(reconnect_after),
            _ => {}
        }
        tracker.pass(event);
    }

    fn synced(&mut self, asked: Option<Asked>, done: &SyncDone) {
        self.stalled = 0;
        let tracker = &mut self.session.tracker;
        for (room_id, done) in &done.rooms {
            match done {
                RoomDone::Reached { last_seq, last_change, has_more } => {
                    tracker.synced(room_id, Position::new(*last_seq, *last_change), *has_more);
                }
                RoomDone::Hidden {} => tracker.forget(room_id),
            }
        }
        // A room that is not named has nothing new.
        let Some(Asked::Sync(room_ids)) = asked else { return };
        for room_id in room_ids.iter().filter(|room_id| !done.rooms.contains_key(*room_id)) {
            if let Some(reached) = tracker.ask_after(room_id) {
                tracker.synced(room_id, reached, false);
            }
        }
    }

    fn answered(&mut self, request_id: &str, answer: Result<String, Error>) -> Result<(), End> {
        if let Some(command) = command_id(request_id).and_then(|id| self.session.pending.remove(id)) {
            return self.command_answered(command, answer);
        }
        match (self.asked.remove(request_id), answer) {
            (Some(Asked::Sync(room_ids)), Err(error)) => self.sync_refused(room_ids, &error),
            (Some(Asked::Subscribe(room_id)), Err(_)) => self.unfollow(&room_id),
            _ => {}
        }
        Ok(())
    }

    fn sync_refused(&mut self, room_ids: Vec<String>, error: &Error) {
        match (&*room_ids, error.status()) {
            (_, Some(429 | 500..)) => self.look_up(async move {
                sleep(ASK_AGAIN_AFTER).await;
                Found::AskAgain(room_ids)
            }),
            ([room_id], _) => self.session.tracker.forget(room_id),
            _ => self.alone.extend(room_ids),
        }
    }

    /// A subscription is over; a room that was followed for it alone is no longer.
    fn unfollow(&mut self, room_id: &str) {
        if self.session.subscribed.remove(room_id) == Some(true) {
            self.session.tracker.forget(room_id);
        }
    }

    fn command_answered(&mut self, command: Command, answer: Result<String, Error>) -> Result<(), End> {
        match (&command.effect, &answer) {
            (Effect::Send, Ok(text)) => {
                // The server may send the message to the sender's other connections only.
                let Sent { message } = serde_json::from_str(text).map_err(not_understood)?;
                self.session.tracker.message(message, true);
            }
            (Effect::Subscribe(room_id), Ok(_)) => {
                let is_guest = !self.session.tracker.is_known(room_id);
                self.session.subscribed.entry(room_id.clone()).or_insert(is_guest);
                self.session.tracker.look_up(room_id);
                self.session.tracker.ask(room_id);
            }
            (Effect::Unsubscribe(room_id), Ok(_)) => self.unfollow(room_id),
            (Effect::Refresh(_), Err(_)) => self.session.reject_token(),
            _ => {}
        }
        // Whoever gave the command may be gone.
        let _ = command.reply.send(answer);
        Ok(())
    }

    /// Half a heartbeat is over.
    async fn tick(&mut self) -> Result<(), End> {
        self.quiet += 1;
        self.stalled += 1;
        let is_asking = self.asked.values().any(|asked| matches!(asked, Asked::Sync(_)));
        match (self.quiet, self.stalled) {
            (DEAD.., _) => Err(End::lost("nothing came any more")),
            (_, STALLED..) if is_asking => Err(End::lost("a sync was not answered")),
            (QUIET, _) => self.socket.ping().await,
            _ => Ok(()),
        }
    }
}

fn not_understood(error: serde_json::Error) -> End {
    End::Lost(Error::Decode(error))
}
