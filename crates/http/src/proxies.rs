//! Whose address counts.

use std::net::IpAddr;

use hyper::HeaderMap;
use ipnet::IpNet;

/// The address of whoever asks: the peer's, or, behind proxies we trust, the rightmost entry of
/// `X-Forwarded-For` that is not one of them.
pub(crate) fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(&address.to_canonical()));
    let mut client = peer;
    if !is_trusted(client) {
        return client;
    }
    // Several headers count as one list.
    let forwarded: Vec<&str> =
        headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok()).collect();
    for entry in forwarded.iter().rev().flat_map(|list| list.rsplit(',')) {
        let Ok(address) = entry.trim().parse() else { return client };
        client = address;
        if !is_trusted(client) {
            return client;
        }
    }
    client
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn only_trusted_proxies_may_say_who_asks() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().expect("a network")];
        let case = |peer: &str, forwarded: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in forwarded {
                headers.append("x-forwarded-for", HeaderValue::from_static(value));
            }
            client_address(peer.parse().expect("an address"), &headers, &trusted).to_string()
        };

        assert_eq!(case("192.0.2.1", &["198.51.100.7"]), "192.0.2.1", "a stranger's word does not count");
        assert_eq!(case("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(case("10.0.0.1", &["203.0.113.9, 198.51.100.7"]), "198.51.100.7", "what we did not see is a claim");
        assert_eq!(case("10.0.0.1", &["198.51.100.7, 10.0.0.2"]), "198.51.100.7");
        assert_eq!(case("10.0.0.1", &["198.51.100.7", "10.0.0.2"]), "198.51.100.7");
        assert_eq!(case("10.0.0.1", &["198.51.100.7, junk, 10.0.0.2"]), "10.0.0.2");
        assert_eq!(case("::ffff:10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
    }
}
