//! `pgraft_get_logs()` and `pgraft_get_metrics()`.

use log::LevelFilter;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::iter::TableIterator;
use pgrx::{name, pg_extern};

use crate::metrics::metrics;
use crate::pg::{report, shared};
use crate::sys;

use super::types::{Jsonb, timestamp};

#[pg_extern]
#[allow(clippy::type_complexity, reason = "pgrx wants the columns spelt out in the signature")]
fn pgraft_get_logs(
    max_lines: Option<i32>,
    min_level: Option<&str>,
) -> TableIterator<
    'static,
    (
        name!(logged_at, Option<TimestampWithTimeZone>),
        name!(level, String),
        name!(node_id, Option<i32>),
        name!(term, i64),
        name!(message, String),
    ),
> {
    let shared = shared::get_or_raise();
    let max_lines = max_lines.unwrap_or_else(|| report::raise_null("max_lines"));
    let max_lines = usize::try_from(max_lines).unwrap_or_else(|_| {
        let message = format!("invalid number of lines: {max_lines}");
        report::raise_invalid(message, "", "Use a number from 0 to 2147483647.")
    });
    let lines = shared.log().read(max_lines, checked_level(min_level));
    TableIterator::new(lines.into_iter().map(|line| {
        (
            timestamp(line.unix_us),
            line.level.as_str().to_lowercase(),
            Some(line.node_id as i32).filter(|id| *id != 0),
            line.term as i64,
            line.text,
        )
    }))
}

fn checked_level(text: Option<&str>) -> LevelFilter {
    let Some(text) = text else { return LevelFilter::Trace };
    text.parse::<log::Level>().map_or_else(
        |_| {
            report::raise_invalid(
                format!("invalid log level: \"{}\"", text.chars().take(40).collect::<String>()),
                "",
                "Available levels: error, warn, info, debug, trace.",
            )
        },
        |level| level.to_level_filter(),
    )
}

#[pg_extern]
#[allow(clippy::type_complexity, reason = "pgrx wants the columns spelt out in the signature")]
fn pgraft_get_metrics() -> TableIterator<
    'static,
    (
        name!(metric, &'static str),
        name!(labels, Jsonb),
        name!(value, f64),
        name!(kind, &'static str),
        name!(help, &'static str),
    ),
> {
    let page = shared::get_or_raise().page();
    let view = page.view().unwrap_or_default();
    let list = metrics(&view, page, sys::now_boottime_ns());
    TableIterator::new(list.into_iter().map(|metric| {
        (metric.name, Jsonb::object(&metric.labels), metric.value, metric.kind, metric.help)
    }))
}
