//! Whether a Postgres answers at an address, without logging in: an SSLRequest, which a postmaster
//! answers with one byte in every state but hung (Postgres documentation, "Message Flow").

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use crate::cluster::Address;

/// The length of the message and its code, 1234 and 5679 in 16 bits each.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Whether a Postgres answers at `address` within `limit`. Blocks as long.
pub fn postgres_answers(address: &Address, limit: Duration) -> bool {
    let until = Instant::now() + limit;
    let Ok(targets) = (address.host(), address.port()).to_socket_addrs() else { return false };
    targets.into_iter().any(|target| {
        let left = || until.saturating_duration_since(Instant::now());
        // A limit of zero would be none.
        let Some(limit) = Some(left()).filter(|left| !left.is_zero()) else { return false };
        let Ok(mut socket) = TcpStream::connect_timeout(&target, limit) else { return false };
        let Some(limit) = Some(left()).filter(|left| !left.is_zero()) else { return false };
        let timed = socket
            .set_read_timeout(Some(limit))
            .and_then(|()| socket.set_write_timeout(Some(limit)))
            .and_then(|()| socket.write_all(&SSL_REQUEST));
        let mut answer = [0; 1];
        // 'S' or 'N'; 'E' begins an error message, which is an answer, too.
        timed.and_then(|()| socket.read_exact(&mut answer)).is_ok()
            && matches!(answer, [b'S' | b'N' | b'E'])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    const LIMIT: Duration = Duration::from_millis(200);

    fn address(listener: &TcpListener) -> Address {
        Address::new("127.0.0.1", listener.local_addr().unwrap().port()).unwrap()
    }

    #[test]
    fn one_that_answers_is_told_from_silent_closed_and_other_ones() {
        for (reply, answers) in [(&b"N"[..], true), (b"S", true), (b"E", true), (b"H", false)] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let asked = address(&listener);
            let server = std::thread::spawn(move || {
                let (mut socket, _) = listener.accept().unwrap();
                let mut request = [0; 8];
                socket.read_exact(&mut request).unwrap();
                assert_eq!(request, SSL_REQUEST);
                socket.write_all(reply).unwrap();
            });
            assert_eq!(postgres_answers(&asked, Duration::from_secs(10)), answers, "{reply:?}");
            server.join().unwrap();
        }
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let asked = address(&silent);
        assert!(!postgres_answers(&asked, LIMIT), "it accepts and says nothing");
        drop(silent);
        assert!(!postgres_answers(&asked, LIMIT), "nobody listens");
    }
}
