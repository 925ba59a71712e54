//! Every way in for bytes and text from outside holds against whatever comes: the checks that the
//! fuzz targets run, on the committed corpus, on what fuzzing found, and on mutations of both.

mod allocation;
mod checks;
mod seeds;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use checks::TARGETS;
use pgraft::http::{Limits, read_head};
use pgraft::storage::testing::Random;

#[global_allocator]
static ALLOCATOR: allocation::Counting = allocation::Counting;

/// Set to anything, the corpus is written first: `make corpus`.
const WRITE: &str = "PGRAFT_WRITE_CORPUS";
/// Of each seed.
const MUTATIONS: u64 = 2000;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
}

/// The files below a folder of `fuzz/`, by target and name.
fn files(kind: &str) -> BTreeMap<(String, String), Vec<u8>> {
    let mut files = BTreeMap::new();
    for target in fs::read_dir(folder(kind)).into_iter().flatten().flatten() {
        for file in fs::read_dir(target.path()).expect("a folder").flatten() {
            let name = |path: &fs::DirEntry| path.file_name().into_string().expect("UTF-8");
            files.insert((name(&target), name(&file)), fs::read(file.path()).expect("readable"));
        }
    }
    files
}

fn check(target: &str, bytes: &[u8]) {
    let known = TARGETS.iter().find(|(name, _)| *name == target);
    known.unwrap_or_else(|| panic!("there is no target \"{target}\"")).1(bytes);
}

/// A seed of each kind that the generator makes, and each of them read with success: so the corpus
/// is of the formats as they are, byte for byte the generator's or not.
#[test]
fn the_committed_corpus_is_of_the_formats_as_they_are() {
    let seeds = seeds::seeds();
    if std::env::var_os(WRITE).is_some() {
        let _ = fs::remove_dir_all(folder("corpus")); // there may be none yet
        for ((target, name), bytes) in &seeds {
            let target = folder("corpus").join(target);
            fs::create_dir_all(&target).expect("a folder");
            fs::write(target.join(name), bytes).expect("written");
        }
    }
    let wanted = seeds.keys().map(|(target, name)| ((*target).to_owned(), name.clone()));
    let wanted: BTreeSet<(String, String)> = wanted.collect();
    let found = files("corpus");
    let names: BTreeSet<_> = found.keys().cloned().collect();
    let refused = found.iter().filter(|((target, _), bytes)| !accepts(target, bytes));
    let refused = refused.map(|(name, _)| name.clone()).collect();
    let wrong: BTreeSet<_> = wanted.symmetric_difference(&names).cloned().collect();
    let wrong: Vec<_> = wrong.union(&refused).collect();
    assert!(wrong.is_empty(), "run \"make corpus\" and commit what it writes: {wrong:?}");
}

#[test]
fn every_target_has_seeds_and_a_program() {
    let seeds = seeds::seeds();
    for (target, _) in TARGETS {
        assert!(seeds.keys().any(|(of, _)| *of == target), "no seed for \"{target}\"");
        let program = folder("fuzz_targets").join(format!("{target}.rs"));
        assert!(program.exists(), "there is no {}", program.display());
    }
}

#[test]
fn the_corpus_and_what_fuzzing_found_hold() {
    for kind in ["corpus", "regressions"] {
        for ((target, name), bytes) in files(kind) {
            println!("{kind}/{target}/{name}");
            check(&target, &bytes);
        }
    }
}

/// Whether an input gets past the first refusal, where that can be told.
fn accepts(target: &str, bytes: &[u8]) -> bool {
    use pgraft::wire::*;
    match target {
        "packet" => decode_packet(bytes).is_ok(),
        "state" => decode_state(bytes).is_ok(),
        "handshake" => decode_hello(bytes).is_ok() || decode_hello_answer(bytes).is_ok(),
        "request" => decode_request(bytes).is_ok() || decode_answer(bytes).is_ok(),
        "command" => checks::pieces(bytes).into_iter().all(|piece| decode_command(piece).is_ok()),
        "http" => read_head(bytes, &Limits::default()).is_ok_and(|head| head.is_some()),
        "record" | "segment" | "snapshot" => checks::opens(target, bytes),
        _ => true,
    }
}

#[test]
fn seeds_are_accepted() {
    for ((target, name), bytes) in seeds::seeds() {
        assert!(accepts(target, &bytes), "{target}/{name}");
    }
}

/// One change or several: a byte, a bit, an extreme number, a piece cut out or doubled.
fn mutated(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(3) {
        let at = |random: &mut Random, len: usize| random.below(len as u64 + 1) as usize;
        let (start, end) = (at(random, bytes.len()), at(random, bytes.len()));
        let range = start.min(end)..start.max(end);
        match random.below(6) {
            0 if start < bytes.len() => bytes[start] = random.number() as u8,
            1 if start < bytes.len() => bytes[start] ^= 1 << random.below(8),
            2 => {
                let extreme = [0, 1, 0x7f, 0xff][random.below(4) as usize];
                let len = 1 << random.below(4);
                bytes[start..].iter_mut().take(len).for_each(|byte| *byte = extreme);
            }
            3 => bytes.truncate(start),
            4 => drop(bytes.drain(range)),
            _ => {
                let piece: Vec<u8> = bytes[range].iter().copied().take(64).collect();
                let to = at(random, bytes.len());
                bytes.splice(to..to, piece);
            }
        }
    }
    bytes
}

#[test]
fn mutations_of_every_seed_hold() {
    for ((target, name), seed) in seeds::seeds() {
        for number in 0..MUTATIONS {
            let bytes = mutated(&seed, &mut Random::new(number));
            let held = std::panic::catch_unwind(|| check(target, &bytes));
            assert!(held.is_ok(), "{target}/{name}, mutation {number}: {bytes:?}");
        }
    }
}

#[test]
fn the_allocator_counts() {
    let (vector, held) = allocation::peak_of(|| Vec::<u8>::with_capacity(1000));
    assert!((1000..1100).contains(&held), "{held}");
    let (_, held) = allocation::peak_of(|| drop(vector));
    assert_eq!(held, 0);
}
