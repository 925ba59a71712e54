//! Configuration files: good, bad and random.

use super::*;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;

const SAMPLE: &str = include_str!("../../conf/pgraft.conf");
/// As the guide prints it, comments included.
const GUIDE: &str = "\
# Raft Configuration
raft_node_id = 1
raft_cluster_id = ram_cluster
raft_data_dir = /tmp/pgraft_data
raft_log_level = info

# Network Configuration
raft_port = 7400
raft_bind_address = 0.0.0.0
raft_peer_addresses = localhost:7401,localhost:7402

# PostgreSQL Integration
postgresql_integration_enabled = true
postgresql_shmem_key = 12345
postgresql_shmem_size = 1048576
";
const REQUIRED: &str = "raft_node_id = 7\nraft_cluster_id = c\nraft_data_dir = /d\n";

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("/etc/pgraft.conf"), text)
}

/// The three required lines and `lines`, which begin at line 4.
fn with(lines: &str) -> Result<Config, ConfigError> {
    parse(&format!("{REQUIRED}{lines}"))
}

fn addresses(texts: &[&str]) -> Vec<Address> {
    texts.iter().map(|text| Address::parse(text).unwrap()).collect()
}

#[test]
fn the_guides_file_works_verbatim() {
    let config = parse(GUIDE).unwrap();
    assert_eq!(config.node_id.get(), 1);
    assert_eq!(config.cluster_id, "ram_cluster");
    assert_eq!(config.data_dir, Path::new("/tmp/pgraft_data"));
    assert_eq!(config.log_level, LevelFilter::Info);
    assert_eq!(config.port, 7400);
    assert_eq!(config.bind_address, "0.0.0.0");
    assert_eq!(config.peer_addresses, addresses(&["localhost:7401", "localhost:7402"]));
    assert!(config.integration_enabled);
    assert_eq!(config.shmem_key, 12345);
    assert_eq!(config.shmem_size, 1048576);
    assert_eq!((config.snapshot_entries, config.log_keep_entries), (10_000, 1000));
    assert_eq!(config.warnings(), Vec::<String>::new());
}

#[test]
fn strict_toml_says_the_same() {
    let toml = "\
        raft_node_id = 1 # a number\n\
        \"raft_cluster_id\" = \"ram_cluster\"\n\
        raft_data_dir = '/tmp/pgraft_data'\n\
        raft_log_level = \"info\"\n\
        raft_port = 7_400\n\
        raft_bind_address = \"0.0.0.0\"\n\
        raft_peer_addresses = [\n  \"localhost:7401\", # one\n\n  \"localhost:7402\",\n]\n\
        postgresql_integration_enabled = true\n\
        postgresql_shmem_key = 0x3039\n\
        postgresql_shmem_size = \"1048576\"\n";
    assert_eq!(parse(toml), parse(GUIDE));
    // And it is TOML indeed, as is the guide's when its words are quoted.
    toml::de::DeTable::parse(toml).unwrap();
}

#[test]
fn carriage_returns_marks_and_missing_last_newlines_do_no_harm() {
    let text = format!("\u{feff}{}", GUIDE.trim_end().replace('\n', "\r\n"));
    assert_eq!(parse(&text), parse(GUIDE));
}

#[test]
fn the_sample_is_the_guides_file_and_explains_every_key() {
    assert_eq!(parse(SAMPLE), parse(GUIDE));
    for line in GUIDE.lines().filter(|line| !line.is_empty()) {
        assert!(SAMPLE.lines().any(|other| other == line), "not in conf/pgraft.conf: {line}");
    }
    let lines: Vec<&str> = SAMPLE.lines().collect();
    for key in KEYS {
        let sets = |line: &str| {
            let line = line.strip_prefix('#').unwrap_or(line);
            line.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='))
        };
        let at = lines.iter().position(|line| sets(line)).expect(key);
        assert!(lines[at - 1].starts_with("# "), "nothing is said about {key}");
        assert_eq!(lines.iter().filter(|line| sets(line)).count(), 1, "{key}");
    }
}

