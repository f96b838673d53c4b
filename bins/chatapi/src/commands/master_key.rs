//! `chatapi hash-master-key`

use std::io::{IsTerminal, Read, stdin};

use chatapi_auth::hash_secret;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::output::Output;
use crate::config::{is_presentable, is_short};
use crate::failure::Failure;

/// Longer than any header a server takes.
const MAX_BYTES: u64 = 4096;

/// Prints the hash of the key on standard input.
pub(super) fn hash(output: Output) -> Result<(), Failure> {
    let key = read()?;
    if key.expose_secret().is_empty() {
        return Err(Failure::Usage(
            "there is no key on standard input; make one with: openssl rand -hex 32".to_owned(),
        ));
    }
    if !is_presentable(&key) {
        return Err(Failure::Usage("expected one line of visible ASCII characters: it comes in a header".to_owned()));
    }
    if is_short(&key) {
        tracing::warn!("The key has fewer than 32 characters; make one with: openssl rand -hex 32");
    }
    let hash = hash_secret(&key).map_err(|error| Failure::Refused(format!("the key cannot be hashed: {error}")))?;
    output.print(&json!({ "master_api_key_hash": hash }), || format!("{hash}\n"))
}

/// The key, without the end of its line; at a terminal it is not shown.
fn read() -> Result<SecretString, Failure> {
    let unreadable = |error| Failure::Usage(format!("standard input cannot be read: {error}"));
    if stdin().is_terminal() {
        return rpassword::prompt_password("Master key: ").map(SecretString::from).map_err(unreadable);
    }
    let mut text = String::new();
    stdin().lock().take(MAX_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let key = line.strip_suffix('\r').unwrap_or(line);
    if key.len() > 4096 {
        return Err(Failure::Usage(format!("expected at most {MAX_BYTES} characters")));
    }
    Ok(key.into())
}
