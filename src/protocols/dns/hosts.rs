//! The addresses of a name in hosts(5).

use std::net::IpAddr;

/// The addresses that `text`, the text of `/etc/hosts`, has for `host`. Lines that are no entries are passed over.
pub(crate) fn find(text: &str, host: &str) -> Vec<IpAddr> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let entry = |line: &str| {
        let line = line.split_once('#').map_or(line, |(entry, _)| entry);
        let mut words = line.split_whitespace();
        let address = words.next()?.parse::<IpAddr>().ok()?;
        words.any(|name| name.eq_ignore_ascii_case(host)).then_some(address)
    };
    text.lines().filter_map(entry).collect()
}