#[test]
fn the_defaults_that_the_sample_shows_are_the_defaults() {
    let keyed = |line: &str| KEYS.iter().any(|key| line.starts_with(&format!("#{key} =")));
    let lines = SAMPLE.lines().map(|line| if keyed(line) { &line[1..] } else { line });
    let uncommented = lines.collect::<Vec<_>>().join("\n");
    assert_ne!(uncommented, SAMPLE.trim_end());
    let config = parse(&uncommented).unwrap();
    assert_eq!(Config { unused: Vec::new(), ..config }, parse(SAMPLE).unwrap());
}

#[test]
fn the_ranges_that_sample_and_documentation_name_are_those_that_are_checked() {
    const PAGE: &str = include_str!("../../docs/configuration.md");
    let mut ranges = 0;
    for key in KEYS {
        let other_keys = REQUIRED.lines().filter(|line| !line.starts_with(key));
        let text = other_keys.map(|line| format!("{line}\n")).collect::<String>();
        let refused = parse(&format!("{text}{key} = 99999999999")).err();
        let refused = refused.map(|error| error.to_string()).unwrap_or_default();
        let Some((_, range)) = refused.split_once(" from ") else { continue };
        let range = range.split(',').next().unwrap();
        ranges += 1;
        let row = PAGE.lines().find(|line| line.starts_with(&format!("| `{key}` |"))).expect(key);
        assert!(row.contains(range), "{key}: {range}, and docs/configuration.md says: {row}");
        let above = SAMPLE.split(&format!("{key} =")).next().unwrap();
        let comment = above.rsplit("\n\n").next().unwrap().replace("\n# ", " ");
        assert!(comment.contains(range), "{key}: {range}, and conf/pgraft.conf says: {comment}");
    }
    assert!(ranges >= 11, "only {ranges} keys have a range");
}

#[test]
fn only_three_keys_are_required() {
    let config = with("").unwrap();
    assert_eq!((config.port, config.shmem_key, config.shmem_size), (7400, 0, 1 << 20));
    assert_eq!((config.heartbeat_interval_ms, config.election_timeout_ms), (100, 1000));
    assert_eq!(config.node_name, "node7");
    assert_eq!((config.kv_key_bytes_max, config.kv_value_bytes_max), (256, 8192));
    assert_eq!(config.kv_store_bytes_max, 16 << 20);
    assert_eq!(config.peer_addresses, []);
    assert!(config.auto_failover && !config.synchronous);
    assert_eq!((config.failover_grace_ms, config.replication_conninfo.as_str()), (5000, ""));
    assert_eq!((config.metrics_enabled, config.metrics_port), (false, 9091));
    assert_eq!(config.metrics_socket(), None);
    for (left_out, key) in REQUIRED.lines().zip([NODE_ID, CLUSTER_ID, DATA_DIR]) {
        let error = parse(&REQUIRED.replace(left_out, "")).unwrap_err();
        assert_eq!(error.problem, Problem::RequiredKey { key });
        assert_eq!(
            error.to_string(),
            format!("key \"{key}\" is not set in file \"/etc/pgraft.conf\"")
        );
        assert_eq!(error.hint(), format!("Add a line \"{key} = ...\"."));
    }
}

