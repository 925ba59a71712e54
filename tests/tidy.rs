//! The rules of the code that a machine can check. Each test names the rule it keeps.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// One file of the project: its path from the top, and its text.
struct Source {
    path: String,
    text: String,
}

/// Every Rust file below a folder of the project.
fn sources(folder: &str) -> Vec<Source> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut open = vec![top.join(folder)];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("a readable folder");
            open.extend(entries.map(|entry| entry.expect("a readable entry").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let below = path.strip_prefix(top).expect("a path below the top");
            let text = fs::read_to_string(&path).expect("UTF-8");
            found.push(Source { path: below.display().to_string(), text });
        }
    }
    assert!(!found.is_empty(), "no source in {folder}");
    found
}

impl Source {
    /// The lines that are code, with their numbers: comments are cut off, and string literals
    /// emptied, as far as they do not span lines.
    fn code(&self) -> impl Iterator<Item = (usize, String)> {
        self.text.lines().enumerate().map(|(number, line)| (number + 1, without_text(line)))
    }

    fn is_below(&self, folders: &[&str]) -> bool {
        folders.iter().any(|folder| self.path.starts_with(folder))
    }

    fn is_test(&self) -> bool {
        self.path.contains("/tests/") || self.path.ends_with("tests.rs")
    }
}

/// A line without its comment and without what is between quotes.
fn without_text(line: &str) -> String {
    let mut code = String::new();
    let mut characters = line.chars().peekable();
    let mut in_string = false;
    while let Some(character) = characters.next() {
        match character {
            '\\' if in_string => drop(characters.next()),
            '"' => in_string = !in_string,
            '\'' if !in_string && characters.peek() == Some(&'"') => drop(characters.next()),
            '/' if !in_string && characters.peek() == Some(&'/') => break,
            _ if in_string => {}
            _ => code.push(character),
        }
    }
    code
}

/// Whether the word stands in the code by itself, not as part of a longer name.
fn has_word(code: &str, word: &str) -> bool {
    let is_name = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    code.match_indices(word).any(|(at, _)| {
        !is_name(code[..at].chars().next_back()) && !is_name(code[at + word.len()..].chars().next())
    })
}

/// Fails with every place at once.
fn none_of(rule: &str, places: Vec<String>) {
    assert!(places.is_empty(), "{rule}:\n  {}", places.join("\n  "));
}

/// The places where code has one of these words, in files for which `applies` says so.
fn places(folder: &str, words: &[&str], applies: impl Fn(&Source) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources(folder).iter().filter(|source| applies(source)) {
        for (number, code) in source.code() {
            if let Some(word) = words.iter().find(|word| has_word(&code, word)) {
                found.push(format!("{}:{number}: {word}", source.path));
            }
        }
    }
    found
}

#[test]
fn only_pg_knows_pgrx() {
    let found =
        places("src", &["pgrx", "pg_sys"], |source| !source.is_below(&["src/pg/", "src/lib.rs"]));
    none_of("pgrx is named outside src/pg and src/lib.rs", found);
}

#[test]
fn consensus_and_cluster_are_pure() {
    const IMPURE: [&str; 14] = [
        "std::time",
        "std::thread",
        "std::fs",
        "std::net",
        "std::env",
        "std::io",
        "Instant",
        "SystemTime",
        "thread_local",
        "static mut",
        "HashMap",
        "HashSet",
        "crossbeam_channel",
        "libc",
    ];
    let found = places("src", &IMPURE, |source| source.is_below(&["src/raft/", "src/cluster/"]));
    // Golden transcripts are files that a test reads; the algorithm itself reads none.
    let found: Vec<String> = found.into_iter().filter(|place| !place.contains("tests")).collect();
    none_of("src/raft and src/cluster use more than values", found);
}

