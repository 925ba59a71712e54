//! Files cut short, changed, missing: the log is a beginning of what was written, or refused with
//! the file and the offset, but never something else.

use super::super::segment::Header;
use super::*;

/// The offsets at which the records of a file begin, and its end.
fn boundaries(file: &[u8]) -> Vec<usize> {
    let mut offsets = vec![0];
    while *offsets.last().unwrap() < file.len() {
        let at = *offsets.last().unwrap();
        let length = u32::from_be_bytes(file[at..at + 4].try_into().unwrap());
        offsets.push(at + 8 + length as usize);
    }
    offsets
}

fn last_file(disk: &MemDisk) -> (String, Vec<u8>) {
    let name = disk.names().pop().unwrap();
    let bytes = disk.with_file(&name, |bytes| bytes.clone());
    (name, bytes)
}

fn damaged_at(error: &StorageError) -> (String, u64) {
    match error {
        StorageError::Damaged { path, offset, .. } => {
            (path.strip_prefix("/memory").unwrap().to_string_lossy().into_owned(), *offset)
        }
        error => panic!("not damage: {error}"),
    }
}

#[test]
fn a_log_cut_at_any_byte_is_what_was_written_before() {
    let (full, states) = written();
    let (name, bytes) = last_file(&full);
    let boundaries = boundaries(&bytes);
    for cut in 0..bytes.len() {
        let (disk, _) = written();
        disk.with_file(&name, |bytes| bytes.truncate(cut));
        let (mut storage, recovered) = open(&disk).unwrap();
        let whole = boundaries.iter().filter(|at| **at > 0 && **at <= cut).count().max(1);
        let lost = boundaries.len() - 1 - whole;
        assert_eq!(state(&recovered), states[states.len() - 1 - lost], "cut at {cut}");
        let torn = !boundaries.contains(&cut);
        assert_eq!(recovered.torn.is_some(), torn, "cut at {cut}");
        // And it can be written to.
        let next = recovered.entries.len() as u64 + 1;
        storage.save(None, &[entry(4, next, 3)], true).unwrap();
        assert_eq!(open(&disk).unwrap().1.entries.len() as u64, next, "cut at {cut}");
    }
}

#[test]
fn a_changed_byte_is_refused_with_its_record_or_lies_in_the_last_one() {
    let (full, states) = written();
    let names = full.names();
    for name in &names {
        let bytes = full.with_file(name, |bytes| bytes.clone());
        let boundaries = boundaries(&bytes);
        for at in 0..bytes.len() {
            for flip in [0x01, 0x80, 0xff] {
                let (disk, _) = written();
                disk.with_file(name, |bytes| bytes[at] ^= flip);
                let record = *boundaries.iter().rfind(|start| **start <= at).unwrap();
                let last_record = boundaries[boundaries.len() - 2];
                match open(&disk) {
                    Ok((_, recovered)) => {
                        assert_eq!(Some(name), names.last(), "byte {at} of {name}");
                        assert_eq!(record, last_record, "byte {at} of {name}");
                        assert_eq!(state(&recovered), states[states.len() - 2]);
                        let torn = recovered.torn.expect("the record is cut off");
                        assert_eq!(torn.offset, record as u64);
                    }
                    Err(error) => {
                        assert_eq!(damaged_at(&error), (name.clone(), record as u64));
                    }
                }
            }
        }
    }
}

#[test]
fn zeros_at_the_end_are_a_torn_write() {
    for zeros in [1, 7, 8, 13, 512, 5000] {
        let (disk, states) = written();
        let (name, bytes) = last_file(&disk);
        disk.with_file(&name, |bytes| bytes.resize(bytes.len() + zeros, 0));
        let (_, recovered) = open(&disk).unwrap();
        assert_eq!(&state(&recovered), states.last().unwrap());
        let torn = recovered.torn.unwrap();
        assert_eq!((torn.offset, torn.bytes), (bytes.len() as u64, zeros as u64));
        assert_eq!(last_file(&disk).1, bytes, "the zeros are gone");
    }
}

#[test]
fn a_segment_before_the_last_is_neither_torn_nor_short() {
    let (full, _) = written();
    let first = full.names()[0].clone();
    let bytes = full.with_file(&first, |bytes| bytes.clone());
    for at in boundaries(&bytes).iter().rev().skip(1) {
        let (disk, _) = written();
        disk.with_file(&first, |bytes| bytes[*at..].fill(0));
        assert_eq!(damaged_at(&open(&disk).unwrap_err()), (first.clone(), *at as u64));
        disk.with_file(&first, |bytes| bytes.truncate(*at));
        damaged_at(&open(&disk).unwrap_err());
    }
}

#[test]
fn a_missing_segment_is_damage() {
    let (disk, _) = written();
    let first = disk.names()[0].clone();
    disk.remove_file(&first);
    let error = open(&disk).unwrap_err().to_string();
    assert!(error.contains("segment 1 is missing"), "{error}");
}

#[test]
fn a_segment_in_another_ones_place_is_damage() {
    let (disk, _) = written();
    let names = disk.names();
    let second = disk.with_file(&names[1], |bytes| bytes.clone());
    disk.with_file(&names[0], |bytes| *bytes = second);
    assert_eq!(damaged_at(&open(&disk).unwrap_err()), (names[0].clone(), 0));
}