#[test]
fn all_further_keys_are_read() {
    let config = with(
        "raft_advertise_address = db1.example.net:7500\nraft_heartbeat_interval_ms = 50\n\
         raft_election_timeout_ms = 150\nnode_name = Zürich 1\nraft_log_level = WARNING\n\
         metrics_enabled = on\nmetrics_port = 9100\n\
         metrics_bind_address = [::1]\nauthentication_token = \"a # b\"\n\
         postgresql_integration_enabled = no\nraft_bind_address = [::1]\n\
         raft_snapshot_entries = 500\nraft_log_keep_entries = 0\n\
         auto_failover_enabled = off\nsynchronous_mode = Quorum\nfailover_grace_ms = 0\n\
         replication_conninfo = user=rep passfile=/p\n",
    )
    .unwrap();
    assert_eq!(config.advertise_address, Some(Address::parse("db1.example.net:7500").unwrap()));
    assert_eq!(config.node_name, "Zürich 1");
    assert_eq!(config.log_level, LevelFilter::Warn);
    assert_eq!(config.bind_address, "::1");
    assert_eq!(config.authentication_token.as_ref().unwrap().reveal(), "a # b");
    assert!(!config.integration_enabled);
    assert_eq!(config.metrics_socket(), Some("[::1]:9100".parse().unwrap()));
    assert_eq!((config.snapshot_entries, config.log_keep_entries), (500, 0));
    assert!(!config.auto_failover && config.synchronous);
    assert_eq!(config.failover_grace_ms, 0);
    assert_eq!(config.replication_conninfo, "user=rep passfile=/p");
    assert!(!format!("{config:?}").contains("a # b"), "a debug message shows the secret");
    let warnings = config.warnings();
    assert_eq!(warnings.len(), 1);
    assert_eq!(
        warnings[0],
        "\"authentication_token\" in file \"/etc/pgraft.conf\" is not used yet by this version"
    );
}

#[test]
fn bare_words_end_at_a_comment_and_only_there() {
    let config = parse(
        "raft_node_id=3# TOML knows that this is a comment\nraft_cluster_id = a#b # rest\n\
         raft_data_dir =\t/srv/a b=c\t# rest\nraft_peer_addresses = # none\n",
    )
    .unwrap();
    assert_eq!(config.node_id.get(), 3);
    assert_eq!(config.cluster_id, "a#b");
    assert_eq!(config.data_dir, Path::new("/srv/a b=c"));
    assert_eq!(config.peer_addresses, []);
    // What TOML takes for a number, a date or a truth value is still a name if a name is wanted.
    for name in ["42", "0x10", "2024-01-01", "true", "1e3", "inf"] {
        let text = REQUIRED.replace("raft_cluster_id = c", &format!("raft_cluster_id = {name}"));
        assert_eq!(parse(&text).unwrap().cluster_id, name);
    }
}

#[test]
fn peers_are_taken_once_each_whatever_the_spaces() {
    for list in ["a:1,b:2 , a:1", "[\"a:1\", \"b:2\", \"a:1\"]", "\"a:1, b:2\"", "['a:1', 'b:2']"] {
        let config = with(&format!("raft_peer_addresses = {list}")).unwrap();
        assert_eq!(config.peer_addresses, addresses(&["a:1", "b:2"]), "{list}");
    }
    let v6 = ["[::1]:7400", "[fe80::1%eth0]:7401"];
    let config = with(&format!("raft_peer_addresses = {}", v6.join(", "))).unwrap();
    assert_eq!(config.peer_addresses, addresses(&v6));
    let many: Vec<String> = (1..=40).map(|port| format!("h:{port}")).collect();
    let error = with(&format!("raft_peer_addresses = {}", many.join(","))).unwrap_err();
    assert!(error.to_string().contains("a list of at most 32 addresses"), "{error}");
}

