//! A chat in the terminal.
//!
//! `cargo run -p chatapi-client --example terminal -- --user alice --with bob` opens the room of
//! the two, shows the last messages and those that come, and sends each line that is typed. The
//! server may be restarted meanwhile. The tenant's key comes from `--key` or `CHATAPI_KEY`.

use std::collections::HashMap;
use std::error::Error;
use std::io::Write;

use chatapi_client::{
    Client, ConnectOptions, Credentials, Event, History, Live, Message, NewRoom, Order, Position, ReceiptKind, Room,
    Typing,
};
use clap::Parser;
use tokio::io::{AsyncBufReadExt, BufReader};

/// How many messages of before are shown.
const SHOWN: u32 = 20;

/// A chat in the terminal.
#[derive(Parser)]
struct Arguments {
    /// Where the server is.
    #[arg(long, default_value = "http://localhost:8080")]
    url: String,
    /// The tenant's key, `sk_…`; else `CHATAPI_KEY` from the environment.
    #[arg(long)]
    key: Option<String>,
    /// Who you are.
    #[arg(long)]
    user: String,
    /// The room to talk in.
    #[arg(long, required_unless_present = "with", conflicts_with = "with")]
    room: Option<String>,
    /// Whom to talk to.
    #[arg(long)]
    with: Option<String>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let key = match arguments.key {
        Some(key) => key,
        None => from_environment().ok_or("there is no key: give --key sk_… or set CHATAPI_KEY")?,
    };
    let user = arguments.user;
    let client = Client::new(&arguments.url, Credentials::ApiKey { key: key.into(), user: Some(user.clone()) })?;
    let room = match (&arguments.room, &arguments.with) {
        (Some(room), _) => client.room(room).await?,
        (None, with) => client.create_room(&NewRoom::dm(&user, with.as_deref().unwrap_or_default())).await?,
    };

    show_history(&client, &room).await?;
    // From just behind what was shown, so that nothing is missing between the two.
    let at = Position::new(room.last_seq, room.last_change);
    let positions = HashMap::from([(room.room_id.clone(), at)]);
    let live = client.connect(ConnectOptions { positions, ..ConnectOptions::default() });
    let result = tokio::select! {
        result = show_events(&live, &room, &user) => result,
        result = send_lines(&live, &room) => result,
    };
    live.close().await;
    result
}

fn from_environment() -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "a program reads its own environment")]
    std::env::var("CHATAPI_KEY").ok()
}

async fn show_history(client: &Client, room: &Room) -> Result<(), Box<dyn Error>> {
    say(&format!("— {} —", room.name.as_deref().unwrap_or(&room.room_id)));
    let before_seq = Some(room.last_seq + 1);
    let part = History { before_seq, order: Order::Descending, limit: Some(SHOWN), ..History::default() };
    let page = client.messages(&room.room_id, &part).await?;
    for message in page.messages.iter().rev() {
        show(message);
    }
    Ok(())
}

/// Shows what happens, until the connection ends for good.
async fn show_events(live: &Live, room: &Room, user: &str) -> Result<(), Box<dyn Error>> {
    let is_here = |room_id: &String| *room_id == room.room_id;
    let mut is_away = false;
    while let Some(event) = live.next().await {
        match event? {
            Event::Connected { user_id, .. } => {
                is_away = false;
                say(&format!("· connected as {user_id}"));
            }
            Event::Disconnected { .. } if is_away => {}
            Event::Disconnected { reason, .. } => {
                is_away = true;
                say(&format!("· {reason}; trying again until it works"));
            }
            Event::Message(message) if is_here(&message.room_id) => show(&message),
            Event::Edited(edited) if is_here(&edited.message.room_id) => {
                let message = edited.message;
                say(&format!("· {} edited {}: {}", message.sender_id, message.seq, plain(&message.content)));
            }
            Event::Deleted { room_id, seq, .. } if is_here(&room_id) => say(&format!("· {seq} was deleted")),
            Event::Typing { room_id, user_id, action: Typing::Start } if is_here(&room_id) => {
                say(&format!("· {user_id} is typing …"));
            }
            Event::Ack { room_id, user_id, seq, kind: ReceiptKind::Read } if is_here(&room_id) && user_id != user => {
                say(&format!("· {user_id} has read up to {seq}"));
            }
            Event::RoomDeleted { room_id } if is_here(&room_id) => return Err("the room was deleted".into()),
            _ => {}
        }
    }
    Ok(())
}

/// Sends each line that is typed, until there are no more.
async fn send_lines(live: &Live, room: &Room) -> Result<(), Box<dyn Error>> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        if line.trim().is_empty() {
            continue;
        }
        if let Err(error) = live.send(&room.room_id, line).await {
            say(&format!("· not sent: {error}"));
        }
    }
    Ok(())
}

fn show(message: &Message) {
    let clock = message.created_at.get(11..16).unwrap_or_default();
    let text = if message.deleted_at.is_some() { "(deleted)".to_owned() } else { plain(&message.content) };
    say(&format!("{:>4} {clock} {}: {text}", message.seq, message.sender_id));
}

/// Without what would steer the terminal.
fn plain(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() && letter != '\n' { '\u{fffd}' } else { letter }).collect()
}

/// Writes a line; if nobody reads it any more, that is no matter.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}
