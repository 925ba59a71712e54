//! A C program that knows only `include/pgraft_shmem.h` reads what this side writes.

use super::sysv::key;
use super::*;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Compiles `tests/c/read_page.c`, once for all tests here.
fn program() -> &'static PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        // Beside this test program, in cargo's target folder; aside first, since another run of the
        // tests may be executing it.
        let program = std::env::current_exe().unwrap().with_file_name("pgraft_read_page");
        let aside = program.with_extension(sys::own_pid().to_string());
        let output = Command::new(std::env::var_os("CC").unwrap_or("cc".into()))
            .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O2", "-I"])
            .arg(root.join("include"))
            .arg("-o")
            .arg(&aside)
            .arg(root.join("tests/c/read_page.c"))
            .output()
            .expect("a C compiler is needed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::rename(&aside, &program).unwrap();
        program
    })
}

fn run(args: &[&str]) -> Output {
    Command::new(program()).args(args).output().unwrap()
}

fn values(output: &Output) -> BTreeMap<String, String> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn the_header_has_every_field_where_rust_has_it() {
    let of_c = values(&run(&["layout"]));
    let of_rust = LAYOUT.iter().map(|(name, at)| ((*name).to_owned(), at.to_string())).collect();
    assert_eq!(of_c, of_rust);
}

#[test]
fn c_reads_leader_and_term() {
    let key_text = key(8).to_string();
    let output = run(&[&key_text]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("could not find"));

    let published = SysvPage::publish_at(key(8)).unwrap();
    let page = published.page();
    page.open(sys::own_pid(), 60_000_000_000);
    let now = sys::now_boottime_ns();
    page.beat(now);
    let view = View {
        role: RoleCode::Leader,
        leader: 1,
        lease_expires_ns: now + 60_000_000_000,
        ..view_of(7)
    };
    page.publish(&view);
    let read = values(&run(&[&key_text]));
    let expected = [
        ("node_id", "1"),
        ("node_name", "node7"),
        ("fresh", "1"),
        ("is_leader", "1"),
        ("leader", "1"),
        ("term", "7"),
        ("state", "3"),
        ("role", "3"),
        ("members", "4"),
        ("member2", "2 name7 7.example.net:7"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(read, BTreeMap::from(expected));
    page.clear();
    let read = values(&run(&[&key_text]));
    assert_eq!((read["fresh"].as_str(), read["is_leader"].as_str()), ("0", "0"));
}

#[test]
fn c_never_sees_half_of_a_write() {
    let published = SysvPage::publish_at(key(9)).unwrap();
    let page = published.page();
    page.publish(&view_of(0));
    let key_text = key(9).to_string();
    let mut child = Command::new(program()).args([&key_text, "5000"]).spawn().unwrap();
    let start = Instant::now();
    let mut n = 0;
    let status = loop {
        n += 1;
        assert!(start.elapsed() < Duration::from_secs(60), "the reader does not end");
        page.publish_core(&view_of(n % 60_000).core());
        // A writer that never rests would leave readers no gap; this one leaves small ones.
        (0..n % 50).for_each(|_| std::hint::spin_loop());
        if let Some(status) = n.is_multiple_of(64).then(|| child.try_wait().unwrap()).flatten() {
            break status;
        }
    };
    assert!(status.success());
}