/// Each bad line, as line 4, with the message it must give; `…` stands for the place.
#[test]
fn bad_lines_name_file_line_key_and_what_is_allowed() {
    const CASES: &[(&str, &str)] = &[
        ("raft_port = 0", "\"raft_port\" must be a whole number from 1 to 65535, not \"0\"…"),
        (
            "raft_port = 65536",
            "\"raft_port\" must be a whole number from 1 to 65535, not \"65536\"…",
        ),
        ("raft_port = -1", "\"raft_port\" must be a whole number from 1 to 65535, not \"-1\"…"),
        ("raft_port = 74OO", "\"raft_port\" must be a whole number from 1 to 65535, not \"74OO\"…"),
        ("raft_port =", "\"raft_port\" must be a whole number from 1 to 65535, not \"\"…"),
        (
            "raft_port = 7400.0",
            "\"raft_port\" must be a whole number from 1 to 65535, not \"7400.0\"…",
        ),
        (
            "raft_port = 99999999999999999999",
            "\"raft_port\" must be a whole number from 1 to 65535, not \"99999999999999999999\"…",
        ),
        ("raft_port = [1]", "cannot read the value of \"raft_port\"…"),
        (
            "raft_port = [\"1\"]",
            "\"raft_port\" must be a whole number from 1 to 65535, not \"[1]\"…",
        ),
        ("raft_prot = 1", "unknown key \"raft_prot\"…"),
        ("raft_node_id = 8", "key \"raft_node_id\" is already set in line 1…"),
        ("[raft]", "sections are not supported…"),
        ("[[raft]]", "sections are not supported…"),
        ("raft_port 7400", "line is not of the form key = value…"),
        ("= 7400", "line is not of the form key = value…"),
        ("node_name = \"a", "cannot read the value of \"node_name\"…"),
        ("node_name = a\"b", "cannot read the value of \"node_name\"…"),
        ("node_name = \"a\" b", "cannot read the value of \"node_name\"…"),
        ("node_name = \"\"\"", "cannot read the value of \"node_name\"…"),
        ("node_name = {a = 1}", "cannot read the value of \"node_name\"…"),
        (
            "node_name = \"a\\u0007\"",
            "\"node_name\" must be 1 to 63 bytes without control characters, not \"a?\"…",
        ),
        (
            "postgresql_integration_enabled = 1",
            "\"postgresql_integration_enabled\" must be true or false, not \"1\"…",
        ),
        (
            "auto_failover_enabled = maybe",
            "\"auto_failover_enabled\" must be true or false, not \"maybe\"…",
        ),
        ("synchronous_mode = all", "\"synchronous_mode\" must be off or quorum, not \"all\"…"),
        (
            "failover_grace_ms = 600001",
            "\"failover_grace_ms\" must be a whole number of milliseconds from 0 to 600000, not \
             \"600001\"…",
        ),
        (
            "replication_conninfo = \"user=a\\tb\"",
            "\"replication_conninfo\" must be connection parameters such as user and passfile, at \
             most 1024 bytes, not \"user=a?b\"…",
        ),
        (
            "postgresql_shmem_size = 1MB",
            "\"postgresql_shmem_size\" must be a whole number of bytes from 655360 to 67108864, \
             not \"1MB\"…",
        ),
        (
            "postgresql_shmem_key = -1",
            "\"postgresql_shmem_key\" must be a whole number from 0 to 2147483647, not \"-1\"…",
        ),
        (
            "kv_max_key_bytes = 257",
            "\"kv_max_key_bytes\" must be a whole number of bytes from 1 to 256, not \"257\"…",
        ),
        (
            "kv_max_value_bytes = 0",
            "\"kv_max_value_bytes\" must be a whole number of bytes from 1 to 8192, not \"0\"…",
        ),
        (
            "kv_max_store_bytes = 16MB",
            "\"kv_max_store_bytes\" must be a whole number of bytes from 65536 to 134217728, not \
             \"16MB\"…",
        ),
        (
            "raft_log_level = verbose",
            "\"raft_log_level\" must be one of error, warn, info, debug, trace, off, not \
             \"verbose\"…",
        ),
        (
            "raft_heartbeat_interval_ms = 5",
            "\"raft_heartbeat_interval_ms\" must be a whole number of milliseconds from 50 to \
             10000, not \"5\"…",
        ),
        (
            "raft_snapshot_entries = 9",
            "\"raft_snapshot_entries\" must be a whole number from 10 to 1000000, not \"9\"…",
        ),
        (
            "raft_log_keep_entries = 1000001",
            "\"raft_log_keep_entries\" must be a whole number from 0 to 1000000, not \
             \"1000001\"…",
        ),
        (
            "raft_election_timeout_ms = 299",
            "\"raft_election_timeout_ms\" must be at least three times \
             raft_heartbeat_interval_ms, 300 ms, not \"299\"…",
        ),
        (
            "raft_heartbeat_interval_ms = 334",
            "\"raft_election_timeout_ms\" must be at least three times \
             raft_heartbeat_interval_ms, 1002 ms, not \"1000\"…",
        ),
        (
            "raft_peer_addresses = a:1,b",
            "\"raft_peer_addresses\" must be a list of host:port: in \"b\" the port is missing, \
             not \"a:1,b\"…",
        ),
        ("raft_peer_addresses = [\"a:1\", 2]", "cannot read the value of \"raft_peer_addresses\"…"),
        (
            "raft_advertise_address = db1",
            "\"raft_advertise_address\" must be the host:port at which other nodes reach this one \
             (the port is missing), not \"db1\"…",
        ),
        (
            "raft_bind_address = *",
            "\"raft_bind_address\" must be an IP address or host name of this machine, or 0.0.0.0 \
             for all, not \"*\"…",
        ),
    ];
    for (line, message) in CASES {
        let error = with(line).unwrap_err();
        let place = " in file \"/etc/pgraft.conf\" line 4";
        assert_eq!(error.to_string(), message.replace('…', place), "{line}");
        assert_eq!(error.line, Some(4), "{line}");
    }
}

