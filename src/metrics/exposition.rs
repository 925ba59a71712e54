//! The metrics as Prometheus reads them: its text format, version 0.0.4.

use std::fmt::Write;

use super::Metric;

/// What the text is, for the header of this name.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All of them, each family in one piece as the format asks for, in the order of their first ones.
pub fn exposition(metrics: &[Metric]) -> String {
    let mut families: Vec<&'static str> = Vec::new();
    for metric in metrics {
        // The same ones come one behind the other, or again with each peer.
        if families.last() != Some(&metric.family()) && !families.contains(&metric.family()) {
            families.push(metric.family());
        }
    }
    let mut text = String::with_capacity(128 * metrics.len());
    for family in families {
        let mut first = true;
        for metric in metrics.iter().filter(|metric| metric.family() == family) {
            if std::mem::take(&mut first) {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "# HELP {family} {}", escaped(metric.help, false));
                let _ = writeln!(text, "# TYPE {family} {}", metric.kind);
            }
            sample(metric, &mut text);
        }
    }
    text
}

fn sample(metric: &Metric, text: &mut String) {
    text.push_str(metric.name);
    for (number, (name, value)) in metric.labels.iter().enumerate() {
        let before = if number == 0 { '{' } else { ',' };
        let _ = write!(text, "{before}{name}=\"{}\"", escaped(value, true));
    }
    if !metric.labels.is_empty() {
        text.push('}');
    }
    let _ = writeln!(text, " {}", metric.value);
}

/// Quotes are escaped in the values of labels only.
fn escaped(text: &str, quotes: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(name: &'static str, kind: &'static str, labels: &[(&str, &str)]) -> Metric {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let labels = labels.iter().map(owned).collect();
        Metric { name, labels, value: 1.5, kind, help: "A \"path\\name\"\nof two lines" }
    }

    #[test]
    fn families_are_in_one_piece_and_texts_are_escaped() {
        let list = [
            metric("a_total", "counter", &[("peer", "2"), ("name", "x\\y\n\"z\"ü")]),
            metric("b", "gauge", &[]),
            metric("a_total", "counter", &[("peer", "3")]),
            metric("c_bucket", "histogram", &[("le", "+Inf")]),
            metric("c_sum", "histogram", &[]),
            metric("c_count", "histogram", &[]),
        ];
        let help = r#"A "path\\name"\nof two lines"#;
        let expected = [
            &format!("# HELP a_total {help}"),
            "# TYPE a_total counter",
            r#"a_total{peer="2",name="x\\y\n\"z\"ü"} 1.5"#,
            r#"a_total{peer="3"} 1.5"#,
            &format!("# HELP b {help}"),
            "# TYPE b gauge",
            "b 1.5",
            &format!("# HELP c {help}"),
            "# TYPE c histogram",
            r#"c_bucket{le="+Inf"} 1.5"#,
            "c_sum 1.5",
            "c_count 1.5",
            "",
        ];
        assert_eq!(exposition(&list).split('\n').collect::<Vec<_>>(), expected);
    }
}
