//! The checks that the ordinary tests make, one fuzz target each.

#[path = "../../tests/decoders/allocation.rs"]
pub mod allocation;
#[path = "../../tests/decoders/checks.rs"]
pub mod checks;

pub use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: allocation::Counting = allocation::Counting;

/// Checks one input of the target of this name.
pub fn check(target: &str, bytes: &[u8]) {
    let (_, check) = checks::TARGETS.iter().find(|(name, _)| *name == target).expect("a target");
    check(bytes);
}

/// The whole of a target's program.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| $crate::check($name, bytes));
    };
}
