//! Joins the layers below into a running node: the only place that starts threads.
#![forbid(unsafe_code)]

pub mod logger;
