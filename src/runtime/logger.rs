//! Where `log::info!` and its like go, from any thread of the worker: into the log ring in shared
//! memory, for SQL, and to the worker's main thread, which alone may call PostgreSQL's `ereport`.
//!
//! A thread that logs never waits: when the queue to main is full, the record is dropped and
//! counted, and the next one that gets through is preceded by a line that says so. Main's own
//! records do not take that way: they go to PostgreSQL directly, so that none is left behind when
//! main ends.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, ThreadId};

use log::{Level, LevelFilter, Log, Metadata};

use crate::shmem::{LogRing, cut};
use crate::sys;

/// The longest message; PostgreSQL would take more, but a queue of records must have a bound.
pub const RECORD_BYTES_MAX: usize = 4096;

/// One message on its way to PostgreSQL's log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// When, in microseconds since 1970.
    pub unix_us: i64,
    /// How serious.
    pub level: Level,
    /// The message.
    pub text: String,
}

/// Where the logger's output goes.
pub struct Sinks {
    /// For `pgraft_get_logs()`.
    pub ring: LogRing,
    /// Takes a record for main without waiting and wakes main; false when there is no room. It must
    /// not log.
    pub queue: Box<dyn Fn(Record) -> bool + Send + Sync>,
    /// Hands a record to PostgreSQL; only called on main. It must not log.
    pub direct: Box<dyn Fn(Record) + Send + Sync>,
}

/// The worker's logger.
pub struct Logger {
    sinks: Sinks,
    main: ThreadId,
    /// A `LevelFilter` as a number: what `raft_log_level` says.
    level: AtomicUsize,
    /// Whether debug messages are wanted whatever `level` says.
    debug: AtomicBool,
    node_id: AtomicU32,
    term: AtomicU64,
    /// Since the worker began.
    dropped: AtomicU64,
    /// Of these, those not yet owned up to in the log.
    dropped_unsaid: AtomicU64,
}

impl fmt::Debug for Logger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logger").field("filter", &self.filter()).finish_non_exhaustive()
    }
}

static INSTALLED: OnceLock<Logger> = OnceLock::new();

/// Makes a logger that all threads of this process use from now on. To be called once, by the
/// worker's main thread; a second call changes nothing and returns the first one's logger.
pub fn install(sinks: Sinks, level: LevelFilter) -> &'static Logger {
    let logger = INSTALLED.get_or_init(|| Logger::new(sinks, level));
    // An error says that there is a logger already: this one, or a test's own.
    let _ = log::set_logger(logger);
    log::set_max_level(logger.filter());
    logger
}

/// The logger that `install` made.
pub fn installed() -> Option<&'static Logger> {
    INSTALLED.get()
}

impl Logger {
    /// A logger whose main thread is the caller's.
    pub fn new(sinks: Sinks, level: LevelFilter) -> Logger {
        Logger {
            sinks,
            main: thread::current().id(),
            level: AtomicUsize::new(level as usize),
            debug: AtomicBool::new(false),
            node_id: AtomicU32::new(0),
            term: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            dropped_unsaid: AtomicU64::new(0),
        }
    }

    /// What `raft_log_level` says now.
    pub fn set_level(&self, level: LevelFilter) {
        self.level.store(level as usize, Ordering::Relaxed);
        self.tell_macros();
    }

    /// Turns debug messages on or off, whatever `raft_log_level` says.
    pub fn set_debug(&self, enabled: bool) {
        self.debug.store(enabled, Ordering::Relaxed);
        self.tell_macros();
    }

    /// Which node the lines are of.
    pub fn set_node(&self, node_id: u32) {
        self.node_id.store(node_id, Ordering::Relaxed);
    }

    /// In which term the lines are written.
    pub fn set_term(&self, term: u64) {
        self.term.store(term, Ordering::Relaxed);
    }

    /// How many records found the queue full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// The least serious level that is let through.
    pub fn filter(&self) -> LevelFilter {
        let level = filter_of(self.level.load(Ordering::Relaxed));
        if self.debug.load(Ordering::Relaxed) { level.max(LevelFilter::Debug) } else { level }
    }

    /// The `log` macros look at one global number before they format anything.
    fn tell_macros(&self) {
        if INSTALLED.get().is_some_and(|installed| std::ptr::eq(installed, self)) {
            log::set_max_level(self.filter());
        }
    }

