//! `host:port`, as people write it in SQL and in pgraft.conf.

use std::fmt;

/// Where a node listens. The host is a name or an address and is resolved only when dialled.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Address {
    host: String,
    port: u16,
}

/// The longest host name that DNS allows.
pub const HOST_BYTES_MAX: usize = 253;

/// Why a text is no address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AddressError {
    /// There is no `:port` at its end.
    PortMissing,
    /// The port is not a number from 1 to 65535.
    PortInvalid,
    /// The host is empty, too long, or holds a character that no host name has.
    HostInvalid,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AddressError::PortMissing => f.write_str("the port is missing"),
            AddressError::PortInvalid => f.write_str("the port must be a number from 1 to 65535"),
            AddressError::HostInvalid => write!(
                f,
                "the host must be a name or an IP address of at most {HOST_BYTES_MAX} characters"
            ),
        }
    }
}

impl std::error::Error for AddressError {}

impl Address {
    /// An address of parts; an IPv6 host comes without brackets.
    pub fn new(host: &str, port: u16) -> Result<Address, AddressError> {
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
        if host.is_empty() || host.len() > HOST_BYTES_MAX || !host.chars().all(known) {
            return Err(AddressError::HostInvalid);
        }
        if port == 0 {
            return Err(AddressError::PortInvalid);
        }
        Ok(Address { host: host.to_owned(), port })
    }

    /// Reads `host:port` or `[v6]:port`.
    pub fn parse(text: &str) -> Result<Address, AddressError> {
        let (host, port) = text.trim().rsplit_once(':').ok_or(AddressError::PortMissing)?;
        if !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(AddressError::PortInvalid);
        }
        let port = port.parse().map_err(|_| AddressError::PortInvalid)?;
        let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(v6) => v6,
            // Without brackets the last colon could be the address's own.
            None if host.contains(':') => return Err(AddressError::HostInvalid),
            None => host,
        };
        Address::new(host, port)
    }

    /// The host, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_prints_it_reads() {
        for text in ["localhost:7401", "10.0.0.1:1", "[::1]:65535", "db-1.example.net:7400"] {
            assert_eq!(Address::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn bad_addresses_say_what_is_wrong() {
        for (text, error) in [
            ("", AddressError::PortMissing),
            ("localhost", AddressError::PortMissing),
            ("localhost:", AddressError::PortInvalid),
            ("localhost:0", AddressError::PortInvalid),
            ("localhost:+1", AddressError::PortInvalid),
            ("localhost:65536", AddressError::PortInvalid),
            (":7400", AddressError::HostInvalid),
            ("::1:7400", AddressError::HostInvalid),
            ("a b:7400", AddressError::HostInvalid),
            ("'; DROP TABLE x; --:7400", AddressError::HostInvalid),
            ("höst:7400", AddressError::HostInvalid),
        ] {
            assert_eq!(Address::parse(text), Err(error), "{text}");
        }
        assert_eq!(
            Address::parse(&format!("{}:1", "a".repeat(10_000))),
            Err(AddressError::HostInvalid)
        );
    }
}
