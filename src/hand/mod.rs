//! What the worker does to its Postgres, as far as it is plain: texts read and written, plans made.
//! `src/pg/` carries it out. It knows neither Postgres, files nor clocks.
#![forbid(unsafe_code)]

pub mod advice;
pub mod conninfo;
pub mod errand;
pub mod pace;
pub mod slots;
pub mod timeline;

use crate::raft::NodeId;

/// What node `id` is called in its primary: its slot and its `application_name`.
pub fn standby_name(id: NodeId) -> String {
    format!("pgraft_{id}")
}

/// The text without control characters, on one line and cut to `bytes_max`: what others' errors
/// say goes to places that want just that.
pub fn one_line(text: &str, bytes_max: usize) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    crate::shmem::cut(line.trim(), bytes_max).to_owned()
}