#[test]
fn other_files_in_the_directory_are_left_alone() {
    let (disk, states) = written();
    for name in ["log/core", "log/0000000009.log.bak", "log/9.log", "log/lost+found"] {
        disk.with_file(name, |bytes| bytes.extend(b"whatever"));
    }
    assert_eq!(&state(&open(&disk).unwrap().1), states.last().unwrap());
}

/// Records that are whole but cannot follow one another were not written by a sound node, and a
/// node that is asked to write them refuses before it has written anything.
#[test]
fn batches_that_contradict_one_another_are_neither_written_nor_read() {
    type Batch = (Option<HardState>, Vec<Entry>);
    let cases: [(&str, EntryId, Batch); 7] = [
        ("entry 4 follows entry 2", id(2, 3), (None, vec![entry(2, 4, 1)])),
        ("entry 4 follows entry 2", id(2, 2), (None, vec![entry(2, 4, 1)])),
        ("entry 5 follows entry 3", id(2, 2), (None, vec![entry(2, 3, 1), entry(2, 5, 1)])),
        ("entry 3 of term 1 follows one of term 2", id(2, 2), (None, vec![entry(1, 3, 1)])),
        ("term 1 follows term 2", id(2, 2), (Some(hard_state(1, 0, 1)), vec![])),
        ("the vote changes within term 2", id(2, 2), (Some(hard_state(2, 3, 1)), vec![])),
        ("committed entry 1 is replaced", id(0, 0), (None, vec![entry(2, 1, 1)])),
    ];
    let begun = || {
        let disk = MemDisk::new();
        let (mut storage, _) = open(&disk).unwrap();
        let first = [entry(2, 1, 1), entry(2, 2, 1)];
        storage.save(Some(&hard_state(2, 1, 1)), &first, true).unwrap();
        (disk, storage)
    };
    for (what, prev, (then, entries)) in cases {
        let (disk, mut storage) = begun();
        let before = last_file(&disk).1;
        let error = storage.save(then.as_ref(), &entries, true).unwrap_err();
        assert!(matches!(error, StorageError::Unfit(_)), "{what}: {error}");
        assert!(error.to_string().contains(what), "{what}: {error}");
        assert_eq!(last_file(&disk).1, before, "{what}");
        assert!(storage.save(None, &[], true).is_err(), "and nothing more after it");

        refuses_to_read(what, &begun().0, segment::encode(prev, then.as_ref(), &entries).0);
    }
    let (disk, _) = begun();
    refuses_to_read("entry 3 follows entry 2 of term 1, not entry 2 of term 2", &disk, {
        segment::encode(id(1, 2), None, &[entry(2, 3, 1)]).0
    });
    let (disk, _) = begun();
    let what = "the log should end with entry 1 of term 2 here";
    refuses_to_read(what, &disk, segment::encode(id(2, 1), None, &[]).0);
}

fn refuses_to_read(what: &str, disk: &MemDisk, record: Vec<u8>) {
    let (name, bytes) = last_file(disk);
    disk.with_file(&name, |bytes| bytes.extend(record));
    let error = open(disk).unwrap_err();
    assert_eq!(damaged_at(&error), (name, bytes.len() as u64), "{what}");
    assert!(error.to_string().contains(what), "{what}: {error}");
}

/// The same for the header of a segment.
#[test]
fn a_segment_that_contradicts_the_one_before_it_is_damage() {
    let sound = |bytes_before| Header {
        number: 2,
        bytes_before,
        begins: false,
        start: id(2, 2),
        hard_state: hard_state(2, 1, 1),
    };
    type Change = fn(&mut Header);
    let cases: [(&str, Change); 7] = [
        ("this is segment 3, not 2", |header| header.number = 3),
        ("the segment before it has", |header| header.bytes_before += 1),
        ("it does not follow the segment before it", |header| header.start = id(2, 3)),
        ("it does not follow the segment before it", |header| header.hard_state.commit.0 += 1),
        ("committed entry 1 is dropped", |header| (header.begins, header.start) = (true, id(0, 0))),
        ("term 1 follows term 2", |header| {
            *header = Header { begins: true, hard_state: hard_state(1, 1, 1), ..*header }
        }),
        ("begins behind entry 9, but the snapshot ends at 0", |header| {
            (header.begins, header.start) = (true, id(2, 9));
        }),
    ];
    for (what, change) in cases {
        let disk = MemDisk::new();
        let (mut storage, _) = open(&disk).unwrap();
        let first = [entry(2, 1, 1), entry(2, 2, 1)];
        storage.save(Some(&hard_state(2, 1, 1)), &first, true).unwrap();
        let mut header = sound(storage.bytes());
        disk.with_file("log/0000000002.log", |bytes| *bytes = segment::header(&header));
        assert_eq!(open(&disk.fork()).unwrap().1.entries, first, "the sound one is taken");
        change(&mut header);
        disk.with_file("log/0000000002.log", |bytes| *bytes = segment::header(&header));
        let error = open(&disk).unwrap_err().to_string();
        assert!(error.contains("damaged at offset 0") && error.contains(what), "{what}: {error}");
    }
}