#[test]
fn required_keys_have_limits_too() {
    for (good, bad) in [
        ("raft_node_id = 7", vec!["0", "-1", "2147483648", "one", "\"\""]),
        ("raft_cluster_id = c", vec!["\"\"", "a b", "höh", "\"a\\tb\"", &"x".repeat(65)]),
        ("raft_data_dir = /d", vec!["d", "./d", "~/d", "\"\"", "\"/a\\u0000b\""]),
    ] {
        let key = good.split(' ').next().unwrap();
        for value in bad {
            let error = parse(&REQUIRED.replace(good, &format!("{key} = {value}"))).unwrap_err();
            assert!(matches!(error.problem, Problem::BadValue { .. }), "{key} {value}: {error}");
            assert!(error.to_string().starts_with(&format!("\"{key}\" must be ")), "{error}");
        }
    }
    let longest = REQUIRED.replace("raft_node_id = 7", "raft_node_id = 2147483647");
    assert_eq!(parse(&longest).unwrap().node_id.get(), 2147483647);
    let longest = REQUIRED.replace("= c", &format!("= {}", "x".repeat(64)));
    assert_eq!(parse(&longest).unwrap().cluster_id.len(), 64);
}

#[test]
fn a_mistyped_key_is_told_what_was_meant() {
    for (typed, meant) in [
        ("raft_prot", Some("raft_port")),
        ("Raft_Node_ID", Some("raft_node_id")),
        ("raft_election_timeout", Some("raft_election_timeout_ms")),
        ("raft_peers_address", Some("raft_peer_addresses")),
        ("synchronous", Some("synchronous_mode")),
        ("autofailover_enabled", Some("auto_failover_enabled")),
        ("metrics", None),
        ("x", None),
    ] {
        let error = with(&format!("{typed} = 1")).unwrap_err();
        let Problem::UnknownKey { key, nearest } = &error.problem else { panic!("{error}") };
        assert_eq!((key.as_str(), *nearest), (typed, meant));
        assert_eq!(error.hint().contains("Perhaps you meant"), meant.is_some());
    }
}

#[test]
fn a_secret_is_shown_in_no_error() {
    let secret = "s3cret".repeat(100);
    for value in [secret.clone(), format!("\"{secret}"), format!("[\"{secret}\"]")] {
        let error = with(&format!("authentication_token = {value}")).unwrap_err();
        assert!(!format!("{error} {}", error.hint()).contains("s3cret"), "{error}");
    }
}

#[test]
fn long_or_odd_values_stay_short_and_on_one_line_in_messages() {
    let error = with(&format!("raft_port = {}", "9".repeat(10_000))).unwrap_err();
    assert!(error.to_string().len() < 300, "{error}");
    let error = with(&format!("{} = 1", "k".repeat(10_000))).unwrap_err();
    assert!(error.to_string().len() < 300, "{error}");
    let error = with("raft_log_level = \"a\\nb\"").unwrap_err();
    assert!(!error.to_string().contains('\n'));
}

