//! What a short-lived worker of its own is sent to do: the worker's main thread has no database
//! connection, and these need one. How it is told goes through shared memory as these bytes.

/// The most that one errand takes: its place in shared memory.
pub const ERRAND_BYTES_MAX: usize = 16 << 10;

/// One thing to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// ALTER SYSTEM SET.
    Set {
        /// Which setting.
        name: String,
        /// Its new value.
        value: String,
    },
    /// Makes every process of the server read its configuration again.
    Reload,
    /// Waits until the startup process has done so.
    Settle,
    /// A physical slot; one that is there is kept.
    MakeSlot {
        /// Its name.
        name: String,
        /// Whether it holds WAL back from now on.
        reserve: bool,
    },
    /// Drops a physical slot that nobody uses.
    DropSlot {
        /// Its name.
        name: String,
    },
}

impl Op {
    fn fields(&self) -> Vec<&str> {
        match self {
            Op::Set { name, value } => vec!["set", name, value],
            Op::Reload => vec!["reload"],
            Op::Settle => vec!["settle"],
            Op::MakeSlot { name, reserve: true } => vec!["reserve", name],
            Op::MakeSlot { name, reserve: false } => vec!["make", name],
            Op::DropSlot { name } => vec!["drop", name],
        }
    }

    fn take<'a>(mut next: impl FnMut() -> Option<&'a str>) -> Option<Op> {
        let kind = next()?;
        let mut own = || next().map(str::to_owned);
        Some(match kind {
            "set" => Op::Set { name: own()?, value: own()? },
            "reload" => Op::Reload,
            "settle" => Op::Settle,
            "reserve" => Op::MakeSlot { name: own()?, reserve: true },
            "make" => Op::MakeSlot { name: own()?, reserve: false },
            "drop" => Op::DropSlot { name: own()? },
            _ => return None,
        })
    }
}

/// To bytes: fields that each end with a zero. `None`: too long, or a field has a zero in it.
pub fn encode(ops: &[Op]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for field in ops.iter().flat_map(Op::fields) {
        if field.contains('\0') {
            return None;
        }
        bytes.extend(field.as_bytes());
        bytes.push(0);
    }
    (bytes.len() <= ERRAND_BYTES_MAX).then_some(bytes)
}

/// Back from bytes. `None`: they are something else.
pub fn decode(bytes: &[u8]) -> Option<Vec<Op>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut fields = match text.strip_suffix('\0') {
        Some(text) => text.split('\0'),
        None if text.is_empty() => return Some(Vec::new()),
        None => return None,
    };
    let mut ops = Vec::new();
    loop {
        let mut first = fields.clone();
        if first.next().is_none() {
            return Some(ops);
        }
        ops.push(Op::take(|| fields.next())?);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_sent_arrives() {
        let name = || "pgraft_2".to_owned();
        let ops = vec![
            Op::DropSlot { name: name() },
            Op::MakeSlot { name: name(), reserve: true },
            Op::MakeSlot { name: name(), reserve: false },
            Op::Set { name: "primary_conninfo".to_owned(), value: String::new() },
            Op::Set { name: "x".to_owned(), value: "a 'quoted' \\ värde".to_owned() },
            Op::Reload,
            Op::Settle,
        ];
        assert_eq!(decode(&encode(&ops).unwrap()), Some(ops));
        assert_eq!(decode(&encode(&[]).unwrap()), Some(vec![]));
    }

    #[test]
    fn what_does_not_fit_is_not_sent() {
        let set = |value: &str| [Op::Set { name: "n".to_owned(), value: value.to_owned() }];
        assert_eq!(encode(&set("a\0b")), None);
        assert_eq!(encode(&set(&"x".repeat(ERRAND_BYTES_MAX))), None);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode(&bytes);
        }
    }
}