#[test]
fn layers_use_only_what_is_below_them() {
    const RULES: [(&str, &[&str]); 6] = [
        ("src/raft/", &["cluster", "wire", "storage", "net", "runtime", "shmem", "config", "pg"]),
        ("src/cluster/", &["wire", "storage", "net", "runtime", "shmem", "config", "pg"]),
        ("src/wire/", &["storage", "net", "runtime", "shmem", "config", "pg"]),
        ("src/storage/", &["net", "runtime", "shmem", "config", "pg"]),
        ("src/net/", &["storage", "runtime", "shmem", "config", "pg"]),
        ("src/http/", &["storage", "runtime", "shmem", "config", "pg"]),
    ];
    let mut found = Vec::new();
    for (folder, above) in RULES {
        let names: Vec<String> = above.iter().map(|layer| format!("crate::{layer}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        found.extend(places("src", &names, |s| s.is_below(&[folder]) && !s.is_test()));
    }
    none_of("a layer uses one above it", found);
}

#[test]
fn unsafe_stays_in_its_homes() {
    const HOMES: [&str; 4] = ["src/pg/", "src/shmem", "src/sys.rs", "src/sys/"];
    // Module magic and _PG_init, which Postgres calls, are in lib.rs.
    let found = places("src", &["unsafe"], |source| {
        !source.is_below(&HOMES) && source.path != "src/lib.rs"
    });
    none_of("unsafe outside src/pg, src/shmem and src/sys", found);
}

#[test]
fn only_spawn_starts_threads() {
    const SPAWNS: [&str; 3] = ["thread::spawn", "thread::Builder", "thread::scope"];
    let mut found = Vec::new();
    for source in sources("src") {
        // ramd is a process without Postgres' signal handlers, and has a place of its own.
        let homes = ["src/runtime/spawn.rs", "src/bin/ramd/threads.rs"];
        if homes.contains(&source.path.as_str()) || source.is_test() {
            continue;
        }
        // Unit tests at the end of a file may start threads to act as other processes.
        let product = source.text.lines().take_while(|line| line.trim() != "#[cfg(test)]").count();
        for (number, code) in source.code().take(product) {
            if SPAWNS.iter().any(|word| code.contains(word)) {
                found.push(format!("{}:{number}", source.path));
            }
        }
    }
    none_of("a thread is started outside src/runtime/spawn.rs and ramd's threads.rs", found);
}

#[test]
fn lines_fit_in_100_columns() {
    let mut found = Vec::new();
    for source in sources("src").iter().chain(&sources("tests")) {
        for (number, line) in source.text.lines().enumerate() {
            let columns = line.chars().count();
            if columns > 100 {
                found.push(format!("{}:{}: {columns} columns", source.path, number + 1));
            }
        }
    }
    none_of("a line is longer than 100 columns", found);
}

#[test]
fn files_stay_below_40_kb() {
    let files = sources("src").into_iter().chain(sources("tests"));
    let large = files.filter(|source| source.text.len() >= 40_000);
    none_of("a file is too large", large.map(|source| source.path).collect());
}

#[test]
fn the_unit_for_systemd_never_gives_up_and_leaves_the_server_alone() {
    const WANTED: [(&str, &str); 6] = [
        ("Unit", "StartLimitIntervalSec=0"),
        ("Service", "Restart=always"),
        ("Service", "RestartSec=1"),
        ("Service", "KillMode=process"),
        ("Service", "SendSIGHUP=no"),
        ("Install", "WantedBy=multi-user.target"),
    ];
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/ramd.service");
    let unit = fs::read_to_string(path).expect("conf/ramd.service");
    let mut section = "";
    let mut found = BTreeSet::new();
    for line in unit.lines().filter(|line| !line.starts_with('#')) {
        match line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(name) => section = name,
            None => drop(found.insert((section, line))),
        }
    }
    let missing = WANTED.iter().filter(|wanted| !found.contains(*wanted));
    let missing = missing.map(|(section, line)| format!("[{section}] {line}")).collect();
    none_of("conf/ramd.service lacks", missing);
}

#[test]
fn nothing_is_left_to_do() {
    // Written apart, so that this file does not find itself.
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let macros = [concat!("to", "do!"), concat!("unimpl", "emented!"), concat!("#[ign", "ore")];
    let mut found = Vec::new();
    for source in sources("src").iter().chain(&sources("tests")) {
        for (number, line) in source.text.lines().enumerate() {
            let marked = marks.iter().any(|mark| has_word(line, mark));
            if marked || macros.iter().any(|name| line.contains(name)) {
                found.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
            }
        }
    }
    none_of("something is marked as unfinished", found);
}

#[test]
fn every_file_says_what_lives_there() {
    let files = sources("src").into_iter().chain(sources("tests"));
    let silent = files.filter(|source| !source.text.starts_with("//!"));
    none_of("a file does not begin with //!", silent.map(|source| source.path).collect());
}

#[test]
fn no_file_is_an_orphan() {
    let all = sources("src");
    let mut declared: BTreeSet<PathBuf> = BTreeSet::new();
    for source in &all {
        let path = Path::new(&source.path);
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let parent = path.parent().expect("a file in a folder");
        // A module's children are beside mod.rs, lib.rs and main.rs, else in a folder of its name.
        let folder = match stem {
            "mod" | "lib" | "main" => parent.to_owned(),
            _ => parent.join(stem),
        };
        for (_, code) in source.code() {
            if let Some(name) = module_declared(&code) {
                declared.insert(folder.join(format!("{name}.rs")));
                declared.insert(folder.join(name).join("mod.rs"));
            }
        }
    }
    let orphans = all.iter().filter(|source| {
        let root = source.path == "src/lib.rs" || source.path.starts_with("src/bin/");
        !root && !declared.contains(Path::new(&source.path))
    });
    none_of("a file is part of no module", orphans.map(|source| source.path.clone()).collect());
}

/// The name in a line `mod name;`, whatever its visibility.
fn module_declared(code: &str) -> Option<&str> {
    let rest = code.trim().strip_suffix(';')?;
    let (before, name) = rest.split_once("mod ").unwrap_or(("-", rest));
    let visibility = before.trim();
    (visibility.is_empty() || visibility.starts_with("pub")).then_some(name.trim())
}

#[test]
fn code_is_told_from_text_and_comments() {
    assert_eq!(without_text(r#"let a = "unsafe \" // x"; // unsafe"#), "let a = ; ");
    assert_eq!(without_text(r#"let q = '"'; unsafe"#), "let q = '; unsafe");
    assert!(has_word("unsafe { }", "unsafe"));
    assert!(!has_word("unsafe_code", "unsafe"));
    assert_eq!(module_declared("pub(crate) mod node;"), Some("node"));
    assert_eq!(module_declared("use a::mod_b;"), None);
}
