//! What is said over a socket, and what waits for its answer.

use std::collections::BTreeMap;

use secrecy::SecretString;
use tokio::sync::oneshot;

use crate::{Error, Result};

/// Commands that wait for answers at once; more wait their turn.
const MAX_PENDING: usize = 256;

/// What an answer means for the connection.
pub(crate) enum Effect {
    /// Nothing.
    None,
    /// It holds the message that was sent.
    Send,
    /// Nothing, and the command does not outlive its connection.
    Fleeting,
    /// Events of this room will come.
    Subscribe(String),
    /// Events of this room will not come.
    Unsubscribe(String),
    /// This token is good, or is not.
    Refresh(SecretString),
}

/// A command of the user.
pub(crate) struct Command {
    pub(crate) id: u64,
    /// The frame, written already.
    pub(crate) text: String,
    pub(crate) effect: Effect,
    pub(crate) reply: oneshot::Sender<Result<String>>,
}

/// The `request_id` of a user's command.
pub(crate) fn request_id(id: u64) -> String {
    format!("c{id}")
}

/// The user's command that a `request_id` belongs to.
pub(crate) fn command_id(request_id: &str) -> Option<u64> {
    request_id.strip_prefix('c')?.parse().ok()
}

/// Commands without an answer yet, in the order in which they were given.
#[derive(Default)]
pub(crate) struct Pending(BTreeMap<u64, Command>);

impl Pending {
    pub(crate) fn has_room(&self) -> bool {
        self.0.len() < MAX_PENDING
    }

    pub(crate) fn insert(&mut self, command: Command) {
        self.0.insert(command.id, command);
    }

    pub(crate) fn remove(&mut self, id: u64) -> Option<Command> {
        self.0.remove(&id)
    }

    /// The connection broke: what does not keep fails.
    pub(crate) fn interrupted(&mut self) {
        let fleeting = self.0.extract_if(.., |_, command| matches!(command.effect, Effect::Fleeting));
        for (_, command) in fleeting {
            // Whoever gave it may be gone.
            let _ = command.reply.send(Err(Error::Disconnected));
        }
    }

    /// What is to be said again over a new connection: all that somebody still waits for.
    pub(crate) fn again(&mut self) -> Vec<String> {
        self.0.retain(|_, command| !command.reply.is_closed());
        self.0.values().map(|command| command.text.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(id: u64, effect: Effect) -> (Command, oneshot::Receiver<Result<String>>) {
        let (reply, answer) = oneshot::channel();
        (Command { id, text: id.to_string(), effect, reply }, answer)
    }

    #[test]
    fn a_broken_connection_fails_what_is_fleeting_and_repeats_in_order_what_is_awaited() {
        let mut pending = Pending::default();
        let (first, _first) = command(1, Effect::Send);
        let (typing, mut fleeting) = command(2, Effect::Fleeting);
        let (given_up, _) = command(3, Effect::Send);
        let (last, _last) = command(10, Effect::None);
        for command in [last, given_up, typing, first] {
            pending.insert(command);
        }

        pending.interrupted();

        assert!(matches!(fleeting.try_recv(), Ok(Err(Error::Disconnected))));
        assert_eq!(pending.again(), ["1", "10"]);
    }

    #[test]
    fn an_answer_finds_its_command() {
        assert_eq!(command_id(&request_id(7)), Some(7));
        assert_eq!(command_id("s7"), None);
    }
}
