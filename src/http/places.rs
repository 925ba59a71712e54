//! The connections, and how many there may be.

use std::collections::BTreeMap;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long accepting waits for threads whose connections were closed: a few milliseconds, unless
/// the machine is very busy.
const MAKE_ROOM_MAX: Duration = Duration::from_millis(100);

/// See the file's head.
#[derive(Debug)]
pub(super) struct Places {
    connections_max: usize,
    state: Mutex<State>,
    /// A thread has ended, or the server is being stopped.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    connections: BTreeMap<u64, Connection>,
    next_id: u64,
    accepting: bool,
    stopping: bool,
}

#[derive(Debug)]
struct Connection {
    stream: Arc<TcpStream>,
    /// Since when the client is waited for; `None`: it waits for an answer.
    waiting_since: Option<Instant>,
    /// Closed by this side; its thread is about to end.
    closed: bool,
}

impl Connection {
    fn close(&mut self) {
        self.closed = true;
        // Fails only if it is closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// One connection's place; dropping it closes the connection and gives the place back.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    id: u64,
    pub(super) stream: Arc<TcpStream>,
}

impl Place {
    /// The client has sent all that it has to and waits: its place is safe. False: it was given to
    /// another before.
    pub(super) fn at_work(&self) -> bool {
        self.set_waiting_since(None)
    }

    /// It is the client's turn again.
    pub(super) fn waits(&self) {
        self.set_waiting_since(Some(Instant::now()));
    }

    fn set_waiting_since(&self, since: Option<Instant>) -> bool {
        let mut state = self.places.lock();
        let connection = state.connections.get_mut(&self.id);
        connection.is_some_and(|connection| {
            connection.waiting_since = since;
            !connection.closed
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().connections.remove(&self.id);
        // Whoever holds the stream still must not keep the connection open.
        let _ = self.stream.shutdown(Shutdown::Both);
        self.places.changed.notify_all();
    }
}

/// Held by the accepting thread.
#[derive(Debug)]
pub(super) struct Accepting(Arc<Places>);

impl Drop for Accepting {
    fn drop(&mut self) {
        self.0.lock().accepting = false;
        self.0.changed.notify_all();
    }
}

/// What becomes of a new connection.
#[derive(Debug)]
pub(super) enum Entry {
    /// It has a place.
    Place(Place),
    /// Every place is worked for.
    Full(Arc<TcpStream>),
    /// The server is being stopped.
    Stopping,
}

impl Places {
    pub(super) fn new(connections_max: usize) -> Places {
        Places { connections_max, state: Mutex::default(), changed: Condvar::new() }
    }

    /// A panic elsewhere leaves plain data that is valid as it stands.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn accepting(places: &Arc<Places>) -> Accepting {
        places.lock().accepting = true;
        Accepting(places.clone())
    }

    pub(super) fn is_accepting(&self) -> bool {
        let state = self.lock();
        state.accepting && !state.stopping
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.lock().stopping
    }

    /// A place for a new connection. If all are taken, the one whose client has been waited for
    /// longest makes room.
    pub(super) fn enter(places: &Arc<Places>, stream: TcpStream) -> Entry {
        let stream = Arc::new(stream);
        let crowded = |state: &State| state.connections.len() >= 2 * places.connections_max;
        // The threads of those that made room are about to end.
        let wait = places.changed.wait_timeout_while(places.lock(), MAKE_ROOM_MAX, |state| {
            !state.stopping && crowded(state) && state.connections.values().any(|c| c.closed)
        });
        let mut state = wait.unwrap_or_else(PoisonError::into_inner).0;
        if state.stopping {
            return Entry::Stopping;
        }
        if crowded(&state) {
            return Entry::Full(stream);
        }
        let open = || state.connections.values().filter(|connection| !connection.closed);
        if open().count() >= places.connections_max {
            let longest = open().filter_map(|connection| connection.waiting_since).min();
            let Some(longest) = longest else { return Entry::Full(stream) };
            let slow = |connection: &&mut Connection| connection.waiting_since == Some(longest);
            let mut connections = state.connections.values_mut().filter(|c| !c.closed);
            connections.find(slow).into_iter().for_each(Connection::close);
        }
        let id = state.next_id;
        state.next_id += 1;
        let waiting_since = Some(Instant::now());
        let connection = Connection { stream: stream.clone(), waiting_since, closed: false };
        state.connections.insert(id, connection);
        drop(state);
        Entry::Place(Place { places: places.clone(), id, stream })
    }

    /// Closes every connection; no new one gets a place any more.
    pub(super) fn close_all(&self) {
        let mut state = self.lock();
        state.stopping = true;
        state.connections.values_mut().for_each(Connection::close);
        drop(state);
        self.changed.notify_all();
    }

    /// The connections whose threads have not ended.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().connections.len()
    }

    /// Waits until no thread is left, at most for `limit`; how many are.
    pub(super) fn wait_for_end(&self, limit: Duration) -> usize {
        let left = |state: &State| state.connections.len() + usize::from(state.accepting);
        let wait = self.changed.wait_timeout_while(self.lock(), limit, |state| left(state) > 0);
        left(&wait.unwrap_or_else(PoisonError::into_inner).0)
    }

    /// Waits for `pause`, or until the server is stopped; whether it is.
    pub(super) fn stopping_within(&self, pause: Duration) -> bool {
        let wait = self.changed.wait_timeout_while(self.lock(), pause, |state| !state.stopping);
        wait.unwrap_or_else(PoisonError::into_inner).0.stopping
    }
}