#[test]
fn files_that_cannot_be_read_are_errors_with_a_hint() {
    let dir = std::env::temp_dir().join(format!("pgraft-config-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let file = dir.join("pgraft.conf");
    let load = || {
        Config::load(&file).map_err(|error| {
            assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
            assert!(error.hint().ends_with('.'), "{error:?}");
            error.problem
        })
    };
    assert_eq!(load(), Err(Problem::Missing));
    fs::write(&file, GUIDE).unwrap();
    assert_eq!(load().unwrap().cluster_id, "ram_cluster");
    fs::write(&file, [GUIDE.as_bytes(), b"# \xff\n"].concat()).unwrap();
    assert_eq!(load(), Err(Problem::NotText));
    assert_eq!(Config::load(&file).unwrap_err().line, Some(16));
    fs::write(&file, "#".repeat(CONFIG_BYTES_MAX + 1)).unwrap();
    assert_eq!(load(), Err(Problem::TooLarge));
    fs::write(&file, format!("{GUIDE}#{}", "x".repeat(CONFIG_BYTES_MAX - GUIDE.len() - 1)))
        .unwrap();
    assert!(load().is_ok());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
    // Root may read everything.
    if File::open(&file).is_err() {
        assert!(matches!(load(), Err(Problem::Unreadable { .. })));
    }
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert_eq!(load(), Err(Problem::NotAFile));
    fs::remove_dir_all(&dir).unwrap();
    assert_eq!(Config::load(Path::new("/dev/zero")).unwrap_err().problem, Problem::NotAFile);
}

#[test]
fn a_reload_takes_levels_timeouts_peers_and_snapshots_and_nothing_else() {
    let old = parse(GUIDE).unwrap();
    let new = parse(
        &GUIDE
            .replace("node_id = 1", "node_id = 2")
            .replace("7400", "7409")
            .replace("= info", "= debug")
            .replace(",localhost:7402", "\nraft_snapshot_entries = 10\nraft_log_keep_entries = 1"),
    )
    .unwrap();
    assert_eq!(old.restart_only_changes(&new), ["raft_node_id", "raft_port", "node_name"]);
    let reloaded = old.reloaded(&new);
    assert_eq!((reloaded.node_id, reloaded.port), (old.node_id, 7400));
    assert_eq!((reloaded.log_level, reloaded.peer_addresses.len()), (LevelFilter::Debug, 1));
    assert_eq!((reloaded.snapshot_entries, reloaded.log_keep_entries), (10, 1));
    assert_eq!(old.restart_only_changes(&reloaded), Vec::<&str>::new());
}

#[test]
fn no_text_makes_it_panic() {
    for end in (0..SAMPLE.len()).filter(|end| SAMPLE.is_char_boundary(*end)) {
        let _ = parse(&SAMPLE[..end]);
    }
    // Random texts of the pieces that mean something, from a fixed seed (xorshift).
    let pieces = [
        "raft_port",
        "raft_node_id",
        "raft_peer_addresses",
        "=",
        " = ",
        "\n",
        "[",
        "]",
        "\"",
        "'",
        "\"\"\"",
        "#",
        " #",
        ",",
        "{",
        "}",
        ":",
        "\\",
        "\\u",
        "\r",
        "\0",
        "é",
        "0x",
        "1",
        "_",
        "-",
        "9999999999",
        "a.b",
        "1979-05-27",
        "\u{feff}",
        "\t",
        "localhost:1",
    ];
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..20_000 {
        let mut text = String::new();
        for _ in 0..24 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            text.push_str(pieces[seed as usize % pieces.len()]);
        }
        if let Err(error) = with(&text) {
            assert!(error.to_string().starts_with(|c: char| !c.is_uppercase()), "{error}");
        }
    }
}

#[test]
fn brackets_without_end_are_refused_quickly() {
    let start = std::time::Instant::now();
    let open = format!("raft_peer_addresses = [\n{}", "]]\n[".repeat(CONFIG_BYTES_MAX / 5));
    assert!(with(&open).is_err());
    let deep = format!("raft_peer_addresses = {}", "[".repeat(CONFIG_BYTES_MAX / 2));
    assert!(with(&deep).is_err());
    // A tenth of that in practice; the bound is for slow machines without optimization.
    assert!(start.elapsed().as_secs() < 10, "took {:?}", start.elapsed());
}
