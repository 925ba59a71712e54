//! 128 random bits that name a cluster or a data directory.

use std::fmt;

/// A random (version 4) UUID. The bits are handed in: nothing here draws them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Uuid([u8; 16]);

impl Uuid {
    /// A version 4 UUID of 16 random bytes.
    pub fn from_random(mut bytes: [u8; 16]) -> Uuid {
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        Uuid(bytes)
    }

    /// The UUID stored or sent as these bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Uuid {
        Uuid(bytes)
    }

    /// The bytes to store or send.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Whether all bits are zero, as in no uuid that was drawn.
    pub fn is_nil(&self) -> bool {
        self.0 == [0; 16]
    }

    /// Reads the form that `Display` prints; `None` for anything else.
    pub fn parse(text: &str) -> Option<Uuid> {
        let hyphens = [8, 13, 18, 23];
        if text.len() != 36 || !text.is_ascii() {
            return None;
        }
        let mut digits = Vec::with_capacity(32);
        for (at, byte) in text.bytes().enumerate() {
            match (hyphens.contains(&at), byte) {
                (true, b'-') => {}
                (false, byte) => digits.push((byte as char).to_digit(16)? as u8),
                (true, _) => return None,
            }
        }
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
        Some(Uuid(bytes))
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_prints_it_reads() {
        let uuid = Uuid::from_random(*b"0123456789abcdef");
        assert_eq!(uuid.to_string(), "30313233-3435-4637-b839-616263646566");
        assert_eq!(Uuid::parse(&uuid.to_string()), Some(uuid));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "30313233343546378b39616263646566", "30313233-3435-4637-b839-61626364656g"]
        {
            assert_eq!(Uuid::parse(text), None, "{text}");
        }
        assert_eq!(Uuid::parse("30313233-3435-4637-b839-6162636465é6"), None);
        assert_eq!(Uuid::parse("30313233+3435-4637-b839-616263646566"), None);
    }
}
