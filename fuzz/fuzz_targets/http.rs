//! See `checks.rs` in `tests/decoders`.
#![no_main]

pgraft_fuzz::target!("http");