    fn pass_on(&self, record: Record) {
        if thread::current().id() == self.main {
            (self.sinks.direct)(record);
            return;
        }
        self.own_up(record.unix_us);
        if !(self.sinks.queue)(record) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            self.dropped_unsaid.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn own_up(&self, unix_us: i64) {
        let count = self.dropped_unsaid.swap(0, Ordering::Relaxed);
        if count == 0 {
            return;
        }
        let text = format!("{count} log messages were dropped because too many came at once");
        if !(self.sinks.queue)(Record { unix_us, level: Level::Warn, text }) {
            self.dropped_unsaid.fetch_add(count, Ordering::Relaxed);
        }
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.filter()
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let unix_us = sys::unix_time_us();
        let mut text = record.args().to_string();
        text.truncate(cut(&text, RECORD_BYTES_MAX).len());
        let node_id = self.node_id.load(Ordering::Relaxed);
        let term = self.term.load(Ordering::Relaxed);
        self.sinks.ring.write(unix_us, record.level(), node_id, term, &text);
        self.pass_on(Record { unix_us, level: record.level(), text });
    }

    fn flush(&self) {}
}

fn filter_of(code: usize) -> LevelFilter {
    LevelFilter::iter().find(|filter| *filter as usize == code).unwrap_or(LevelFilter::Info)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shmem::LogRing;
    use crossbeam_channel::{Receiver, bounded};
    use std::sync::{Arc, Mutex};

    struct Outputs {
        logger: Arc<Logger>,
        queue: Receiver<Record>,
        direct: Arc<Mutex<Vec<String>>>,
        ring: LogRing,
    }

    fn logger(queue_max: usize) -> Outputs {
        let ring = LogRing::for_tests(64);
        let (sender, queue) = bounded(queue_max);
        let direct = Arc::new(Mutex::new(Vec::new()));
        let to_direct = Arc::clone(&direct);
        let sinks = Sinks {
            ring,
            queue: Box::new(move |record| sender.try_send(record).is_ok()),
            direct: Box::new(move |record| to_direct.lock().unwrap().push(record.text)),
        };
        let logger = Arc::new(Logger::new(sinks, LevelFilter::Info));
        Outputs { logger, queue, direct, ring }
    }

    impl Outputs {
        fn log(&self, level: Level, text: &str) {
            self.logger
                .log(&log::Record::builder().level(level).args(format_args!("{text}")).build());
        }

        /// From a thread that is not main.
        fn log_elsewhere(&self, level: Level, text: &str) {
            thread::scope(|scope| {
                scope.spawn(|| self.log(level, text));
            });
        }

        fn queued(&self) -> Vec<String> {
            self.queue.try_iter().map(|record| record.text).collect()
        }

        fn in_ring(&self) -> Vec<String> {
            let lines = self.ring.read(usize::MAX, LevelFilter::Trace);
            lines.into_iter().map(|line| line.text).collect()
        }
    }

    #[test]
    fn main_speaks_to_postgres_itself_and_others_by_the_queue_and_all_to_the_ring() {
        let outputs = logger(10);
        outputs.log(Level::Info, "from main");
        outputs.log_elsewhere(Level::Warn, "from elsewhere");
        assert_eq!(*outputs.direct.lock().unwrap(), ["from main"]);
        assert_eq!(outputs.queued(), ["from elsewhere"]);
        assert_eq!(outputs.in_ring(), ["from main", "from elsewhere"]);
    }

    #[test]
    fn lines_carry_node_and_term() {
        let outputs = logger(10);
        outputs.logger.set_node(3);
        outputs.logger.set_term(17);
        outputs.log(Level::Error, "x");
        let line = outputs.ring.read(1, LevelFilter::Trace).remove(0);
        assert_eq!((line.node_id, line.term, line.level), (3, 17, Level::Error));
        assert!(line.unix_us > 1_700_000_000_000_000);
    }

    #[test]
    fn the_level_and_the_debug_switch_take_effect_at_once() {
        let outputs = logger(10);
        let says = |text| {
            outputs.log(Level::Debug, text);
            outputs.in_ring().iter().any(|line| line == text)
        };
        assert!(!says("1"));
        outputs.logger.set_debug(true);
        assert!(says("2"));
        outputs.logger.set_level(LevelFilter::Error);
        assert!(says("3"), "debug holds whatever the level");
        outputs.logger.set_debug(false);
        assert!(!says("4"));
        outputs.logger.set_level(LevelFilter::Trace);
        assert!(says("5"));
        outputs.logger.set_debug(true);
        assert_eq!(outputs.logger.filter(), LevelFilter::Trace, "debug never says less");
    }

    #[test]
    fn a_full_queue_drops_and_owns_up_to_it_later() {
        let outputs = logger(2);
        for text in ["1", "2", "3", "4"] {
            outputs.log_elsewhere(Level::Info, text);
        }
        assert_eq!(outputs.logger.dropped(), 2);
        assert_eq!(outputs.queued(), ["1", "2"]);
        outputs.log_elsewhere(Level::Info, "5");
        let said = "2 log messages were dropped because too many came at once";
        assert_eq!(outputs.queued(), [said, "5"]);
        outputs.log_elsewhere(Level::Info, "6");
        assert_eq!(outputs.queued(), ["6"], "said once");
        assert_eq!(outputs.in_ring(), ["1", "2", "3", "4", "5", "6"], "the ring has them all");
    }

    #[test]
    fn endless_messages_are_cut() {
        let outputs = logger(1);
        outputs.log_elsewhere(Level::Info, &"é".repeat(1_000_000));
        assert_eq!(outputs.queued()[0].len(), RECORD_BYTES_MAX);
    }
}
