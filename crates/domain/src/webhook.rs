//! Webhooks: what a tenant's endpoint can be told of, and where it may be.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use url::{Host, Url};

use crate::Invalid;

/// What a tenant's endpoint can be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WebhookEvent {
    /// A message, for members who are offline.
    MessageNew,
    /// A message, whoever is online.
    MessageSent,
    /// A message was edited.
    MessageEdited,
    /// A message was deleted.
    MessageDeleted,
    /// A room was made.
    RoomCreated,
    /// A room's name or metadata changed.
    RoomUpdated,
    /// A room is gone.
    RoomDeleted,
    /// Users became members of a room.
    MemberAdded,
    /// A user is no member of a room any more.
    MemberRemoved,
    /// A user came online.
    PresenceOnline,
    /// A user went offline.
    PresenceOffline,
}

impl WebhookEvent {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::MessageNew,
        Self::MessageSent,
        Self::MessageEdited,
        Self::MessageDeleted,
        Self::RoomCreated,
        Self::RoomUpdated,
        Self::RoomDeleted,
        Self::MemberAdded,
        Self::MemberRemoved,
        Self::PresenceOnline,
        Self::PresenceOffline,
    ];

    /// The word in SQL and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MessageNew => "message.new",
            Self::MessageSent => "message.sent",
            Self::MessageEdited => "message.edited",
            Self::MessageDeleted => "message.deleted",
            Self::RoomCreated => "room.created",
            Self::RoomUpdated => "room.updated",
            Self::RoomDeleted => "room.deleted",
            Self::MemberAdded => "member.added",
            Self::MemberRemoved => "member.removed",
            Self::PresenceOnline => "presence.online",
            Self::PresenceOffline => "presence.offline",
        }
    }

    /// The event of this word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.as_str() == word)
    }
}

/// A set of events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WebhookEvents(u16);

impl WebhookEvents {
    /// No event.
    pub const NONE: Self = Self(0);

    /// Whether this event is among them.
    #[must_use]
    pub const fn contains(self, event: WebhookEvent) -> bool {
        self.0 & Self::bit(event) != 0
    }

    const fn bit(event: WebhookEvent) -> u16 {
        1 << event as u16
    }
}

impl FromIterator<WebhookEvent> for WebhookEvents {
    fn from_iter<I: IntoIterator<Item = WebhookEvent>>(events: I) -> Self {
        Self(events.into_iter().fold(0, |set, event| set | Self::bit(event)))
    }
}

/// Checks where an endpoint is to be: https, and not at an address that is plainly private. What a
/// name stands for is known only when it is connected to. `anywhere`, for development, lets plain
/// http and every address pass.
///
/// # Errors
///
/// [`Invalid`] for `config.webhook_url` if it may not be there.
pub fn check_webhook_url(text: &str, anywhere: bool) -> Result<Url, Invalid> {
    let wrong = |reason: &str| Invalid::new("config.webhook_url", reason);
    // The parser would drop control characters; the database cannot keep U+0000.
    let plain = text.len() <= 2048 && !text.contains(char::is_control);
    let expected = if anywhere { "expected an http or https URL" } else { "expected an https URL" };
    let url = if plain { Url::parse(text).ok() } else { None }.ok_or_else(|| wrong(expected))?;
    let scheme_fits = url.scheme() == "https" || (anywhere && url.scheme() == "http");
    if !scheme_fits || !url.has_host() {
        return Err(wrong(expected));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("expected no user or password in the URL: the signature says who calls"));
    }
    let private = match url.host() {
        Some(Host::Ipv4(address)) => !is_public(address.into()),
        Some(Host::Ipv6(address)) => !is_public(address.into()),
        Some(Host::Domain(name)) => {
            let name = name.strip_suffix('.').unwrap_or(name);
            name == "localhost" || name.ends_with(".localhost")
        }
        None => true,
    };
    if private && !anywhere { Err(wrong("expected a public address")) } else { Ok(url) }
}

/// The bytes of a secret that signs: behind `whsec_` they are written as base64, else they are the
/// text itself. None if that base64 is none, or empty.
#[must_use]
pub fn secret_bytes(text: &str) -> Option<Vec<u8>> {
    match text.strip_prefix("whsec_") {
        Some(encoded) => STANDARD.decode(encoded).ok().filter(|bytes| !bytes.is_empty()),
        None => Some(text.as_bytes().to_vec()),
    }
}

/// Whether an address can be anybody's on the internet, and is nobody's inside this network: not
/// private, shared, local, reserved, nor a form of writing such a one (IANA special-purpose
/// registries, RFC 6890 and those that update it).
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || a == 0
        || (a == 100 && b & 0xc0 == 64) // shared by carriers
        || (a == 192 && b == 0 && c == 0) // protocol assignments
        || (a == 192 && b == 88 && c == 99) // 6to4 relays
        || (a == 198 && b & 0xfe == 18) // benchmarks
        || a >= 224; // multicast, reserved, broadcast
    !special
}

/// Only what is given out as global unicast, without the parts of it that lead elsewhere.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    let global = a & 0xe000 == 0x2000;
    let special = match a {
        // Protocol assignments (Teredo, ORCHID), documentation.
        0x2001 => b < 0x0200 || b == 0x0db8,
        // 6to4: an IPv4 address inside.
        0x2002 => true,
        // Documentation.
        0x3fff => b < 0x1000,
        _ => false,
    };
    global && !special
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in_and_nothing_else() {
        for event in WebhookEvent::ALL {
            let set: WebhookEvents = [event].into_iter().collect();
            for other in WebhookEvent::ALL {
                assert_eq!(set.contains(other), event == other);
            }
            assert!(!WebhookEvents::NONE.contains(event));
            assert_eq!(WebhookEvent::from_word(event.as_str()), Some(event));
        }
    }

    #[test]
    fn only_addresses_of_the_internet_are_public() {
        let public = ["1.1.1.1", "100.63.255.255", "172.32.0.1", "223.255.255.255", "2606:4700::1111", "2001:200::1"];
        let private = [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.8.8.8",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "::7f00:1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "3fff::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ];

        for text in public {
            assert!(is_public(text.parse().expect("an address")), "{text}");
        }
        for text in private {
            assert!(!is_public(text.parse().expect("an address")), "{text}");
        }
    }

    #[test]
    fn an_endpoint_is_public_unless_it_may_be_anywhere() {
        let refused = [
            ("http://a.example/hook", "expected an https URL"),
            ("ftp://a.example", "expected an https URL"),
            ("a.example", "expected an https URL"),
            ("https://a.example/\0", "expected an https URL"),
            ("https://u:p@a.example", "expected no user or password in the URL: the signature says who calls"),
            ("https://localhost:8443/", "expected a public address"),
            ("https://LOCALHOST./", "expected a public address"),
            ("https://127.1/", "expected a public address"),
            ("https://0x7f000001/", "expected a public address"),
            ("https://2130706433/", "expected a public address"),
            ("https://[::1]/", "expected a public address"),
            ("https://[::ffff:a00:1]/", "expected a public address"),
            ("https://169.254.169.254/latest", "expected a public address"),
        ];
        for (text, reason) in refused {
            let error = check_webhook_url(text, false).expect_err(text);
            assert_eq!((error.field.as_str(), error.reason.as_str()), ("config.webhook_url", reason), "{text}");
        }
        assert!(check_webhook_url("https://hooks.a.example:8443/in?x=1", false).is_ok());
        assert!(check_webhook_url("http://127.0.0.1:9000/", true).is_ok());
        assert!(check_webhook_url("ftp://127.0.0.1/", true).is_err());
    }
}
